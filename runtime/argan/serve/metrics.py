"""What /metrics shows, counted around the whole application."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

import argan
from argan.serve.work import Crew

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

MEDIA_TYPE = CONTENT_TYPE_PLAIN_0_0_4
PATHS = ("/", "/refocus", "/depth", "/healthz", "/metrics", "/openapi.json")
SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
# Of every answer: photos are nobody else's, and none is to be taken for a page.
HEADERS = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]


class Metrics:
    """Counters, and gauges that look at the crew."""

    def __init__(self, crew: Crew, model: str) -> None:
        self.registry = one = CollectorRegistry()
        ProcessCollector(registry=one)  # memory, CPU, open files: on Linux
        self.requests = Counter(
            "argan_requests", "Requests by path and status.", ["path", "status"], registry=one
        )
        self.seconds = Histogram(
            "argan_request_seconds", "From a request's head to the end of its answer.", ["path"],
            buckets=SECONDS, registry=one,
        )  # fmt: skip
        self.received = Counter("argan_received_bytes", "Of requests' bodies.", registry=one)
        self.sent = Counter("argan_sent_bytes", "Of answers' bodies.", registry=one)
        self.in_flight = Gauge(
            "argan_requests_in_flight", "Not answered yet, this one included.", registry=one
        )
        for name, words, value in (
            ("argan_photos_at_work", "In the threads.", lambda: crew.at_work),
            ("argan_queue_length", "Photos that wait for a thread.", lambda: crew.waiting),
            ("argan_held_bytes", "Of requests, in memory.", lambda: crew.held),
            ("argan_unsent_bytes", "Of answers, in memory.", lambda: crew.unsent()),
        ):
            Gauge(name, words, registry=one).set_function(value)
        Gauge("argan_info", "Always 1.", ["version", "model"], registry=one).labels(
            argan.__version__, model
        ).set(1)
        self.pixels = Counter("argan_photo_pixels", "Of photos answered.", registry=one)

    def around(self, app: App) -> App:
        """The application, with its requests counted."""

        async def counted(scope: Message, receive: Receive, send: Send) -> None:
            await self._count(app, scope, receive, send)

        return counted

    async def _count(self, app: App, scope: Message, receive: Receive, send: Send) -> None:
        path = scope["path"] if scope["path"] in PATHS else "other"
        begun, status = time.perf_counter(), 499  # as nginx says: the client hung up

        async def counted_receive() -> Message:
            message = await receive()
            self.received.inc(len(message.get("body", b"")))
            return message

        async def counted_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *HEADERS]
            self.sent.inc(len(message.get("body", b"")))
            await send(message)

        with self.in_flight.track_inprogress():
            try:
                await app(scope, counted_receive, counted_send)
            finally:
                self.requests.labels(path, status).inc()
                self.seconds.labels(path).observe(time.perf_counter() - begun)

    def text(self) -> bytes:
        return generate_latest(self.registry)
