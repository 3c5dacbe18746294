"""Refocus a folder of photos on a cluster, by Ray Data: one model per worker, a mirrored tree out.

    pip install "ray[data]" argan
    python examples/cluster_refocus.py PHOTOS OUT [--workers 8] [--f-number 1.8]

PHOTOS and OUT are folders, or what pyarrow can reach: s3://bucket/photos, gs://..., hdfs://...
Every result has the bytes that `argan refocus --source model` writes. A second run does the photos
that have no result yet.
"""

import argparse
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.fs
import ray

import argan
from argan.photo import READ_SUFFIXES, SUFFIXES


class Refocus:
    """A worker: it keeps its model, and takes photos in batches of {"path": names below PHOTOS}."""

    def __init__(self, photos: str, out: str, f_number: float, threads: int) -> None:
        self.photos, self.photo_root = pyarrow.fs.FileSystem.from_uri(photos)
        self.out, self.out_root = pyarrow.fs.FileSystem.from_uri(out)
        self.f_number, self.model = f_number, argan.load(threads=threads)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        return {"path": list(batch["path"]), "error": [self.one(path) for path in batch["path"]]}

    def one(self, path: str) -> str:
        """-> what went wrong, or nothing."""
        with tempfile.TemporaryDirectory() as folder:
            local, done = Path(folder, PurePosixPath(path).name), Path(folder, result(path).name)
            try:
                with self.photos.open_input_stream(f"{self.photo_root}/{path}") as file:
                    local.write_bytes(file.read())
                self.model.refocus(local, f_number=self.f_number).image.save(done)
                target = f"{self.out_root}/{result(path)}"
                self.out.create_dir(str(PurePosixPath(target).parent))
                with self.out.open_output_stream(f"{target}.part") as file:
                    file.write(done.read_bytes())
                self.out.move(f"{target}.part", target)
            except (argan.Error, OSError) as error:
                return " ".join(str(error).replace(str(local), path).split())
        return ""


def result(path: str) -> PurePosixPath:
    """IN_bokeh.jpg for IN.jpg, as `argan refocus` names it."""
    name = PurePosixPath(path)
    suffix = name.suffix if name.suffix.lower() in SUFFIXES else ".jpg"
    return name.with_name(f"{name.stem}_bokeh{suffix}")


def listed(uri: str) -> list[str]:
    """Names of the files below a folder, from it."""
    system, root = pyarrow.fs.FileSystem.from_uri(uri)
    below = pyarrow.fs.FileSelector(root, recursive=True, allow_not_found=True)
    found = system.get_file_info(below)
    return sorted(f.path.removeprefix(f"{root}/") for f in found if f.is_file)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos")
    parser.add_argument("out")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of each worker")
    parser.add_argument("--f-number", type=float, default=1.8)
    options = parser.parse_args()
    photos, out = (str(Path(uri).resolve()) if "://" not in uri else uri
                   for uri in (options.photos, options.out))  # fmt: skip
    there = set(listed(out))
    paths = [
        path
        for path in listed(photos)
        if PurePosixPath(path).suffix.lower() in READ_SUFFIXES
        and not any(part.startswith(".") for part in path.split("/"))
        and str(result(path)) not in there
    ]
    failed = 0
    if paths:
        rows = ray.data.from_items([{"path": path} for path in paths]).map_batches(
            Refocus,
            fn_constructor_args=(photos, out, options.f_number, options.threads),
            batch_size=4,
            num_cpus=options.threads,
            compute=ray.data.ActorPoolStrategy(size=options.workers),
        )
        for row in rows.iter_rows():
            if row["error"]:
                failed += 1
                print(f"{row['path']}: {row['error']}")
    print(f"{len(paths) - failed} photos refocused, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
