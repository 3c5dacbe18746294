"""A photo in bytes -> an answer in bytes; the threads that do it, and the queue before them."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from argan import photo
from argan.backends import Backend, Tensors
from argan.controls import Controls
from argan.errors import Error, InputError, MissingExtraError
from argan.refocus import Look, Refocuser

T = TypeVar("T")


class Problem(Error):
    """What is answered in place of a picture."""

    def __init__(self, status: int, detail: str, retry_after: int | None = None) -> None:
        super().__init__(" ".join(detail.split()))
        self.status = status
        self.retry_after = retry_after  # seconds


@dataclass(frozen=True)
class Limits:
    """max_bytes, max_pixels   of a request and of the photo in it
    timeout   seconds to send a request; to answer it; to fetch the answer
    workers   photos at work at the same time
    queue     photos that may wait for that
    """

    max_bytes: int = 32_000_000
    max_pixels: int = 50_000_000
    timeout: float = 60.0
    workers: int = 1
    queue: int = 16

    @property
    def held(self) -> int:
        """Bytes of requests and answers that may be in memory."""
        return self.max_bytes * (self.workers + self.queue)


@dataclass(frozen=True)
class Answer:
    """An encoded picture or map, the pixels [H, W] of the photo and the disparity that is sharp."""

    data: bytes
    pixels: int
    focus: float | None = None


class OneAtATime:
    """A network that one thread at a time may enter: TFLite allows no more, and it takes every core
    that it was given anyway."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.lock = threading.Lock()

    def run(self, inputs: Tensors) -> Tensors:
        with self.lock:
            return self.backend.run(inputs)


@dataclass
class Job:
    future: asyncio.Future[Any]
    begun: float = field(default_factory=time.monotonic)
    late: bool = False


class Crew:
    """`limits.workers` threads and a bounded queue before them. All but the work itself happens on
    the event loop."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.waiting = 0
        self.at_work = 0
        self.overdue = 0  # at work, though their answer has been given up
        self.held = 0  # bytes of requests
        self.unsent: Callable[[], int] = lambda: 0  # bytes of answers that clients have yet to read
        self._seconds = 1.0  # of the last photo
        self._free = asyncio.Semaphore(limits.workers)
        self._pool = ThreadPoolExecutor(limits.workers, "argan-serve")

    def hold(self, size: int) -> None:
        """Take `size` more bytes of memory; 503 where there are too many. Negative: give back."""
        if size > 0 and self.held + size + self.unsent() > self.limits.held:
            raise self.busy("too many photos are being sent")
        self.held += size

    def check_queue(self) -> None:
        if self._free.locked() and self.waiting >= self.limits.queue:
            raise self.busy("the queue is full")

    def busy(self, why: str) -> Problem:
        ahead = (self.waiting + 1) * self._seconds / self.limits.workers
        wait = min(max(math.ceil(ahead), 1), 60)
        return Problem(503, f"{why}; try again in {wait} s", retry_after=wait)

    async def run(self, work: Callable[[], T]) -> T:
        """work() in a thread, when one is free. 503 where the queue is full, or after `timeout`
        seconds; then the thread finishes what it is at, and takes nothing else until it has."""
        self.check_queue()
        late = self.busy(f"not done within {self.limits.timeout:g} s")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.limits.timeout
        self.waiting += 1
        try:
            async with asyncio.timeout_at(deadline):
                await self._free.acquire()
        except TimeoutError:
            raise late from None
        finally:
            self.waiting -= 1
        job = Job(loop.run_in_executor(self._pool, work))
        self.at_work += 1
        job.future.add_done_callback(lambda _: self._finish(job))
        await asyncio.wait({job.future}, timeout=max(0, deadline - loop.time()))
        if not job.future.done():
            job.late = True
            self.overdue += 1
            raise late
        result: T = job.future.result()
        return result

    def _finish(self, job: Job) -> None:
        self.at_work -= 1
        self.overdue -= job.late
        self._seconds = time.monotonic() - job.begun
        self._free.release()
        if not job.future.cancelled():
            job.future.exception()  # looked at, or asyncio would complain of one nobody waited for

    @property
    def stuck(self) -> bool:
        return self.overdue >= self.limits.workers


def refocus(
    refocuser: Refocuser, limits: Limits, data: bytes, controls: Controls, look: Look, kind: str
) -> Answer:
    """`kind` is "JPEG", "PNG" or "WEBP"; as `argan refocus` writes it."""
    source = decode(data, limits.max_pixels)
    result = refocuser.expose(source, controls, look)
    pixels = math.prod(source.pixels.shape[:2])
    return Answer(_answered(lambda: photo.encode(result.image, kind)), pixels, result.focus)


def depth(
    refocuser: Refocuser,
    limits: Limits,
    data: bytes,
    kind: str,
    colormap: photo.ColorMap | None,
) -> Answer:
    """`kind` is "png" or "npy"; as `argan depth` writes it."""
    disparity: NDArray[np.float32] = refocuser.depth(decode(data, limits.max_pixels))
    encoded = _answered(lambda: photo.encode_disparity(disparity, kind, colormap))
    return Answer(encoded, disparity.size)


def decode(data: bytes, max_pixels: int) -> photo.Photo:
    """The photo in a file's bytes. Problem: 415 for no photo, 413 for too many pixels, which is
    known before any is decoded, 400 for a damaged one."""
    try:
        return photo.decode(data, "the photo", max_pixels)
    except photo.TooManyPixels as error:
        raise Problem(413, str(error)) from None
    except photo.UnknownFormat:
        kinds = "JPEG, PNG, WebP, TIFF, HEIC or AVIF"
        raise Problem(415, f"the body is no {kinds} photo; convert it to one of these") from None
    except MissingExtraError as error:
        raise Problem(415, f"the server can't read HEIC ({error}); send JPEG") from None
    except InputError as error:
        raise Problem(400, str(error)) from None


def _answered(encode: Callable[[], bytes]) -> bytes:
    try:
        return encode()
    except InputError as error:
        raise Problem(422, str(error)) from None
