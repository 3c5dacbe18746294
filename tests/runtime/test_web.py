"""`argan web`: what its server gives out and what it does not. The page itself: tests/web."""

import http.client
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from argan.cli import main
from argan.web import MARK, Server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page, beside a secret."""
    outside = tmp_path_factory.mktemp("web")
    folder = outside / "page"
    (folder / "engine").mkdir(parents=True)
    for name in ("index.html", MARK, "engine/lens.mjs", "lens.wasm", "page.webmanifest"):
        (folder / name).write_text(name)
    (outside / "secret.html").write_text("secret")
    os.symlink(outside / "secret.html", folder / "link.html")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with Server(folder, 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def get(server: Server, path: str, method: str = "GET") -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=10)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("path", "name", "kind"),
    [
        ("/", "index.html", "text/html; charset=utf-8"),
        ("/index.html?install", "index.html", "text/html; charset=utf-8"),
        ("/engine/lens.mjs", "engine/lens.mjs", "text/javascript; charset=utf-8"),
        ("/lens.wasm", "lens.wasm", "application/wasm"),
        ("/page.webmanifest", "page.webmanifest", "application/manifest+json"),
    ],
)
def test_files_and_headers(server: Server, path: str, name: str, kind: str) -> None:
    response, body = get(server, path)
    assert (response.status, body) == (200, name.encode())
    assert response.headers["Content-Type"] == kind
    assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert response.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    policy = response.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'self'") and "http" not in policy


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.html", "/engine/../../secret.html", "/%2e%2e/secret.html", "/..%2fsecret.html",
        "//secret.html", "/link.html", "/engine/", "/engine", "/none.html", "/..\\secret.html",
    ],
)  # fmt: skip
def test_nothing_else(server: Server, path: str) -> None:
    response, body = get(server, path)
    assert response.status == 404 and b"secret" not in body.replace(path.encode(), b"")


def test_reads_alone(server: Server) -> None:
    assert get(server, "/", "POST")[0].status == 501
    assert get(server, "/", "HEAD")[1] == b""


def test_loopback_alone(server: Server) -> None:
    assert server.server_address[0] == "127.0.0.1"


def test_no_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["web", str(tmp_path)]) == 2
    assert "make web" in capsys.readouterr().err


def test_port_in_use(server: Server, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    port = server.server_address[1]
    assert main(["web", str(folder), "--port", str(port)]) == 2
    assert f"port {port}" in capsys.readouterr().err


def test_command(folder: Path) -> None:
    command = [sys.executable, "-m", "argan", "web", str(folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(re.search(r"http://127.0.0.1:(\d+)/", process.stdout.readline())[1])
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        process.terminate()
