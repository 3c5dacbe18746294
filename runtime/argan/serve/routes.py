"""What may be asked and what is answered: routes, parameters, OpenAPI, problems (RFC 9457)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Mapping
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any, Literal, TypeVar, cast

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException

import argan
from argan.cli import parse_focus, parse_keep
from argan.controls import Controls
from argan.errors import Error, InputError
from argan.optics import Pupil
from argan.photo import ColorMap
from argan.refocus import Look, Quality, Refocuser
from argan.serve import body, work
from argan.serve.metrics import MEDIA_TYPE, Metrics
from argan.serve.work import Answer, Crew, Problem

PICTURES = {"image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WEBP"}
MAPS = {"image/png": "png", "application/x-npy": "npy"}

T = TypeVar("T")
Options = TypeVar("Options", bound=BaseModel)

ABOUT = """\
argan {version}, model {model}

  curl -F photo=@photo.jpg -F focus=1200,800 -F f_number=1.4 {url}refocus -o bokeh.jpg
  curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' -H 'Accept: image/png' \\
       '{url}refocus?strength=3&blades=6' -o bokeh.png
  curl -F photo=@photo.jpg {url}depth -o depth.png
  curl -F photo=@photo.jpg -F colormap=inferno {url}depth -o colours.png
  curl -F photo=@photo.jpg -F format=npy {url}depth -o depth.npy

All parameters: {url}openapi.json; for whoever watches: {url}healthz and {url}metrics
"""


class RefocusOptions(BaseModel):
    """Those of `argan refocus`; docs/optics.md has pictures of each."""

    model_config = ConfigDict(extra="forbid")

    focus: str = Field(
        "auto", max_length=100, examples=["auto", "1200,800", "0.7", "1.5m"],
        description="auto (the nearest sizeable thing near the centre), X,Y in px of the upright"
        " photo, a disparity, or metres as 1.5m.",
    )  # fmt: skip
    focus_distance: float | None = Field(
        None, examples=[1.5],
        description="Metres, in place of focus; for a model whose depth is in metres.",
    )  # fmt: skip
    focus_plane: str | None = Field(
        None, max_length=200, examples=["100,900 1800,900 900,200"],
        description="X,Y X,Y X,Y: the plane through three pixels is sharp.",
    )  # fmt: skip
    f_number: float | None = Field(
        None, examples=[1.4], description="The model's if no blur is given. Or: blur, strength."
    )
    blur: float | None = Field(
        None, examples=[40], description="px of radius per unit of disparity."
    )
    strength: float | None = Field(
        None, examples=[3], description="The same in percent of the width."
    )
    focal_length: float | None = Field(
        None, examples=[50], description="mm; EXIF's if not given. For depth in metres."
    )
    sensor_width: float | None = Field(
        None, examples=[36], description="mm, its longer side. For depth in metres."
    )
    tilt: float = Field(
        0.0, examples=[40], description="Degrees between the focal plane and the sensor."
    )
    tilt_toward: float = Field(
        90.0, examples=[90], description="Where the plane comes nearer: 0 right, 90 down."
    )
    keep: str = Field(
        "0", max_length=100, examples=["0.05", "0.1,0.3"],
        description="R or FRONT,BEHIND: how far from the focal plane things stay sharp.",
    )  # fmt: skip
    blades: int = Field(0, examples=[6], description="0: round pupil; 3 to 11: a polygon.")
    rotation: float = Field(0.0, examples=[15], description="Degrees, of the polygon.")
    roundness: float = Field(0.0, examples=[0.3], description="Of the blades, 0 to 1.")
    cat_eye: float = Field(
        0.0, examples=[0.5], description="Discs cut toward the corners, 0 to 1."
    )
    rim: float = Field(0.0, examples=[0.5], description="Of the discs: bright (1) to soft (-1).")
    highlights: float = Field(
        1.0, examples=[1], description="Guessed light of clipped highlights; 0: none."
    )
    quality: Quality = Field("final", examples=["preview"], description="preview is faster.")
    format: Literal["jpeg", "png", "webp"] | None = Field(
        None, examples=["png"], description="Of the answer; else what Accept wants, else jpeg."
    )

    def controls(self) -> Controls:
        plane = cast(Any, tuple(self.focus_plane.split())) if self.focus_plane else None
        return Controls(
            *parse_focus(self.focus, self.focus_distance, plane), self.f_number, self.blur,
            self.strength, self.focal_length, self.sensor_width, self.tilt, self.tilt_toward,
            parse_keep(self.keep),
        )  # fmt: skip

    def look(self) -> Look:
        pupil = Pupil(
            self.blades, math.radians(self.rotation), self.roundness, self.cat_eye, self.rim
        )
        return Look(pupil, self.highlights, self.quality)


class DepthOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: Literal["png", "npy"] | None = Field(
        None, examples=["npy"],
        description="png: 16-bit grey, d = lo + v/65535 (hi - lo), lo and hi in its text chunks;"
        " npy: float32 [H, W]. Else what Accept wants, else png.",
    )  # fmt: skip
    colormap: ColorMap | None = Field(
        None, examples=["inferno"], description="A picture to look at, in a png."
    )


def create(refocuser: Refocuser, crew: Crew, metrics: Metrics, name: str) -> FastAPI:
    """The application; `name` is the model's. It has no Swagger UI, whose scripts would come from a
    CDN."""
    app = FastAPI(
        title="argan", version=argan.__version__, docs_url=None, redoc_url=None,
        summary="Depth and bokeh from one photo.", license_info={"name": "Apache-2.0"},
        exception_handlers={
            HTTPException: _http_problem, RequestValidationError: _invalid,
            body.HungUp: _nobody, MemoryError: _no_memory, Exception: _bug, Error: _error,
        },
    )  # fmt: skip

    async def answer(request: Request, job: Coroutine[Any, Any, Answer], media: str) -> Response:
        answered = await _unless_hung_up(request, job)
        metrics.pixels.inc(answered.pixels)
        headers = {} if answered.focus is None else {"Argan-Focus": f"{answered.focus:.6g}"}
        return Response(answered.data, media_type=media, headers=headers)

    @app.post("/refocus", **_described(RefocusOptions, PICTURES, "The photo, refocused."))
    async def refocus(request: Request, query: Annotated[RefocusOptions, Query()]) -> Response:
        """Give a photo a shallow depth of field: what `argan refocus --source model` does.

        The header Argan-Focus is the disparity that is sharp.
        """
        async with body.receive(request, crew) as sent:
            options = _merged(query, sent.fields)
            media = _choose(options.format, request, PICTURES)
            job = partial(
                work.refocus, refocuser, crew.limits, sent.photo, options.controls(),
                options.look(), PICTURES[media],
            )  # fmt: skip
            return await answer(request, crew.run(job), media)

    @app.post("/depth", **_described(DepthOptions, MAPS, "The disparity; larger = nearer."))
    async def depth(request: Request, query: Annotated[DepthOptions, Query()]) -> Response:
        """The disparity of a photo, upright: what `argan depth --source model` writes."""
        async with body.receive(request, crew) as sent:
            options = _merged(query, sent.fields)
            offers = {"image/png": "png"} if options.colormap else MAPS
            media = _choose(options.format, request, offers)
            job = partial(
                work.depth, refocuser, crew.limits, sent.photo, MAPS[media], options.colormap
            )
            return await answer(request, crew.run(job), media)

    health = {"status": "ok", "version": argan.__version__, "model": name}
    stuck = health | {"status": "stuck"}

    @app.get("/healthz", responses={
        200: _json("Photos can be taken.", health), 503: _json("Every thread is late.", stuck),
    })  # fmt: skip
    async def healthz() -> JSONResponse:
        """Whether photos can be taken."""
        return JSONResponse(stuck, 503) if crew.stuck else JSONResponse(health)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def show_metrics() -> Response:
        """For Prometheus."""
        return Response(metrics.text(), media_type=MEDIA_TYPE)

    @app.get("/", response_class=PlainTextResponse)
    async def about(request: Request) -> str:
        """Examples."""
        return ABOUT.format(
            version=argan.__version__, model=name, url=request.base_url
        )

    return app


async def _unless_hung_up(request: Request, job: Coroutine[Any, Any, T]) -> T:
    """The job's result; a client that goes takes its photo out of the queue."""
    task, gone = asyncio.ensure_future(job), asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise body.HungUp
    finally:
        task.cancel()
        gone.cancel()


def _merged(query: Options, fields: dict[str, str]) -> Options:
    """The parameters of a query and a form."""
    given = query.model_dump(exclude_unset=True)
    if twice := set(given) & set(fields):
        raise Problem(422, f"{', '.join(sorted(twice))}: given in query and form: give it once")
    try:
        return query.model_validate({**given, **fields})
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from None


def _choose(format: str | None, request: Request, offers: Mapping[str, str]) -> str:
    """The media type of the answer."""
    if format:
        media = next((m for m, name in offers.items() if name.lower() == format), None)
        if media is None:
            raise Problem(422, "a colormap is a picture: give format=png")
        return media
    media = preferred(request.headers.get("accept", "*/*"), list(offers))
    if media is None:
        raise Problem(406, f"Accept: give {' or '.join(offers)}")
    return media


def preferred(accept: str, offers: list[str]) -> str | None:
    """The offer that an Accept header wants most, the first of several; None where it wants none
    (RFC 9110, 12.5.1)."""
    wants: dict[str, float] = {}
    for part in accept.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        quality = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        try:
            wants[name] = float(quality)
        except ValueError:
            wants[name] = 0.0

    def weight(offer: str) -> float:
        names = (offer, offer.partition("/")[0] + "/*", "*/*")
        return next((wants[name] for name in names if name in wants), 0.0)

    best = max(offers, key=weight)
    return best if weight(best) > 0 else None


# ---------------------------------------------------------------- problems


def _problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    title = HTTPStatus(status).phrase
    content = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return JSONResponse(content, status, headers, media_type="application/problem+json")


async def _error(request: Request, error: Exception) -> Response:
    if isinstance(error, Problem):
        headers = {"Retry-After": str(error.retry_after)} if error.retry_after else None
        return _problem(error.status, str(error), headers)
    status = 422 if isinstance(error, InputError) else 500
    return _problem(status, " ".join(str(error).splitlines()))


async def _http_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _problem(error.status_code, f"{error.detail}; GET / says what there is", error.headers)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    said = []
    for one in error.errors()[:3]:
        unknown = one["type"] == "extra_forbidden"
        said.append(f"{one['loc'][-1]!s:.80}: {'no such parameter' if unknown else one['msg']}")
    return _problem(422, " ".join("; ".join(said).split()))


async def _nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # as nginx counts a client that hung up; nobody reads it


async def _no_memory(request: Request, error: Exception) -> Response:
    return _problem(503, "out of memory; use a smaller photo", {"Retry-After": "10"})


async def _bug(request: Request, error: Exception) -> Response:
    return _problem(500, "a bug; the server's log has more")


# ---------------------------------------------------------------- OpenAPI

BINARY = {"type": "string", "format": "binary"}
PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"}, "title": {"type": "string"}, "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
}  # fmt: skip
PROBLEMS = {
    400: ("No photo, or a damaged one.", "the photo is damaged or cut short; get it again"),
    406: ("Accept allows no format there is.", "Accept: give image/jpeg or image/png"),
    408: ("The body came too slowly.", "the body did not come within 60 s"),
    413: ("Too many bytes or pixels.", "the photo has more than 50 million pixels"),
    415: (
        "No photo.",
        "the body is not a JPEG, PNG, WebP, TIFF, HEIC or AVIF photo; convert it to one of these",
    ),
    422: ("A parameter makes no sense.", "f-number -1.0: give a positive number such as 1.8"),
    503: ("Too busy; see Retry-After.", "the queue is full; try again in 3 s"),
}


def _described(options: type[BaseModel], offers: Mapping[str, str], words: str) -> dict[str, Any]:
    """What FastAPI can't see: a body that is read piece by piece, and answers in bytes."""
    responses: dict[int | str, Any] = {
        200: {"description": words, "content": {media: {"schema": BINARY} for media in offers}}
    }
    for status, (meaning, detail) in PROBLEMS.items():
        example = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status,
                   "detail": detail}  # fmt: skip
        content = {"application/problem+json": {"schema": PROBLEM, "example": example}}
        responses[status] = {"description": meaning, "content": content}
    responses[503]["headers"] = {"Retry-After": _header("Seconds.", "integer")}
    if options is RefocusOptions:
        focus = _header("The disparity that is sharp.", "number")
        responses[200]["headers"] = {"Argan-Focus": focus}
    fields = options.model_json_schema()["properties"]
    form = {
        "type": "object", "required": [body.FIELD],
        "properties": {body.FIELD: BINARY, **fields},
    }  # fmt: skip
    content = {body.FORM: {"schema": form}}
    content |= {media: {"schema": BINARY} for media in (*PICTURES, body.BINARY)}
    return {
        "response_class": Response, "responses": responses,
        "openapi_extra": {"requestBody": {"required": True, "content": content}},
    }  # fmt: skip


def _header(words: str, kind: str) -> dict[str, Any]:
    return {"description": words, "schema": {"type": kind}}


def _json(words: str, example: dict[str, str]) -> dict[str, Any]:
    return {"description": words, "content": {"application/json": {"example": example}}}
