"""`argan web`: serve the page that `make web` built, on this machine alone. docs/web.md says more.

Two headers make the page a place of its own (cross-origin isolated): ONNX Runtime may then use
several threads. The rest keeps it from loading anything from elsewhere.
"""

from __future__ import annotations

import functools
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from argan.errors import InputError

HOST = "127.0.0.1"
MARK = "files.js"  # the list of its files, which every built page has
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".webmanifest": "application/manifest+json",
    ".wasm": "application/wasm",
    ".argan": "application/zip",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; object-src 'none';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-cache",
}


class Server(ThreadingHTTPServer):
    """A page of `folder` on the loopback interface; port 0 is one that is free.

    InputError where there is no page, or another program has the port.
    """

    daemon_threads = True

    def __init__(self, folder: Path, port: int) -> None:
        if not (folder / MARK).is_file():
            raise InputError(
                f"{folder} holds no page; build it in a checkout of argan with: make web"
                " (it takes npm), then: argan web out/web"
            )
        handler = functools.partial(Handler, directory=str(folder.resolve()))
        try:
            super().__init__((HOST, port), handler)
        except OSError as error:
            reason = f"port {port} can't be used ({error.strerror}); give another with --port"
            raise InputError(reason) from error

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.server_address[1]}/"


class Handler(SimpleHTTPRequestHandler):
    """Files of the folder, no listings; nothing that lies outside of it, links included."""

    protocol_version = "HTTP/1.1"
    timeout = 30
    extensions_map = {"": "application/octet-stream", **TYPES}

    def send_head(self):  # type: ignore[no-untyped-def]  # of the standard library, untyped
        path = unquote(urlsplit(self.path).path)
        wanted = Path(self.translate_path(path + ("index.html" if path.endswith("/") else "")))
        if not wanted.is_file() or not wanted.resolve().is_relative_to(self.directory):
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        return super().send_head()

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the terminal keeps the address in sight."""
