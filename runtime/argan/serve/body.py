"""The body of a request: the photo as it is, or a form with the photo and parameters in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from argan.serve.work import Crew, Problem

FIELD = "photo"
MOST_FIELDS = 64
FORM = "multipart/form-data"
BINARY = "application/octet-stream"
HINT = f"send the photo as a form's file {FIELD!r}, or as the body with Content-Type: image/jpeg"


class HungUp(Exception):
    """The client is gone."""


@dataclass(frozen=True)
class Sent:
    photo: bytes
    fields: dict[str, str]  # of a form


class Form(MultiPartParser):
    spool_max_size = 0  # 0: files of any size stay in memory, which `stream` bounds


@asynccontextmanager
async def receive(request: Request, crew: Crew) -> AsyncIterator[Sent]:
    """The body, which counts as held until the block ends. Problem: 413 as soon as there are too
    many bytes, 408 where they come too slowly, 400 and 415 for what is no photo or form, 503 where
    the queue is full or the memory taken."""
    limits = crew.limits
    declared = int(request.headers.get("content-length", 0))
    if declared > limits.max_bytes:
        raise _too_large(limits.max_bytes)
    kind = request.headers.get("content-type", BINARY).partition(";")[0].strip().lower()
    if kind not in (FORM, BINARY) and not kind.startswith("image/"):
        raise Problem(415, f"Content-Type {kind[:80]}: {HINT}")
    crew.check_queue()

    size = 0

    async def stream() -> AsyncGenerator[bytes, None]:
        nonlocal size
        async for chunk in request.stream():
            if size + len(chunk) > limits.max_bytes:
                raise _too_large(limits.max_bytes)
            crew.hold(len(chunk))
            size += len(chunk)
            yield chunk

    try:
        try:
            async with asyncio.timeout(limits.timeout):
                if kind == FORM:
                    sent = await _read_form(request, stream())
                else:
                    sent = Sent(b"".join([chunk async for chunk in stream()]), {})
        except TimeoutError:
            raise Problem(408, f"the body did not come within {limits.timeout:g} s") from None
        except ClientDisconnect:
            raise HungUp from None
        if not sent.photo:
            raise Problem(400, f"there is no photo: {HINT}")
        yield sent
    finally:
        crew.hold(-size)


async def _read_form(request: Request, stream: AsyncGenerator[bytes, None]) -> Sent:
    parser = Form(
        request.headers, stream, max_files=1, max_fields=MOST_FIELDS, max_part_size=10_000
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Problem(400, f"the form is broken: {error.message}") from None
    except UnicodeError:  # a form may name a charset
        raise Problem(400, "the form is broken: its names or values are no text") from None
    file = form.get(FIELD)
    if not isinstance(file, UploadFile):
        raise Problem(400, f"the form has no file {FIELD!r}: {HINT}")
    fields = [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
    if len(dict(fields)) < len(fields):
        raise Problem(422, "the form gives a parameter twice: give it once")
    return Sent(await file.read(), dict(fields))


def _too_large(most: int) -> Problem:
    return Problem(413, f"the request is larger than {most / 1e6:g} MB; make the photo smaller")
