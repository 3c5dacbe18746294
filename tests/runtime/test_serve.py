"""`argan serve` as a process of its own, on a port of the loopback interface that was free."""

import asyncio
import concurrent.futures
import contextlib
import http.client
import io
import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import argan
from argan import photo
from argan.cli import main
from argan.optics import Pupil
from argan.serve.work import Crew, Limits, Problem

EXTRA = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")
TINY = Path(__file__).parents[1] / "data" / "tiny.argan"
RNG = np.random.default_rng(5)
PIXELS = RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8)
ARGAN = ("-m", "argan")
BOUNDARY = "a-line-that-no-photo-has"


def encoded(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


JPEG = encoded(PIXELS, "JPEG", quality=95)
PNG = encoded(PIXELS, "PNG")
WEBP = encoded(PIXELS, "WEBP")


def png(width: int, height: int, pixels: bytes) -> bytes:
    """A 1-bit PNG, whatever its header says of its size."""

    def chunk(name: bytes, body: bytes) -> bytes:
        check = zlib.crc32(name + body)
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def form(fields: dict[str, str], *photos: bytes, name: str = "photo") -> bytes:
    parts = [f'"{field}"\r\n\r\n{value}'.encode() for field, value in fields.items()]
    head = f'"{name}"; filename="../../x.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'.encode()
    parts += [head + data for data in photos]
    lead = f"--{BOUNDARY}\r\nContent-Disposition: form-data; name=".encode()
    return b"".join(lead + part + b"\r\n" for part in parts) + f"--{BOUNDARY}--\r\n".encode()


FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
PLAIN = {"Content-Type": "image/jpeg"}


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    data: bytes

    @property
    def problem(self) -> str:
        """Its one line."""
        assert self.headers["Content-Type"] == "application/problem+json", self
        said = json.loads(self.data)
        assert said["status"] == self.status and said["title"] and said["type"] == "about:blank"
        detail = said["detail"]
        assert "\n" not in detail and len(detail) < 300
        assert "argan-" not in detail and "Error" not in detail  # no path, no kind of exception
        return detail


@dataclass
class Server:
    process: subprocess.Popen[str]
    port: int
    folder: Path  # where it may put temporary files

    def ask(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None,
        chunked: bool = False,
    ) -> Answer:  # fmt: skip
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {}, encode_chunked=chunked)
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())

    def post(self, path: str, body: object, headers: dict[str, str] | None = None) -> Answer:
        return self.ask("POST", path, body, PLAIN if headers is None else headers)

    def metric(self, name: str, **labels: str) -> float:
        text = self.ask("GET", "/metrics").data.decode()
        words = ",".join(f'{key}="{value}"' for key, value in labels.items())
        line = re.escape(f"{name}{{{words}}}" if words else name)
        found = re.search(rf"^{line} (.*)$", text, re.M)
        return float(found[1]) if found else 0.0

    def until(self, name: str, value: float, seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while self.metric(name) != value:
            assert time.monotonic() < end, f"{name} is {self.metric(name)}, not {value}"
            time.sleep(0.02)

    def socket(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)


@contextlib.contextmanager
def serving(folder: Path, *options: str, program: Sequence[str] = ARGAN) -> Iterator[Server]:
    """A server, and what holds for each: it ends within seconds of SIGTERM with exit code 0, has
    complained of nothing, and left no file."""
    for package in EXTRA:
        pytest.importorskip(package, reason=f"{package} is part of the extra serve")
    process = subprocess.Popen(
        [sys.executable, *program, "serve", TINY, "--port", "0", "--threads", "1", *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder,
        env={**os.environ, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        line = process.stdout.readline()
        assert line.startswith("argan serve: http://127.0.0.1:"), line + process.stderr.read()
        yield Server(process, int(re.search(r":(\d+) ", line)[1]), folder)
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
        assert time.monotonic() - begun < 10
        assert (process.returncode, out, err) == (0, "", "")
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    limits = ["--max-bytes", "1MB", "--max-pixels", "2MP", "--workers", "2", "--queue", "8"]
    with serving(folder, *limits) as server:
        yield server
    assert not list(folder.glob("argan*"))


@pytest.fixture(scope="module")
def refocuser() -> argan.Refocuser:
    return argan.load(TINY, threads=1)


def written(tmp_path: Path, name: str, data: bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


# ---------------------------------------------------------------- photos

LOOKS = [
    ({}, {}),
    ({"f_number": "1.2", "focus": "10,20"}, {"f_number": 1.2, "focus": (10, 20)}),
    ({"strength": "9", "focus": "-0.5", "quality": "preview"},
     {"strength": 9, "focus": -0.5, "quality": "preview"}),
    ({"blur": "9", "focus": "0", "blades": "5", "rotation": "90", "rim": "0.5", "highlights": "0"},
     {"blur": 9, "focus": 0, "pupil": Pupil(5, np.pi / 2, rim=0.5), "highlights": 0}),
    ({"blur": "9", "tilt": "30", "tilt_toward": "0", "keep": "0.1,0.2"},
     {"blur": 9, "tilt": 30, "tilt_toward": 0, "keep": (0.1, 0.2)}),
    ({"blur": "9", "focus_plane": "1,1 60,2 3,40"},
     {"blur": 9, "focus": ((1, 1), (60, 2), (3, 40))}),
]  # fmt: skip


@pytest.mark.parametrize("fields, options", LOOKS)
def test_refocus_is_argan_refocus_to_the_byte(server, refocuser, tmp_path, fields, options):
    result = refocuser.refocus(written(tmp_path, "photo.jpg", JPEG), **options)
    result.image.save(tmp_path / "bokeh.jpg")
    answer = server.post("/refocus", form(fields, JPEG), FORM)
    assert answer.status == 200 and answer.headers["Content-Type"] == "image/jpeg"
    assert answer.data == (tmp_path / "bokeh.jpg").read_bytes()
    assert float(answer.headers["Argan-Focus"]) == pytest.approx(result.focus, rel=1e-5)


@pytest.mark.parametrize("kind, query, accept", [
    ("jpg", "?blur=9", "*/*"),
    ("jpg", "?blur=9&format=jpeg", "image/png"),
    ("png", "?blur=9", "image/png"),
    ("png", "?blur=9", "text/html, image/*;q=0.2, image/png;q=0.5"),
    ("webp", "?blur=9&format=webp", "*/*"),
])  # fmt: skip
def test_formats(server, refocuser, tmp_path, kind, query, accept):
    result = refocuser.refocus(written(tmp_path, "photo.webp", WEBP), blur=9)
    result.image.save(tmp_path / f"bokeh.{kind}")
    headers = {"Content-Type": "application/octet-stream", "Accept": accept}
    answer = server.post("/refocus" + query, WEBP, headers)
    assert answer.headers["Content-Type"] == f"image/{kind}".replace("jpg", "jpeg")
    assert answer.data == (tmp_path / f"bokeh.{kind}").read_bytes()


def test_16_bits_stay(server, refocuser, tmp_path):
    deep = photo.Photo(PIXELS.astype(np.uint16) * 257)
    deep.save(tmp_path / "deep.png")
    data = (tmp_path / "deep.png").read_bytes()
    answer = server.post("/refocus?blur=9&format=png", data)
    pixels = photo.load(written(tmp_path, "answer.png", answer.data)).pixels
    np.testing.assert_array_equal(pixels, refocuser.refocus(deep, blur=9).image.pixels)
    assert pixels.dtype == np.uint16


@pytest.mark.parametrize("kind", ["TIFF", "AVIF"])
def test_other_photos_come_in(server, refocuser, kind):
    data = photo.encode(photo.Photo(PIXELS), kind)
    answer = server.post("/refocus?blur=9&format=png", data, {"Content-Type": f"image/{kind}"})
    expected = refocuser.refocus(photo.decode(data), blur=9).image.pixels
    np.testing.assert_array_equal(photo.decode(answer.data).pixels, expected)


@pytest.mark.parametrize("query, accept, kind, colormap", [
    ("", "*/*", "png", None),
    ("", "application/x-npy", "npy", None),
    ("?format=npy", "*/*", "npy", None),
    ("?colormap=viridis", "*/*", "png", "viridis"),
])  # fmt: skip
def test_depth_is_argan_depth_to_the_byte(
    server, refocuser, tmp_path, query, accept, kind, colormap
):
    disparity = refocuser.depth(written(tmp_path, "photo.png", PNG))
    photo.save_disparity(tmp_path / f"depth.{kind}", disparity, colormap)
    answer = server.post(f"/depth{query}", PNG, {**PLAIN, "Accept": accept})
    assert answer.status == 200 and answer.headers["Content-Type"].endswith(kind)
    assert answer.data == (tmp_path / f"depth.{kind}").read_bytes()


def test_clients_at_the_same_time_get_what_is_theirs(server, refocuser, tmp_path):
    expected = {}
    for blur in range(5):
        refocuser.refocus(written(tmp_path, "a.png", PNG), blur=blur).image.save(tmp_path / "b.png")
        expected[blur] = (tmp_path / "b.png").read_bytes()
    assert len(set(expected.values())) == 5

    def client(first: int) -> list[bool]:
        blurs = [(first + step) % 5 for step in range(5)]
        answers = [server.post(f"/refocus?blur={blur}&format=png", PNG) for blur in blurs]
        return [a.data == expected[b] for a, b in zip(answers, blurs, strict=True)]

    with concurrent.futures.ThreadPoolExecutor(8) as clients:
        assert all(map(all, clients.map(client, range(8))))


def test_several_requests_on_one_connection(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    with contextlib.closing(connection):
        for body, status in ((JPEG, 200), (b"no photo", 415), (JPEG, 200)):
            connection.request("POST", "/depth", body, PLAIN)
            answer = connection.getresponse()
            assert (answer.status, len(answer.read()) > 0) == (status, True)


# ---------------------------------------------------------------- what is refused

HUGE_WEBP = bytearray(encoded(PIXELS, "WEBP", lossless=True))
_at = HUGE_WEBP.index(b"VP8L") + 9  # 14 bits of width, 14 of height
HUGE_WEBP[_at : _at + 4] = ((16383 - 1) | (16383 - 1) << 14).to_bytes(4, "little")
HUGE_JPEG = bytearray(JPEG)
_at = HUGE_JPEG.index(b"\xff\xc0") + 5
HUGE_JPEG[_at : _at + 4] = struct.pack(">HH", 60000, 60000)
ZIP_BOMB = encoded(np.zeros((8000, 8000), np.uint8), "TIFF", compression="tiff_adobe_deflate")
ODD = {"Content-Type": f"{FORM['Content-Type']}; charset=undefined"}
NO_FILE = form({"photo": "file:///etc/hostname"})

REFUSED = [
    # name, status, body, headers, query, a word of the message
    ("png-header", 413, png(100_000, 100_000, b""), PLAIN, "", "2 million pixels"),
    ("png-bomb", 413, png(5000, 5000, bytes(626 * 5000)), PLAIN, "", "2 million pixels"),
    ("webp-header", 413, bytes(HUGE_WEBP), PLAIN, "", "2 million pixels"),
    ("jpeg-header", 413, bytes(HUGE_JPEG), PLAIN, "", "2 million pixels"),
    ("form-bomb", 413, form({}, png(100_000, 100_000, b"")), FORM, "", "2 million pixels"),
    ("tiff-bomb", 413, ZIP_BOMB, {"Content-Type": "image/tiff"}, "", "2 million pixels"),
    ("bytes", 413, bytes(1_000_001), PLAIN, "", "larger than 1 MB"),
    ("form-bytes", 413, form({}, bytes(1_000_000)), FORM, "", "larger than 1 MB"),
    ("text", 415, b"I am no photo.", PLAIN, "", "JPEG, PNG, WebP"),
    ("gif", 415, encoded(PIXELS[..., 0], "GIF"), {"Content-Type": "image/gif"}, "", "WebP"),
    ("svg", 415, b"<svg xmlns='http://www.w3.org/2000/svg'/>", PLAIN, "", "JPEG, PNG, WebP"),
    ("type", 415, JPEG, {"Content-Type": "text/plain"}, "", "Content-Type: image/jpeg"),
    ("curl", 415, JPEG, {"Content-Type": "application/x-www-form-urlencoded"}, "", "form"),
    ("json", 415, b'{"url": "http://a/"}', {"Content-Type": "application/json"}, "", "form"),
    ("cut-jpeg", 400, JPEG[:2000], PLAIN, "", "damaged or cut short"),
    ("cut-png", 400, PNG[:2000], PLAIN, "", "damaged or cut short"),
    ("cut-webp", 400, WEBP[:1000], PLAIN, "", "damaged or cut short"),
    ("cut-head", 400, JPEG[:2], PLAIN, "", "damaged or cut short"),
    ("empty", 400, b"", PLAIN, "", "no photo"),
    ("empty-form", 400, form({}), FORM, "", "no file 'photo'"),
    ("no-file", 400, NO_FILE, FORM, "", "no file 'photo'"),
    ("other-file", 400, form({}, JPEG, name="image"), FORM, "", "no file 'photo'"),
    ("two-photos", 400, form({}, JPEG, JPEG), FORM, "", "Too many files"),
    ("cut-form", 400, form({}, JPEG)[:2000], FORM, "", "no file 'photo'"),
    ("broken-form", 400, b"--" + JPEG, FORM, "", "broken"),
    ("no-boundary", 400, JPEG, {"Content-Type": "multipart/form-data"}, "", "boundary"),
    ("charset", 400, form({}, JPEG), ODD, "", "no text"),
    ("long-field", 400, form({"focus": "1" * 20_000}, JPEG), FORM, "", "exceeded"),
    ("many-fields", 400, form({f"f{n}": "" for n in range(70)}, JPEG), FORM, "", "Too many"),
    ("unknown", 422, JPEG, PLAIN, "?fnumber=2", "fnumber: no such parameter"),
    ("unknown-field", 422, form({"url": "http://127.0.0.1/"}, JPEG), FORM, "", "no such parameter"),
    ("twice", 422, form({"blur": "1"}, JPEG), FORM, "?blur=1", "give it once"),
    ("no-number", 422, JPEG, PLAIN, "?blur=much", "blur: "),
    ("f-number", 422, JPEG, PLAIN, "?f_number=-1", "f-number -1"),
    ("nan", 422, JPEG, PLAIN, "?blur=nan", "blur nan"),
    ("both", 422, JPEG, PLAIN, "?blur=2&strength=3", "exclude each other"),
    ("blades", 422, JPEG, PLAIN, "?blades=2", "give 3 to 11"),
    ("outside", 422, JPEG, PLAIN, "?focus=64,0", "outside the photo"),
    ("metres", 422, JPEG, PLAIN, "?focus=1.5m", "needs depth in metres"),
    ("format", 422, JPEG, PLAIN, "?format=gif", "format: "),
    ("accept", 406, JPEG, {**PLAIN, "Accept": "text/html, image/avif"}, "", "image/jpeg"),
]  # fmt: skip


@pytest.mark.parametrize(
    "status, body, headers, query, word", [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_refused(server, status, body, headers, query, word):
    answer = server.post(f"/refocus{query}", body, headers)
    assert (answer.status, word in answer.problem) == (status, True), answer.data


def test_depth_refuses_as_well(server):
    assert server.post("/depth", png(100_000, 100_000, b"")).status == 413
    assert "format=png" in server.post("/depth?format=npy&colormap=inferno", JPEG).problem
    assert server.post("/depth?blur=3", JPEG).status == 422


def test_other_paths(server):
    for method, path, status in (
        ("GET", "/refocus", 405), ("GET", "/docs", 404), ("GET", "/../../etc/hostname", 404),
    ):  # fmt: skip
        answer = server.ask(method, path)
        assert (answer.status, "GET /" in answer.problem) == (status, True)
    for sent, status in ((b"no HTTP", 400), (b"GET / HTTP/1.1\r\nHost: [a/..:x%", 200)):
        with server.socket() as raw:
            raw.sendall(sent + b"\r\n\r\n")
            assert raw.recv(100).startswith(b"HTTP/1.1 %d " % status)


def peak_kb(process: subprocess.Popen[str]) -> int:
    status = Path(f"/proc/{process.pid}/status")
    return int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) if status.exists() else 0


@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_without_end_is_not_collected(server, chunked):
    """300 MB in pieces of 1 MB, beyond the limit of 1 MB: refused early, none of it is kept."""
    server.post("/refocus", JPEG)
    before = peak_kb(server.process)
    piece, sent = bytes(1 << 20), 0
    headers = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 300000000"
    with server.socket() as raw:
        raw.sendall(b"POST /refocus HTTP/1.1\r\nHost: a\r\n%s\r\n\r\n" % headers)
        answered = False
        while sent < 300 and not answered:
            raw.sendall(b"100000\r\n%s\r\n" % piece if chunked else piece)
            sent += 1
            answered = bool(select.select([raw], [], [], 0.01)[0])
        assert raw.recv(100).startswith(b"HTTP/1.1 413 ")
    assert sent < 30
    assert peak_kb(server.process) - before < 6000  # seen: 0 to 300
    assert server.post("/refocus", JPEG).status == 200


# ---------------------------------------------------------------- for whoever watches


def test_metrics(server):
    names = {
        "argan_requests_total": {"path": "/refocus", "status": "200"},
        "argan_request_seconds_count": {"path": "/refocus"},
        'argan_requests_total{path="/refocus",status="415"}': {},
        'argan_requests_total{path="other",status="404"}': {},
        "argan_received_bytes_total": {},
        "argan_sent_bytes_total": {},
        "argan_photo_pixels_total": {},
    }

    def read() -> list[float]:
        text = server.ask("GET", "/metrics").data.decode()
        lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
        words = [
            name + ("{" + ",".join(f'{k}="{v}"' for k, v in labels.items()) + "}" if labels else "")
            for name, labels in names.items()
        ]
        return [float(lines.get(word, 0)) for word in words]

    before = read()
    answer = server.post("/refocus", JPEG)
    server.post("/refocus", b"no photo")
    server.ask("GET", "/no/such/path")
    ok, seconds, refused, other, received, sent, pixels = np.subtract(read(), before)
    assert (ok, seconds, refused, other) == (1, 2, 1, 1)
    assert received == len(JPEG) + len(b"no photo") and pixels == 48 * 64
    assert sent > len(answer.data)
    gauges = ("photos_at_work", "queue_length", "held_bytes", "unsent_bytes")
    assert [server.metric(f"argan_{gauge}") for gauge in gauges] == [0] * 4
    assert server.metric("argan_requests_in_flight") == 1  # the question itself
    if sys.platform == "linux":
        assert server.metric("process_resident_memory_bytes") > 1e7


def test_health(server):
    answer = server.ask("GET", "/healthz")
    assert answer.status == 200
    assert json.loads(answer.data) == {
        "status": "ok", "version": argan.__version__, "model": "tiny"
    }  # fmt: skip


def test_described(server):
    """OpenAPI: every parameter in words, in query and form; every refusal with an example. No page
    that loads anything from elsewhere."""
    described = json.loads(server.ask("GET", "/openapi.json").data)
    assert set(described["paths"]) == {"/", "/refocus", "/depth", "/healthz", "/metrics"}
    for path in ("/refocus", "/depth"):
        post = described["paths"][path]["post"]
        query = {p["name"]: p for p in post["parameters"]}
        body = post["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
        assert set(body) == {*query, "photo"} and len(query) > 1
        assert all(len(p["description"]) > 10 for p in query.values())
        assert all(p["schema"].get("examples") for p in query.values())
        assert post["responses"]["503"]["headers"]["Retry-After"]
        assert {"200", "400", "406", "408", "413", "415", "422", "503"} == set(post["responses"])
        for status, answer in post["responses"].items():
            kinds = answer["content"]
            assert status == "200" or kinds["application/problem+json"]["example"]["detail"]
        assert set(post["responses"]["200"]["content"]) > {"image/png"}
    about = server.ask("GET", "/")
    assert f"http://127.0.0.1:{server.port}/refocus" in about.data.decode()
    assert about.headers["Cache-Control"] == "no-store"


# ---------------------------------------------------------------- slow clients, much work

HEAD = b"POST /depth HTTP/1.1\r\nHost: a\r\nContent-Length: 9999\r\n"


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("hasty"), "--timeout", "1") as server:
        yield server


def trickle(raw: socket.socket, seconds: float = 15) -> bytes:
    """Send a byte now and then until something comes back, or b"" for a connection that is cut."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            raw.sendall(b"x")
            if select.select([raw], [], [], 0.1)[0]:
                return raw.recv(1000)
        except ConnectionError:
            return b""
    raise AssertionError(f"nothing for {seconds} s")


def test_slow_senders(hasty):
    begun = time.monotonic()
    with hasty.socket() as body, hasty.socket() as head, hasty.socket() as silent:
        body.sendall(HEAD + b"Content-Type: image/jpeg\r\n\r\n")
        head.sendall(HEAD + b"X: ")
        assert trickle(body).startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - begun > 0.9
        assert trickle(head) == b""
        assert silent.recv(1) == b""
        assert hasty.metric("argan_held_bytes") == 0
    assert time.monotonic() - begun < 15


def test_the_time_begins_anew_with_each_answer(hasty):
    with hasty.socket() as raw:
        for _ in range(4):
            raw.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
            time.sleep(0.35)
            assert raw.recv(1000).startswith(b"HTTP/1.1 200 ")
        raw.sendall(b"GET /healthz HTTP/1.1\r\nX: ")
        assert trickle(raw) == b""


def test_slow_readers(hasty):
    """An answer of 8 MB that nobody fetches does not stay in memory."""
    data = encoded(np.zeros((1400, 1500), np.uint8), "PNG")
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect(("127.0.0.1", hasty.port))
        head = b"POST /depth?format=npy HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\n"
        raw.sendall(head + b"Content-Length: %d\r\n\r\n" % len(data) + data)
        assert select.select([raw], [], [], 20)[0]
        assert hasty.metric("argan_unsent_bytes") > 1e6
        hasty.until("argan_unsent_bytes", 0)


def test_hanging_up_while_sending(hasty):
    with hasty.socket() as raw:
        raw.sendall(HEAD + b"Content-Type: image/jpeg\r\n\r\n" + JPEG[:1000])
        hasty.until("argan_held_bytes", 1000)
    hasty.until("argan_held_bytes", 0)
    assert hasty.metric("argan_requests_total", path="/depth", status="499") == 1


ENDLESS = """
import sys, time
from argan.cli import main
from argan.serve import work
work.depth = lambda *_: time.sleep(600)
sys.exit(main(sys.argv[1:]))
"""


def test_more_work_than_time(tmp_path):
    """A photo at work, one in the queue whose client hangs up, another, one too many; then the time
    is over. SIGTERM does not wait for the thread that is still at it."""
    with (
        serving(tmp_path, "--timeout", "3", "--queue", "1", program=("-c", ENDLESS)) as server,
        concurrent.futures.ThreadPoolExecutor(2) as clients,
    ):
        begun = time.monotonic()
        first = clients.submit(server.post, "/depth", JPEG)
        server.until("argan_photos_at_work", 1)
        with server.socket() as gone:
            head = HEAD.replace(b"9999", b"%d" % len(JPEG)) + b"Content-Type: image/jpeg\r\n\r\n"
            gone.sendall(head + JPEG)
            server.until("argan_queue_length", 1)
        server.until("argan_queue_length", 0)
        assert server.metric("argan_requests_total", path="/depth", status="499") == 1
        second = clients.submit(server.post, "/refocus", JPEG)
        server.until("argan_queue_length", 1)
        third = server.post("/refocus", JPEG)
        assert (third.status, "queue is full" in third.problem) == (503, True)
        assert 1 <= int(third.headers["Retry-After"]) <= 60
        for late in (first.result(), second.result()):
            assert (late.status, "not done within 3 s" in late.problem) == (503, True)
            assert late.headers["Retry-After"]
        assert time.monotonic() - begun < 20
        assert server.metric("argan_queue_length") == 0
        answer = server.ask("GET", "/healthz")
        assert (answer.status, json.loads(answer.data)["status"]) == (503, "stuck")


def test_sigterm_lets_photos_be_finished(tmp_path):
    blocks = np.kron(PIXELS[:40, :40], np.ones((35, 35, 1), np.uint8))  # 1400 x 1400
    data = encoded(blocks, "JPEG")
    with serving(tmp_path) as server, concurrent.futures.ThreadPoolExecutor(2) as clients:
        first = clients.submit(server.post, "/refocus?focus=0.5&strength=5", data)
        server.until("argan_photos_at_work", 1)
        waiting = clients.submit(server.post, "/depth", JPEG)
        server.until("argan_queue_length", 1)
        server.process.send_signal(signal.SIGTERM)
        assert first.result().status == 200 and waiting.result().status == 200


# ---------------------------------------------------------------- the crew alone


def test_crew():
    """Who is refused, who is late, and that a thread counts as taken until it is done."""

    async def story() -> None:
        crew = Crew(Limits(timeout=0.5, workers=1, queue=1))
        first = asyncio.create_task(crew.run(gate.wait))
        second = asyncio.create_task(crew.run(lambda: 2))
        await asyncio.sleep(0.05)
        assert (crew.at_work, crew.waiting, crew.stuck) == (1, 1, False)
        with pytest.raises(Problem, match="the queue is full; try again in 2 s"):
            await crew.run(lambda: 3)
        for late in (first, second):
            with pytest.raises(Problem, match="not done within 0.5 s"):
                await late
        assert (crew.at_work, crew.waiting, crew.stuck) == (1, 0, True)
        gone = asyncio.create_task(crew.run(lambda: 4))
        await asyncio.sleep(0)
        assert crew.waiting == 1
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        assert (crew.at_work, crew.waiting) == (1, 0)
        gate.set()
        while crew.at_work:
            await asyncio.sleep(0.01)
        assert not crew.stuck
        assert await crew.run(lambda: 5) == 5
        with pytest.raises(ZeroDivisionError):
            await crew.run(lambda: 1 // 0)
        with pytest.raises(TimeoutError):  # of its own
            await crew.run(impatient)
        assert (crew.at_work, crew.waiting, crew.overdue) == (0, 0, 0)

    def impatient() -> None:
        raise TimeoutError

    gate = threading.Event()
    try:
        asyncio.run(story())
    finally:
        gate.set()  # or the thread would wait for ever


def test_crew_holds_no_more_than_its_share():
    crew = Crew(Limits(max_bytes=100, workers=1, queue=1))
    crew.hold(150)
    with pytest.raises(Problem, match="too many photos are being sent") as caught:
        crew.hold(51)
    assert caught.value.status == 503
    crew.hold(-150)
    crew.unsent = lambda: 150
    crew.hold(50)
    with pytest.raises(Problem):
        crew.hold(1)


# ---------------------------------------------------------------- the command


def test_without_the_extra(monkeypatch, capsys):
    for package in EXTRA:
        monkeypatch.setitem(sys.modules, package, None)
    assert main(["serve", str(TINY)]) == 2
    said = capsys.readouterr().err
    assert said == 'argan: fastapi is not installed; run: pip install "argan[serve]"\n'


@pytest.mark.parametrize("options, word", [
    (["--max-bytes", "lots"], "lots: give a size such as 32MB"),
    (["--max-pixels", "0"], "0: give a size such as 32MP"),
    (["--queue", "-1"], "--queue"),
    (["--host", "192.0.2.1"], "192.0.2.1 port 8000: "),
    (["--host", "no.such.host.invalid"], "no.such.host.invalid port 8000: "),
    (["no.argan"], "no.argan"),
])  # fmt: skip
def test_bad_options(options, word, capsys):
    for package in EXTRA:
        pytest.importorskip(package, reason=f"{package} is part of the extra serve")
    assert main(["serve", *options]) == 2
    said = capsys.readouterr().err
    assert said.startswith("argan: ") and said.count("\n") == 1 and word in said


def test_port_taken(server, capsys):
    assert main(["serve", str(TINY), "--port", str(server.port)]) == 2
    assert f"127.0.0.1 port {server.port}: " in capsys.readouterr().err


def test_accept():
    for package in EXTRA:
        pytest.importorskip(package, reason=f"{package} is part of the extra serve")
    from argan.serve.routes import preferred

    offers = ["image/jpeg", "image/png"]
    for accept, expected in {
        "*/*": "image/jpeg", "image/*": "image/jpeg", "image/png": "image/png",
        "image/png, image/jpeg": "image/jpeg", "image/jpeg;q=0.5, image/png": "image/png",
        "image/jpeg;q=0, */*": "image/png", "text/html": None, "image/png;q=0": None, "": None,
        "IMAGE/PNG;Q=1": "image/png", "image/png;q=x": None,
    }.items():  # fmt: skip
        assert preferred(accept, offers) == expected, accept
