"""Make the pictures of docs/optics.md and docs/gallery.md, by the commands that stand beside them.

    python docs/make_pictures.py [--data ../shared/data] [--people BUNDLE ...]
                                 [--work out/pictures] [--out docs/images]

The scene of docs/optics.md is drawn here: five cards on a tiled floor, a wall with lights, a level
camera with a 35 mm lens on full frame; its distances are exact. Photo and depth stay in the folder
--work, so that every command can be tried there. The photos of docs/gallery.md are read from
--data/samples, if it is there; two of them bring a depth that their phone has measured. That needs
the extras heif and tflite.

Same machine kind, same pictures: nothing here is random without a seed.
"""

from __future__ import annotations

import argparse
import math
import os
import shlex
from collections.abc import Iterator
from contextlib import chdir
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from argan import embedded, photo, refocus, upsample
from argan.camera import load_depth
from argan.cli import main as argan
from argan.metrics import psnr

QUALITY = 80
LABEL = 22  # px, height of the line under a panel


# ---------------------------------------------------------------- the scene

WIDTH, HEIGHT = 900, 600
FOCAL_PX = 35 / 36 * WIDTH
EYE = 0.32  # m above the floor
CARDS = (1.0, 1.5, 2.2, 3.5, 6.0)  # m
WALL = 10.0
LIGHTS_APART, LIGHTS_DOWN, LIGHTS_TOP = 0.93, 0.85, -3.2  # m
LIGHT_RADIUS = 0.04
SAMPLES = 4  # a side, per pixel


def draw_scene() -> tuple[np.ndarray, np.ndarray]:
    """-> sRGB [H, W, 3], 1 is white and lights go beyond; and depth in metres [H, W] at the middle
    of each pixel."""
    fine = (np.arange(SAMPLES) + 0.5) / SAMPLES - 0.5
    columns, rows = (np.arange(n)[:, None] + fine for n in (WIDTH, HEIGHT))
    pixels = [
        shade(columns.ravel(), row)[0].reshape(SAMPLES, WIDTH, SAMPLES, 3).mean(axis=(0, 2))
        for row in rows
    ]
    return to_srgb(np.stack(pixels)), shade(np.arange(WIDTH), np.arange(HEIGHT))[1]


def true_lens(z_focus: float, f_number: float, views: int = 128) -> Image.Image:
    """The scene as rays through a thin lens of 35 mm show it, one per view and pixel, in the frame
    of the photo. Nothing of argan is in it."""
    rng, total = np.random.default_rng(1), np.zeros((HEIGHT, WIDTH, 3))
    for i in range(views):
        radius, angle = math.sqrt((i + 0.5) / views), i * math.pi * (3 - math.sqrt(5))
        eye = 0.035 / (2 * f_number) * radius * np.array([math.cos(angle), math.sin(angle)])
        dx, dy = rng.uniform(-0.5, 0.5, 2)
        total += shade(np.arange(WIDTH) + dx, np.arange(HEIGHT) + dy, tuple(eye), z_focus)[0]
    srgb = to_srgb(np.clip(total / views, 0, 1))
    return Image.fromarray(np.round(255 * srgb).astype(np.uint8))


def to_srgb(light: np.ndarray) -> np.ndarray:
    curve = 1.055 * np.maximum(light, 0) ** (1 / 2.4) - 0.055
    return np.where(light <= 0.0031308, 12.92 * light, curve)


def shade(
    columns: np.ndarray,
    rows: np.ndarray,
    eye: tuple[float, float] = (0.0, 0.0),
    z_focus: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Linear light [rows, columns, 3] and depth [rows, columns] of rays that leave the lens at
    `eye` (metres right, down) for what is z_focus away at these places of the photo."""
    x = (columns - (WIDTH - 1) / 2)[None, :] / FOCAL_PX - eye[0] / z_focus
    y = (rows - (HEIGHT - 1) / 2)[:, None] / FOCAL_PX - eye[1] / z_focus
    floor = (EYE - eye[1]) / np.maximum(y, 1e-9) + 0 * x
    on_floor = floor < WALL
    depth = np.where(on_floor, floor, WALL)
    X, Y = eye[0] + x * depth, eye[1] + y * depth
    tile = (np.floor(X / 0.2) + np.floor(depth / 0.2)) % 2
    grout = (np.abs((X / 0.2) % 1 - 0.5) > 0.48) | (np.abs((depth / 0.2) % 1 - 0.5) > 0.48)
    tone = np.where(grout, 0.03, np.where(tile > 0, 0.42, 0.16))
    wall = 0.02 + 0.02 * ((np.floor(X / 0.5) + np.floor(Y / 0.25)) % 2)
    light = np.where(
        on_floor[..., None], tone[..., None] * [1, 0.86, 0.68], wall[..., None] * [0.6, 0.8, 1.3]
    )
    i = np.clip(np.rint((Y - LIGHTS_TOP) / LIGHTS_DOWN), 0, LIGHTS.shape[0] - 1).astype(int)
    j = np.clip(np.rint(X / LIGHTS_APART) + 5, 0, LIGHTS.shape[1] - 1).astype(int)
    near = (X - LIGHTS[i, j, 0]) ** 2 + (Y - LIGHTS[i, j, 1]) ** 2 < LIGHT_RADIUS**2
    near &= ~on_floor
    light[near] = LIGHTS[i, j, 2:][near]
    for (left, right, top, bottom, z), face in reversed(FACES):
        a = (eye[0] + x * z - left) / (right - left) + 0 * y
        b = (eye[1] + y * z - top) / (bottom - top) + 0 * x
        hit = (a >= 0) & (a < 1) & (b >= 0) & (b < 1)
        i, j = (b[hit] * face.shape[0]).astype(int), (a[hit] * face.shape[1]).astype(int)
        light[hit] = face[i, j]
        depth[hit] = z
    return light, depth


def card(z: float, index: int) -> tuple[np.ndarray, np.ndarray]:
    """(left, right, top, bottom, z) in metres and its face, linear [360, 240, 3]."""
    width = 0.17 * z**0.7
    # Places at which all five stand on one plane: 1/z falls evenly from left to right.
    middle = (-330 + (1 - 1 / z) * 744) / FOCAL_PX * z
    box = np.array([middle - width / 2, middle + width / 2, EYE - 1.5 * width, EYE, z])
    face = Image.new("RGB", (240, 360), "white")
    draw = ImageDraw.Draw(face)
    colour = ("#c8453c", "#d98a2b", "#5d8f3a", "#2f7fa3", "#7a56a3")[index]
    for i in range(6):
        for j in range(9):
            if (i + j) % 2:
                draw.rectangle((40 * i, 40 * j, 40 * i + 39, 40 * j + 39), colour)
    draw.rectangle((30, 90, 210, 270), "white", "black", 4)
    font = ImageFont.load_default(76)
    draw.text((120, 150), f"{z:g}", "black", font, anchor="mm")
    for k in range(9):
        draw.line((50 + 16 * k, 210, 50 + 16 * k, 255), "black", 1 + k)
    levels = np.asarray(face) / 255
    return box, np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)


def make_lights() -> np.ndarray:
    """[4, 11, 5]: x, y in metres on the wall, one light in each cell, and its linear colour."""
    rng = np.random.default_rng(7)
    tints = np.array([[1, 0.75, 0.4], [1, 0.9, 0.75], [0.6, 0.8, 1], [1, 0.5, 0.4]])
    lights = np.empty((4, 11, 5))
    for i, j in np.ndindex(4, 11):
        x = (j - 5) * LIGHTS_APART + rng.uniform(-0.3, 0.3)
        y = LIGHTS_TOP + i * LIGHTS_DOWN + rng.uniform(-0.25, 0.25)
        lights[i, j] = [x, y, *(rng.uniform(4, 16) * tints[rng.integers(4)])]
    return lights


LIGHTS = make_lights()
FACES = [card(z, i) for i, z in enumerate(CARDS)]


def write_scene() -> None:
    pixels, depth = draw_scene()
    full_frame = {0x920A: 35.0, 0xA002: WIDTH, 0xA003: HEIGHT, 0xA20E: WIDTH / 3.6, 0xA210: 3}
    write_photo("scene.png", np.round(255 * np.clip(pixels, 0, 1)).astype(np.uint8), full_frame)
    np.save("scene_light.npy", pixels.astype(np.float32))
    np.save("scene.npy", depth.astype(np.float32))
    photo.save_disparity("scene_disparity.png", (1 / depth).astype(np.float32), "inferno")
    photo.save_disparity("scene_relative.png", relative(1 / depth))


def write_photo(name: str, pixels: np.ndarray, lens: dict[int, float]) -> None:
    """With the EXIF fields of the lens."""
    exif = Image.Exif()
    exif[0x8769] = lens
    photo.save(name, photo.Photo(pixels, exif=exif.tobytes()))


def relative(disparity: np.ndarray) -> np.ndarray:
    """From 0, the farthest, to 1, the nearest: what a network gives."""
    lo, hi = disparity.min(), disparity.max()
    return ((disparity - lo) / (hi - lo)).astype(np.float32)


# ---------------------------------------------------------------- commands and panels


def run(command: str) -> Image.Image:
    """The picture that `argan COMMAND` writes to out.png."""
    if argan([*shlex.split(command), "-o", "out.png"]):
        raise SystemExit(f"argan {command} failed")
    return Image.open("out.png").convert("RGB")


def scene(options: str) -> Image.Image:
    return run(f"render scene.png --depth scene.npy {options}")


def sheet(panels: dict[str, Image.Image], columns: int, width: int) -> Image.Image:
    """Panels in rows, all `width` px wide, each with its label underneath."""
    font, pictures = ImageFont.load_default(14), list(panels.items())
    sized = [
        (label, p.resize((width, round(p.height * width / p.width)), Image.Resampling.LANCZOS))
        for label, p in pictures
    ]
    rows = [sized[i : i + columns] for i in range(0, len(sized), columns)]
    heights = [max(p.height for _, p in row) + LABEL for row in rows]
    gap = 6
    page = Image.new("RGB", (columns * (width + gap) - gap, sum(heights)), "white")
    draw = ImageDraw.Draw(page)
    y = 0
    for row, height in zip(rows, heights, strict=True):
        for i, (label, picture) in enumerate(row):
            page.paste(picture, (i * (width + gap), y))
            middle = i * (width + gap) + width // 2
            draw.text((middle, y + height - LABEL // 2), label, "#222222", font, anchor="mm")
        y += height
    return page


def true_light(focus: float, f_number: float) -> Image.Image:
    """The scene photographed with light beyond white, as no 8-bit photo has it."""
    result = refocus(
        np.load("scene_light.npy"), depth=np.load("scene.npy"), focus_distance=focus,
        f_number=f_number, focal_length=35, sensor_width=36, highlights=0,
    )  # fmt: skip
    return Image.fromarray(np.round(255 * np.clip(result.image, 0, 1)).astype(np.uint8))


# ---------------------------------------------------------------- docs/optics.md


def optics_pages() -> Iterator[tuple[str, Image.Image]]:
    plain = Image.open("scene.png").convert("RGB")
    colours = Image.open("scene_disparity.png")
    yield "scene", sheet({"photo": plain, "disparity 1/z, bright = near": colours}, 2, 440)

    focus = "--f-number 1.4 --focus-distance"
    yield "focus", sheet({f"focus {z} m": scene(f"{focus} {z}") for z in ("1", "2.2", "6")}, 3, 400)

    stops = ("8", "2.8", "1.4")
    shots = {f"f/{n}": scene(f"--focus-distance 1.5 --f-number {n}") for n in stops}
    yield "f-number", sheet(shots, 3, 400)

    sensors = {"6.2 mm lens, 6.4 mm sensor": "--focal-length 6.2 --sensor-width 6.4",
               "17 mm lens, 17.5 mm sensor": "--focal-length 17 --sensor-width 17.5",
               "35 mm lens, 36 mm sensor": "--focal-length 35 --sensor-width 36"}  # fmt: skip
    at = "--focus-distance 1.5 --f-number 1.8"
    shots = {name: scene(f"{at} {options}") for name, options in sensors.items()}
    yield "sensor", sheet(shots, 3, 400)

    wide = "--f-number 0.7"
    tilts = {"parallel, at 2.2 m": f"{wide} --focus-distance 2.2",
             "90 degrees: the floor": f"{wide} --focus 450,500 --tilt 90",
             "through three cards": f"{wide} --focus-plane 119,470 500,340 710,285"}  # fmt: skip
    yield "tilt", sheet({name: scene(options) for name, options in tilts.items()}, 3, 400)

    keeps = {"2.2 m alone": "", "from 1.5 m": "--keep 0.7,0", "1.5 m to 3.5 m": "--keep 0.7,1.3"}
    at = f"{wide} --focus-distance 2.2"
    yield "keep", sheet({name: scene(f"{at} {more}") for name, more in keeps.items()}, 3, 400)

    at, corner = "--focus-distance 1 --f-number 1.2", (0, 0, 240, 150)
    looks = ("--blades 0", "--blades 6", "--blades 6 --roundness 0.6", "--cat-eye 1", "--rim 0.8",
             "--rim -1")  # fmt: skip
    shots = {look: scene(f"{at} {look}").crop(corner) for look in looks}
    yield "pupil", sheet(shots, 3, 400)

    shots = {
        "--highlights 0": scene(f"{at} --highlights 0").crop(corner),
        "--highlights 1, a guess": scene(at).crop(corner),
        "the true light": true_light(1.0, 1.2).crop(corner),
    }
    yield "highlights", sheet(shots, 3, 400)

    true, ours = true_lens(2.2, 1.2), scene("--focus-distance 2.2 --f-number 1.2")
    shots = {"a thin lens, by ray tracing": true, "argan, from photo and depth": ours}
    levels = [np.asarray(picture) / 255 for picture in (true, ours, plain)]
    print(f"true lens: argan {psnr(*levels[:2]):.1f} dB, the photo {psnr(*levels[::2]):.1f} dB")
    yield "true-lens", sheet(shots, 2, 600)

    edge = (380, 230, 800, 440)
    shots = {name: scene(f"{at} --quality {name}").crop(edge) for name in ("final", "preview")}
    yield "quality", sheet(shots, 2, 440)

    # What a network gives: no metres, and so no true f-number.
    command = "render scene.png --disparity scene_relative.png --focus 525,340 --f-number"
    shots = {f"f/{n} by convention": run(f"{command} {n}") for n in ("1.8", "0.9")}
    yield "convention", sheet(shots, 2, 440)


# ---------------------------------------------------------------- docs/gallery.md


def gallery_pages(samples: Path, people: list[Path]) -> Iterator[tuple[str, Image.Image]]:
    write_pug(samples / "iphone_pug_depth.heic")
    at = "render pug.png --depth pug.npy --focus 930,930 --focal-length 26 --sensor-width 36"
    shots = {
        "photo": Image.open("pug.png").convert("RGB"),
        "the phone's depth": coloured("pug.npy"),
    }
    shots |= {f"f/{n}": run(f"{at} --f-number {n}") for n in ("2.8", "1.2")}
    yield "pug", sheet(shots, 2, 560)
    yield "pug-crops", crops(shots, ("photo", "f/1.2"), {
        "fur": (1000, 700, 1360, 940), "back": (500, 760, 860, 1000),
    })  # fmt: skip

    write_table(samples / "android_lensblur_gdepth.jpg")
    at = "render table.png --disparity table_disparity.png --f-number 0.9 --focus"
    shots = {"photo": Image.open("table.png").convert("RGB"),
             "the phone's depth": coloured("table_disparity.png"),
             "focus on a chair": run(f"{at} 540,600"),
             "focus on the street": run(f"{at} 545,340")}  # fmt: skip
    yield "table", sheet(shots, 4, 290)
    yield "table-crops", crops(
        shots, ("photo", "focus on a chair"), {"chair": (380, 560, 740, 800)}
    )

    model = os.path.relpath(samples.parent / "weights/selfie_segmentation.tflite")
    Path("person.toml").write_text(f'model = "{model}"\noutput = "disparity"\ntypical = [0, 1]\n')
    Image.open(samples / "astronaut_512.png").convert("RGB").save("astronaut.png")
    command = "refocus astronaut.png --model person.toml --focus 1 --f-number"
    shots = {"photo": Image.open("astronaut.png").convert("RGB")}
    shots |= {f"f/{n}": run(f"{command} {n}") for n in ("1.8", "0.7")}
    yield "astronaut", sheet(shots, 3, 380)
    yield "astronaut-crops", crops(shots, ("photo", "f/0.7"), {"hair": (130, 0, 310, 120)})

    for name, source in (("dahlia", "dahlia_427x640.jpg"), ("temple", "china_427x640.jpg")):
        shots = by_model(name, samples / source)
        yield name, sheet(shots, 4, 290)
    yield "dandelions", sheet(by_model("dandelions", samples / "dandelions.jpg"), 4, 290)
    yield "stream", sheet(by_model("stream", samples / "stream.jpg"), 4, 290)


    for bundle in people:
        if not bundle.exists():
            print(f"{bundle} is not there (make {bundle.stem}-model): no picture of its")
            continue
        Path(bundle.name).write_bytes(bundle.read_bytes())
        name = f"astronaut-{bundle.stem}"
        shots = by_model(name, samples / "astronaut_512.png", f"--model {bundle.name}")
        yield name, sheet(shots, 4, 290)


def by_model(name: str, source: Path, model: str = "") -> dict[str, Image.Image]:
    """A photo, at most 1600 px wide, by the model that ships or another."""
    picture = Image.open(source).convert("RGB")
    picture.thumbnail((1600, 1600))
    picture.save(f"{name}.png")
    if argan(["depth", f"{name}.png", "-o", f"{name}_disparity.png", *model.split()]):
        raise SystemExit("argan depth failed")
    shots = {"photo": picture, "its depth": coloured(f"{name}_disparity.png")}
    command = f"refocus {name}.png {model} --f-number"
    return shots | {f"f/{n}": run(f"{command} {n}") for n in ("1.8", "0.9")}


def coloured(path: str) -> Image.Image:
    disparity = load_depth(path) if path.endswith(".npy") else photo.load_disparity(path)
    return Image.fromarray(photo.to_colours(disparity))


def crops(
    shots: dict[str, Image.Image], names: tuple[str, ...], boxes: dict[str, tuple[int, ...]]
) -> Image.Image:
    """Pieces of the pictures, a row for each place."""
    panels = {
        f"{place}, {name}": shots[name].crop(box)
        for place, box in boxes.items()
        for name in names
    }
    return sheet(panels, len(names), 480)


def write_pug(source: Path) -> None:
    """An iPhone's photo at half size, and its disparity in 1/m as metres at that size."""
    taken, found = photo.load(source), embedded.read(source)
    pixels = np.asarray(Image.fromarray(taken.pixels).reduce(2))
    exif = Image.Exif()
    exif.load(taken.exif)
    tags = exif.get_ifd(0x8769)
    write_photo("pug.png", pixels, {tag: tags[tag] for tag in (0x920A, 0xA405)})
    np.save("pug.npy", 1 / upsample.edge_aware(found.filled(), pixels))


def write_table(source: Path) -> None:
    """An Android phone's sharp photo and depth, from its Lens Blur picture."""
    found = embedded.read(source)
    pixels = found.original.pixels
    write_photo("table.png", pixels, {})
    photo.save_disparity("table_disparity.png", upsample.edge_aware(found.filled(), pixels))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--people", type=Path, nargs="*", metavar="BUNDLE",
                        default=[Path("out/people.argan"), Path("out/people-lite0.argan")])
    parser.add_argument("--work", type=Path, default=Path("out/pictures"))
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    samples, out = (options.data / "samples").resolve(), options.out.resolve()
    people = [path.resolve() for path in options.people]
    options.work.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    with chdir(options.work):
        write_scene()
        pages = [optics_pages()]
        if samples.exists():
            pages.append(gallery_pages(samples, people))
        else:
            print(f"{samples} is not there: no pictures for docs/gallery.md")
        for name, page in chain.from_iterable(pages):
            page.save(out / f"{name}.jpg", quality=QUALITY, optimize=True)


if __name__ == "__main__":
    main()
