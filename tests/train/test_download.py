"""`argan data download`, against a server on this machine."""

import dataclasses
import hashlib
import io
import tarfile
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from argan.errors import InputError, MissingFileError
from argan_train import cli
from argan_train.data import load_photos
from argan_train.download import DATASETS, Dataset, download


def make_archive():
    packed = io.BytesIO()
    rng = np.random.default_rng(0)
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for i in range(3):
            file = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(file, "PNG")
            member = tarfile.TarInfo(f"jpg/{i}.png")
            member.size = file.tell()
            file.seek(0)
            archive.addfile(member, file)
    return packed.getvalue()


ARCHIVE = make_archive()


@contextmanager
def serving(content, ranges=True, stop_after=None):
    """-> URL and the Range header of each request; closes the connection after `stop_after`."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        timeout = 5

        def do_GET(self):
            asked.append(self.headers["Range"])
            start = 0
            if ranges and self.headers["Range"]:
                start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
                self.send_response(206)
                whole = f"bytes {start}-{len(content) - 1}/{len(content)}"
                self.send_header("Content-Range", whole)
            elif self.path == "/absent":
                return self.send_error(404)
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start:stop_after])

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/x.tgz", asked
    finally:
        server.shutdown()
        thread.join(timeout=5)
        server.server_close()


@pytest.fixture(autouse=True)
def _no_proxy_and_short_waits(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("argan_train.download.TIMEOUT_S", 5)


def published(url, content=ARCHIVE):
    return Dataset("x.tgz", url, len(content), hashlib.sha256(content).hexdigest(), "no terms")


def test_what_was_downloaded_can_be_loaded(tmp_path):
    with serving(ARCHIVE) as (url, asked):
        path = download(published(url), tmp_path / "new")
    assert path == tmp_path / "new/x.tgz" and path.read_bytes() == ARCHIVE and asked == [None]
    assert list(load_photos(path, 16)[1].loaded) == ["jpg/0.png", "jpg/1.png", "jpg/2.png"]
    assert download(published("http://nowhere.invalid/"), tmp_path / "new") == path  # no network


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_stops_is_resumed(tmp_path, ranges):
    with serving(ARCHIVE, stop_after=1000) as (url, _):
        with pytest.raises(MissingFileError, match="stopped after 1,000 of .*run this again to go"):
            download(published(url), tmp_path)
    assert (tmp_path / "x.tgz.part").read_bytes() == ARCHIVE[:1000]
    with serving(ARCHIVE, ranges) as (url, asked):
        path = download(published(url), tmp_path)
    assert asked == ["bytes=1000-"] and path.read_bytes() == ARCHIVE
    assert list(tmp_path.iterdir()) == [path]


def test_a_download_that_is_whole_needs_no_network(tmp_path):
    (tmp_path / "x.tgz.part").write_bytes(ARCHIVE)
    path = download(published("http://nowhere.invalid/"), tmp_path)
    assert path.read_bytes() == ARCHIVE and list(tmp_path.iterdir()) == [path]


def test_wrong_content_is_an_error_that_removes_only_itself(tmp_path):
    (tmp_path / "other.tgz").write_bytes(b"mine")
    wrong = ARCHIVE[:-1] + bytes([ARCHIVE[-1] ^ 1])
    with serving(wrong) as (url, _):
        with pytest.raises(InputError, match="something else than the published file"):
            download(published(url), tmp_path)
        assert [f.name for f in tmp_path.iterdir()] == ["other.tgz"]
    with serving(b"<html>moved</html>") as (url, _):
        with pytest.raises(InputError, match="offers 18 bytes, the published file has"):
            download(published(url), tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["other.tgz"]
    (tmp_path / "x.tgz").write_bytes(wrong)
    with pytest.raises(InputError, match="x.tgz is not the published file .*; move it away"):
        download(published("http://nowhere.invalid/"), tmp_path)
    assert (tmp_path / "x.tgz").read_bytes() == wrong


def test_a_partial_file_of_something_else_is_found_out(tmp_path):
    (tmp_path / "x.tgz.part").write_bytes(bytes(500))
    with serving(ARCHIVE) as (url, asked):
        with pytest.raises(InputError, match="removed what came"):
            download(published(url), tmp_path)
        assert download(published(url), tmp_path).read_bytes() == ARCHIVE
        assert asked == ["bytes=500-", None]


def test_offline_is_one_line_with_the_url_and_the_place(tmp_path):
    with serving(ARCHIVE) as (url, _):
        absent = dataclasses.replace(published(url), url=url.replace("x.tgz", "absent"))
        with pytest.raises(MissingFileError, match="absent: HTTP Error 404: Not Found; try again"):
            download(absent, tmp_path)
    with pytest.raises(MissingFileError) as caught:  # the server is gone
        download(published(url), tmp_path)
    message = str(caught.value)
    assert url in message and f"put it at {tmp_path}/x.tgz and run this again" in message
    assert "\n" not in message and not list(tmp_path.iterdir())


def test_the_command_prints_the_terms_first(tmp_path, monkeypatch, capsys):
    with serving(ARCHIVE) as (url, _):
        monkeypatch.setitem(DATASETS, "lfw", published(url))
        assert cli.data_command(["download", "lfw", "-o", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"no terms\n0 MB from {url}\n{tmp_path}/x.tgz\n"
    monkeypatch.setitem(DATASETS, "lfw", published(url, b"else"))
    assert cli.data_command(["download", "lfw", "-o", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"argan: {tmp_path}/x.tgz is not the published file")


def test_the_published_sets_are_described():
    assert list(DATASETS) == ["flowers", "cub", "lfw"]
    for dataset in DATASETS.values():
        assert dataset.url.startswith("https://") and len(bytes.fromhex(dataset.sha256)) == 32
        assert "licence" in dataset.terms and dataset.size > 100_000_000
