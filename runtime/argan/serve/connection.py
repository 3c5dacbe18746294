"""How uvicorn is used: clients that take for ever to send a request's head or to read their answer
are hung up on, and a signal that ends the server is no failure."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Generator
from contextlib import contextmanager
from typing import ClassVar

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol


class Connection(H11Protocol):
    """A connection may be without a request for `patience` seconds: that long a client has to send
    a head, and afterwards to read the answer. (The body's time is `argan.serve.body`'s.)"""

    patience: ClassVar[float] = 60.0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def on_response_complete(self) -> None:
        self._wait()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer:
            self._timer.cancel()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = self.loop.call_later(self.patience, self._hang_up)

    def _hang_up(self) -> None:
        idle = self.cycle is None or self.cycle.response_complete
        if idle or self.transport.get_write_buffer_size():
            self.transport.abort()


class Server(uvicorn.Server):
    """Ends on SIGTERM or Ctrl-C with exit code 0, where uvicorn would raise the signal again."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.handle_exit)
        yield
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # it is ending already

    def unsent(self) -> int:
        """Bytes of answers that clients have yet to read."""
        transports = [connection.transport for connection in self.server_state.connections]
        return sum(transport.get_write_buffer_size() for transport in transports)
