"""`argan serve`: refocused photos and depth maps over HTTP. `docs/serve.md` says how to use it.

    __init__.py    the command: options, the port, signals
    routes.py      what may be asked and what is answered: routes, parameters, OpenAPI, problems
    body.py        a request's body, read within bounds
    work.py        photo -> answer; the threads that do it and the queue before them
    metrics.py     what /metrics shows, and the headers that every answer has
    connection.py  clients that send or read too slowly

Only this file and `work.py` can be imported without the extra.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
from importlib.util import find_spec
from typing import Annotated, Literal

import typer

from argan.errors import InputError, MissingExtraError
from argan.refocus import load
from argan.serve.work import Crew, Limits, OneAtATime

GRACE = 10  # seconds that photos at work have when the server is told to end
MOST_CONNECTIONS = 512  # below the 1024 open files that systems allow a process by default
PACKAGES = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")
LOOPBACK = ("127.0.0.1", "::1", "localhost")

app = typer.Typer(add_completion=False, rich_markup_mode=None)


def main(arguments: list[str]) -> int:
    """`argan serve ARGUMENTS` -> exit code."""
    return app(arguments, prog_name="argan serve", standalone_mode=False) or 0


@app.command()
def serve(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="BUNDLE", help="NAME.argan or NAME.toml; the one that ships if not given."
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="0.0.0.0: the network may come in as well.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="N", help="0: any that is free.")
    ] = 8000,
    workers: Annotated[
        int, typer.Option(min=1, max=64, metavar="N", help="Photos at work at the same time.")
    ] = 1,
    threads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Per photo; all cores if not given.")
    ] = None,
    queue: Annotated[
        int, typer.Option(min=0, max=1000, metavar="N", help="Photos that may wait; then 503.")
    ] = 16,
    max_bytes: Annotated[str, typer.Option(metavar="32MB", help="Of a request.")] = "32MB",
    max_pixels: Annotated[str, typer.Option(metavar="50MP", help="Of a photo.")] = "50MP",
    timeout: Annotated[
        float,
        typer.Option(
            min=0.1, max=3600, metavar="S",
            help="To send a request, then to answer it, then to fetch the answer.",
        ),
    ] = 60.0,
    backend: Annotated[
        Literal["onnx", "tflite", "coreml"] | None, typer.Option(help="What runs the network.")
    ] = None,
    precision: Annotated[
        Literal["fp32", "fp16", "int8-weights", "int8", "int8-io", "palette6"] | None,
        typer.Option(help="The most exact if not given."),
    ] = None,
) -> int:
    """Refocus photos and give their depth over HTTP.

    POST /refocus and POST /depth take a photo; /openapi.json describes them, GET / has examples,
    /healthz and /metrics (Prometheus) are for whoever watches. Ends on SIGTERM or Ctrl-C, when the
    photos at work are done.

    \b
    Examples:
      argan serve
      curl -F photo=@photo.jpg -F focus=1200,800 -F f_number=1.4 http://127.0.0.1:8000/refocus -o bokeh.jpg
    """  # noqa: E501
    for package in PACKAGES:
        if find_spec(package) is None:
            raise MissingExtraError(package.replace("_", "-"), "serve")
    import uvicorn

    from argan.serve import connection, routes
    from argan.serve.metrics import Metrics

    limits = Limits(
        count(max_bytes, "B"), count(max_pixels, "P"), timeout, workers=workers, queue=queue
    )
    refocuser = load(model, backend=backend, precision=precision, threads=threads)
    refocuser.backend = OneAtATime(refocuser.backend)
    crew = Crew(limits)
    name = refocuser.model.manifest["name"]
    metrics = Metrics(crew, name)
    application = metrics.around(routes.create(refocuser, crew, metrics, name))
    listening = listen(host, port)
    server = connection.Server(
        uvicorn.Config(
            application, http=connection.Connection, ws="none", lifespan="off", loop="asyncio",
            log_level="error", access_log=False, server_header=False, proxy_headers=False,
            limit_concurrency=MOST_CONNECTIONS, timeout_graceful_shutdown=GRACE,
        )
    )  # fmt: skip
    # Requests that make no sense are counted; to log each would let anybody fill the disk.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    connection.Connection.patience = timeout
    crew.unsent = server.unsent
    if host not in LOOPBACK:
        print(f"argan serve: {host} is open to others, without a password", file=sys.stderr)
    print(f"argan serve: {address(listening)}  model {name}", flush=True)
    server.run(sockets=[listening])
    if crew.at_work:  # past GRACE: a thread can't be stopped, and Python would wait for it
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    return 0


def count(text: str, unit: str) -> int:
    """ "32MB", "50MP", "500k" or a plain number -> how many."""
    found = re.fullmatch(rf"(\d+(?:\.\d+)?) ?([kMG]?){unit}?", text.strip())
    if not found or not float(found[1]):
        raise InputError(f"{text}: give a size such as 32M{unit}")
    return int(float(found[1]) * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[found[2]])


def listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        why = error.strerror or str(error)
        raise InputError(f"{host} port {port}: {why}; give others by --host and --port") from error


def address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
