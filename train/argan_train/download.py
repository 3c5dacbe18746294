"""`argan data download`: the official archives of three sets of photos, checked byte for byte.

They stay packed: `argan train --data` and `argan data prepare` read them as they are.
"""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

import argan
from argan.errors import InputError, MissingFileError

TIMEOUT_S = 30  # without a byte
CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Dataset:
    """A published archive of photos.

    file    its name
    url     where it is published
    size    bytes
    sha256  of the archive
    terms   what is known of its licence, to be read before it is used
    """

    file: str
    url: str
    size: int
    sha256: str
    terms: str


DATASETS = {
    "flowers": Dataset(
        file="102flowers.tgz",
        url="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/102flowers.tgz",
        # Both from tensorflow/datasets, tensorflow_datasets/url_checksums/oxford_flowers102.txt
        size=344_862_509,
        sha256="2d01ecc807db462958cfe3d92f57a8c252b4abd240eb955770201e45f783b246",
        terms="""Oxford Flowers 102: 8,189 photos of flowers, shorter side 500 px or more.
No licence is stated; most photos come from the web and belong to their photographers.
Cite: M-E. Nilsback, A. Zisserman, Automated flower classification over a large number of classes,
ICVGIP 2008. https://www.robots.ox.ac.uk/~vgg/data/flowers/102/""",
    ),
    "cub": Dataset(
        file="CUB_200_2011.tgz",
        url="https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
        # Both from tensorflow/datasets, tensorflow_datasets/url_checksums/caltech_birds2011.txt
        size=1_150_585_339,
        sha256="0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
        terms="""Caltech-UCSD Birds-200-2011: 11,788 photos of birds.
No licence is known for the photos; they come from Flickr and belong to their photographers.
Cite: C. Wah, S. Branson, P. Welinder, P. Perona, S. Belongie, The Caltech-UCSD Birds-200-2011
Dataset, CNS-TR-2011-001. https://www.vision.caltech.edu/datasets/cub_200_2011/""",
    ),
    "lfw": Dataset(
        file="lfw.tgz",
        # The university's own http://vis-www.cs.umass.edu/lfw/lfw.tgz is gone; this copy of the
        # same bytes is the one that scikit-learn uses (sklearn/datasets/_lfw.py has URL and hash).
        url="https://ndownloader.figshare.com/files/5976018",
        # From tensorflow/datasets, tensorflow_datasets/url_checksums/lfw.txt
        size=180_566_744,
        sha256="055f7d9c632d7370e6fb4afc7468d40f970c34a80d4c6f50ffec63f5a8d536c0",
        terms="""Labeled Faces in the Wild: 13,233 photos of 5,749 people, 250x250 px.
No licence is stated; made for research from news photos. They show real people who were not
asked: publish none, and no weights learnt from them without saying so.
Cite: G. B. Huang, M. Ramesh, T. Berg, E. Learned-Miller, Labeled Faces in the Wild, UMass Amherst
TR 07-49, 2007. http://vis-www.cs.umass.edu/lfw/""",
    ),
}


def download(dataset: Dataset, folder: Path) -> Path:
    """-> the archive in `folder`, its size and hash verified.

    One that is there already is verified and used. A download that stops is resumed by the next
    call. InputError for content that is not the published one, of which only the download itself is
    removed; MissingFileError where the network gives nothing.
    """
    target = folder / dataset.file
    part = target.with_name(target.name + ".part")
    try:
        if target.exists():
            if is_published(target, dataset):
                return target
            raise InputError(
                f"{target} is not the published file ({dataset.size:,} bytes, sha256"
                f" {dataset.sha256}); move it away and run this again"
            )
        folder.mkdir(parents=True, exist_ok=True)
        if not part.exists() or part.stat().st_size != dataset.size:
            fetch(dataset, part, target)
        if not is_published(part, dataset):
            part.unlink()
            raise InputError(
                f"{dataset.url} gave something else than the published file (sha256"
                f" {dataset.sha256}); removed what came: run this again, or put the file at"
                f" {target} by hand"
            )
        part.replace(target)
    except OSError as error:
        if isinstance(error, argan.Error):
            raise
        raise InputError(f"{error.filename or folder}: {error.strerror or error}") from error
    return target


def is_published(path: Path, dataset: Dataset) -> bool:
    if path.stat().st_size != dataset.size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == dataset.sha256


def fetch(dataset: Dataset, part: Path, target: Path) -> None:
    """Bring the bytes that `part` lacks; MissingFileError, and `part` stays, where that fails."""
    by_hand = f"or download it elsewhere, put it at {target} and run this again"
    have = part.stat().st_size if part.exists() else 0
    if have > dataset.size:  # of something else
        have = 0
    headers = {"User-Agent": f"argan/{argan.__version__}"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        request = urllib.request.Request(dataset.url, headers=headers)
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except (OSError, http.client.HTTPException) as error:
        text = str(error.reason if type(error) is urllib.error.URLError else error)
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise MissingFileError(f"{dataset.url}: {text}; try again, {by_hand}") from error
    trouble = "the server closed the connection"
    with response:
        if not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            have = 0  # all of it comes
        length = response.headers.get("Content-Length")
        if length and have + int(length) != dataset.size:
            raise InputError(
                f"{dataset.url} offers {have + int(length):,} bytes, the published file has"
                f" {dataset.size:,}; try again later, {by_hand}"
            )
        with (
            part.open("ab" if have else "wb") as file,
            tqdm(
                desc=dataset.file, initial=have, total=dataset.size, unit="B", unit_scale=True,
                disable=None,
            ) as bar,
        ):  # fmt: skip
            while have <= dataset.size:
                try:
                    block = response.read1(CHUNK_BYTES)
                except (OSError, http.client.HTTPException) as error:
                    trouble = str(error)
                    break
                if not block:
                    break
                file.write(block)
                have += len(block)
                bar.update(len(block))
    if have < dataset.size:
        raise MissingFileError(
            f"{dataset.url} stopped after {have:,} of {dataset.size:,} bytes ({trouble}); run this"
            f" again to go on from there, {by_hand}"
        )
