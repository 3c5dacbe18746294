"""Refocus one photo and lay the steps side by side: python examples/refocus.py PHOTO OUT_FOLDER"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

import argan


def main(photo: str, folder: str) -> None:
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    image = Image.open(photo).convert("RGB")
    result = argan.refocus(image, focus="auto", f_number=1.4)
    grey = np.clip(result.disparity, 0, 1) * 255
    disparity = Image.fromarray(grey.astype(np.uint8))
    pictures = {"input": image, "disparity": disparity, "bokeh": result.image}
    page = Image.new("RGB", (image.width * len(pictures), image.height))
    for i, (name, picture) in enumerate(pictures.items()):
        picture.save(out / f"{name}.png")
        page.paste(picture.convert("RGB"), (i * image.width, 0))
    page.save(out / "side-by-side.png")
    print(f"sharp at disparity {result.focus:.2f}; pictures are in {out}")


if __name__ == "__main__":
    main(*sys.argv[1:])
