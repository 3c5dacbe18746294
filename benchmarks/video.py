"""Is the depth of a clip steady, and are its moving outlines sharp?

    python benchmarks/video.py --data ../shared/data/oracle-public

Clips of 40 frames are made of the oracle's scenes, whose disparity is known: the camera pans by a
pixel a frame, and what is nearest moves across the rest by three. The frames get the noise of a
sensor. Two kinds of maps: "degraded" is the truth as a network might give it, shrunk, blurred, with
another scale, offset and smooth noise in each frame; "network" is what the default model says.

flicker   temporal standard deviation of the disparity in what stands still (the pan is undone), at
          full size, in percent of the clip's range; mean over pixels
jump      mean change from frame to frame there, likewise
outline   mean error of the disparity within 6 px of the moving outline, in percent of the range,
          after the best scale and offset for the whole clip
"each frame" is the maps as they are, "averaged" an average over time without motion, with the same
time constant, for comparison. All maps are brought to full size by argan.upsample.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import cv2
import numpy as np

import argan
from argan import photo, steady
from argan.refocus import network_image
from argan.upsample import edge_aware

FRAMES, FPS = 40, 30
SIZE = 288, 384  # of the clip
MAP = 72, 96
CHOSEN_ON = ("toys_11", "flowers_11")


def clip(folder: Path) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Frames uint8, true disparity in 0..1, and where its near thing is."""
    image, disparity = photo.load(folder / "aif.png").pixels, photo.load_disparity(
        folder / "disp.png"
    )
    near = (disparity > np.quantile(disparity, 0.85)).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(near)
    near = (labels == 1 + np.argmax(stats[1:, cv2.CC_STAT_AREA])).astype(np.uint8)
    hole = cv2.dilate(near, np.ones((5, 5)))
    behind = cv2.inpaint(image, hole, 5, cv2.INPAINT_TELEA)
    level = cv2.inpaint((disparity * 65535).astype(np.uint16), hole, 5, cv2.INPAINT_TELEA)
    level = level.astype(np.float32) / 65535
    rng = np.random.default_rng(0)
    frames, truths, masks = [], [], []
    height, width = SIZE
    for t in range(FRAMES):
        shift = np.float32([[1, 0, 3 * t - 1.5 * FRAMES], [0, 1, 0]])
        mask, over, depth = (
            cv2.warpAffine(a, shift, image.shape[1::-1], flags=cv2.INTER_LINEAR)
            for a in (near.astype(np.float32), image, disparity)
        )
        soft = cv2.GaussianBlur(mask, (0, 0), 0.7)[..., None]
        whole = behind * (1 - soft) + over * soft + rng.normal(0, 1.5, image.shape)
        window = slice(40, 40 + height), slice(t + 20, t + 20 + width)
        frames.append(np.clip(whole, 0, 255).astype(np.uint8)[window])
        truths.append(np.where(mask > 0.5, depth, level)[window])
        masks.append((mask > 0.5)[window])
    return frames, truths, masks


def degraded(truth: np.ndarray, t: int) -> np.ndarray:
    rng = np.random.default_rng(t)
    small = cv2.GaussianBlur(cv2.resize(truth, MAP[::-1], interpolation=cv2.INTER_AREA), (0, 0), 1)
    noise = cv2.resize(rng.normal(0, 0.03, (6, 8)), MAP[::-1], interpolation=cv2.INTER_CUBIC)
    return (small * rng.normal(1, 0.08) + rng.normal(0, 0.04) + noise).astype(np.float32)


def every_frame(maps: list[np.ndarray], frames: list[np.ndarray]) -> list[np.ndarray]:
    return maps


def averaged(maps: list[np.ndarray], frames: list[np.ndarray]) -> list[np.ndarray]:
    kept, out = math.exp(-1 / FPS / steady.AVERAGED_S), [maps[0]]
    for current in maps[1:]:
        out.append(kept * out[-1] + (1 - kept) * current)
    return out


def steadied(maps: list[np.ndarray], frames: list[np.ndarray]) -> list[np.ndarray]:
    run = steady.Steady()
    return [run(small, frame, 1 / FPS) for small, frame in zip(maps, frames, strict=True)]


def measure(
    maps: list[np.ndarray],
    frames: list[np.ndarray],
    truths: list[np.ndarray],
    masks: list[np.ndarray],
) -> tuple[float, float, float]:
    """Flicker, jump and outline, in percent; no outline (NaN) where it has left the view."""
    full = np.stack([edge_aware(m, f) for m, f in zip(maps, frames, strict=True)])
    spread = float(np.ptp(np.percentile(full, [2, 98])))
    settled = range(FRAMES // 4, FRAMES)

    def still(planes: np.ndarray | list[np.ndarray], t: int) -> np.ndarray:
        """The same part of the background in every frame."""
        return planes[t][:, FRAMES - t : SIZE[1] - t]

    near = [cv2.dilate(mask.astype(np.uint8), np.ones((25, 25))) for mask in masks]
    free = ~np.any([still(near, t) for t in settled], axis=0)
    tracks = np.stack([still(full, t)[free] for t in settled])
    flicker = tracks.std(axis=0).mean() / spread
    jump = np.abs(np.diff(tracks, axis=0)).mean() / spread

    truth, window = np.stack(truths), np.ones((13, 13))
    a, b = steady.fit(full.ravel(), truth.ravel(), np.ones(full.size, np.float32))
    errors: list[float] = []
    for t in settled:
        mask = masks[t].astype(np.uint8)
        band = cv2.dilate(mask, window) > cv2.erode(mask, window)  # empty once it has left
        errors += np.abs(a * full[t] + b - truth[t])[band].tolist()
    outline = float(np.mean(errors)) / float(np.ptp(truth)) if errors else math.nan
    return 100 * flicker, 100 * jump, 100 * outline


def show(name: str, kind: str, way: str, found: tuple[float, ...]) -> None:
    print(f"{name:12} {kind:9} {way:12}", *(f"{value:8.2f}" for value in found), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--scenes", nargs="*")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model = argan.load(threads=1)
    rows: dict[str, dict[str, list[tuple[float, float, float]]]] = {}
    names = options.scenes or sorted(
        p.name for p in options.data.glob("*_??") if p.name not in CHOSEN_ON
    )
    for name in names:
        frames, truths, masks = clip(options.data / name)
        kinds = {
            "degraded": [degraded(truth, t) for t, truth in enumerate(truths)],
            "network": [
                model.backend.run({"image": network_image(f, model.model.image)})["disparity"][0, 0]
                for f in frames
            ],
        }
        for kind, maps in kinds.items():
            for how in (every_frame, averaged, steadied):
                found = measure(how(maps, frames), frames, truths, masks)
                rows.setdefault(kind, {}).setdefault(how.__name__, []).append(found)
                show(name, kind, how.__name__, found)
    for kind, ways in rows.items():
        for way, found in ways.items():
            show("mean", kind, way, tuple(np.nanmean(found, axis=0)))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
