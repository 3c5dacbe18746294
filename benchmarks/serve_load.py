"""`argan serve` under load: latency by kind of request, memory from beginning to end.

    python benchmarks/serve_load.py [--requests 2000] [--clients 8] [--workers 2] [--width 320]

A server of its own on the loopback interface; clients that ask again as soon as they are answered,
each on one connection that is kept. Every tenth request is hostile: headers of bombs, photos cut
short, wrong types and parameters; aside from them a client sends 300 MB now and then, and
another its photo a byte at a time. Memory is the server's resident set; "flat" compares its median
in the second tenth of the time with that in the last. Exit code 1: an answer was not what was
expected, or memory moved by more than 10 %. Writes serve_load.json.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import io
import json
import re
import statistics
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

PHOTO = Path(__file__).parents[1] / "examples" / "dahlia.jpg"
KEPT = 1.10  # what memory may grow by


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + b"\x35\xaf\x06\x1e"


def requests(width: int) -> tuple[list[tuple[str, str, bytes, int]], ...]:
    """(name, path, body, expected status): photos, and what is hostile."""
    photo = Image.open(PHOTO).convert("RGB")
    photo = photo.resize((width, round(width * photo.height / photo.width)))
    jpeg = encode(photo, "JPEG", quality=95)
    good = [
        ("refocus, final", "/refocus?f_number=1.4&blades=6", jpeg, 200),
        ("refocus, preview", "/refocus?strength=3&quality=preview", jpeg, 200),
        ("refocus to png", "/refocus?format=png", jpeg, 200),
        ("depth, 16-bit png", "/depth", jpeg, 200),
    ]
    black = Image.fromarray(np.zeros((8000, 8000), np.uint8))
    bad = [
        ("png of 100,000^2", "/refocus", png_header(100_000, 100_000), 413),
        ("png of 8,000^2, 62 kB", "/refocus", encode(black, "PNG"), 413),
        ("tiff of 8,000^2", "/depth", encode(black, "TIFF", compression="tiff_adobe_deflate"), 413),
        ("jpeg cut short", "/refocus", jpeg[: len(jpeg) // 2], 400),
        ("text", "/depth", b"I am no photo.", 415),
        ("f-number -1", "/refocus?f_number=-1", jpeg, 422),
    ]
    return good, bad


class Client(threading.Thread):
    """Asks until there is nothing left to ask."""

    def __init__(self, port: int, todo: list[tuple[str, str, bytes, int]]) -> None:
        super().__init__(daemon=True)
        self.port, self.todo = port, todo
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.answers: dict[str, set[str]] = defaultdict(set)
        self.wrong: Counter[str] = Counter()

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        while self.todo:
            try:
                name, path, body, expected = self.todo.pop()
            except IndexError:
                break
            begun = time.perf_counter()
            connection.request("POST", path, body, {"Content-Type": "image/jpeg"})
            answer = connection.getresponse()
            data = answer.read()
            self.seconds[name].append(time.perf_counter() - begun)
            self.answers[name].add(hashlib.sha256(data).hexdigest())
            if answer.status != expected:
                self.wrong[f"{name}: {answer.status} {data[:120]!r}"] += 1


def send_300_mb(port: int) -> int:
    """All of it, before the answer is read -> its status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    pieces = (bytes(1 << 20) for _ in range(286))
    headers = {"Content-Type": "image/jpeg", "Content-Length": str(286 << 20)}
    connection.request("POST", "/refocus", pieces, headers)
    return connection.getresponse().status


def send_slowly(port: int, stop: threading.Event) -> None:
    while not stop.is_set():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        connection.putrequest("POST", "/refocus")
        connection.putheader("Content-Length", "100000")
        connection.endheaders()
        try:
            while not stop.wait(0.2):
                connection.send(b"x")
        except OSError:  # cut off, as it should be: once more
            connection.close()


def resident_mb(port: int) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    found = re.search(r"^process_resident_memory_bytes (\S+)", text, re.M)
    return float(found[1]) / 2**20 if found else float("nan")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--width", type=int, default=320, help="of the photo, px")
    parser.add_argument("--large", type=int, default=3, help="how often 300 MB are sent")
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args()

    command = [sys.executable, "-m", "argan", "serve", "--port", "0", "--threads", "1"]
    command += ["--workers", str(options.workers), "--timeout", "20"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout
    line = server.stdout.readline()
    port = int(re.search(r":(\d+) ", line)[1])  # type: ignore[index]

    good, bad = requests(options.width)
    todo = [
        bad[n // 10 % len(bad)] if n % 10 == 9 else good[n % len(good)]
        for n in range(options.requests)
    ]
    stop, memory, large = threading.Event(), [], []
    slow = threading.Thread(target=send_slowly, args=(port, stop), daemon=True)
    slow.start()
    clients = [Client(port, todo) for _ in range(options.clients)]
    begun, cpu = time.perf_counter(), 0.0
    for client in clients:
        client.start()
    while any(client.is_alive() for client in clients):
        memory.append(resident_mb(port))
        if len(large) < options.large and len(todo) < options.requests * (1 - len(large) / 3) - 50:
            large.append(send_300_mb(port))
        time.sleep(0.3)
    seconds = time.perf_counter() - begun
    stop.set()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("GET", "/healthz")
    healthy = connection.getresponse().status == 200
    usage = Path(f"/proc/{server.pid}/stat")
    if usage.exists():
        fields = usage.read_text().rpartition(")")[2].split()
        cpu = (int(fields[11]) + int(fields[12])) / 100
    server.terminate()
    ended = server.wait(30)

    tenth = max(1, len(memory) // 10)
    early = statistics.median(memory[tenth : 2 * tenth + 1])
    late = statistics.median(memory[-tenth:])
    rows, wrong = [], Counter(f"300 MB: {status}" for status in large if status != 413)
    for name, _, body, _ in good + bad:
        times = [s for client in clients for s in client.seconds[name]]
        kinds = set().union(*(client.answers[name] for client in clients))
        if len(kinds) > 1:
            wrong[f"{name}: {len(kinds)} different answers"] += 1
        if times:
            p50, p95 = np.percentile(times, [50, 95]) * 1000
            rows.append({"request": name, "kB": len(body) / 1000, "n": len(times),
                         "p50_ms": p50, "p95_ms": p95, "most_ms": max(times) * 1000})  # fmt: skip
    for client in clients:
        wrong += client.wrong
    n = sum(row["n"] for row in rows)
    print(f"{'request':24} {'sent kB':>8} {'n':>6} {'p50 ms':>8} {'p95 ms':>8} {'most ms':>8}")
    for row in rows:
        print(f"{row['request']:24} {row['kB']:8.1f} {row['n']:6d} {row['p50_ms']:8.0f}"
              f" {row['p95_ms']:8.0f} {row['most_ms']:8.0f}")  # fmt: skip
    flat = late / early <= KEPT
    print(f"{n} of {options.requests} requests in {seconds:.1f} s, {n / seconds:.1f} a second;"
          f" {options.clients} clients, {options.workers} workers, {cpu:.1f} s of the server's CPU")
    print(f"300 MB sent {len(large)} times: {large}; exit code on SIGTERM: {ended}")
    print(f"memory: {early:.0f} MB early, {late:.0f} MB late ({late / early - 1:+.1%}),"
          f" {max(memory):.0f} MB at most; {'flat' if flat else 'NOT FLAT'}")
    for what, count in wrong.items():
        print(f"WRONG, {count} times: {what}")
    report = {"rows": rows, "seconds": seconds, "cpu_seconds": cpu, "memory_mb": memory,
              "early_mb": early, "late_mb": late, "wrong": dict(wrong), "options": {
                  k: v for k, v in vars(options).items() if k != "out"}}  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "serve_load.json").write_text(json.dumps(report, indent=1))
    return 0 if healthy and flat and not wrong and n == options.requests and ended == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
