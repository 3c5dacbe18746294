"""Photos that nobody took: python examples/generate.py RUN OUT.png   (needs argan[train])

RUN is the folder of an ar-gan run, such as weights/flowers64. Rows: the sharp image, its disparity
(white = near), and the photograph through a wide lens.
"""

import sys
from pathlib import Path

import torch
from PIL import Image

from argan_train.ar_gan import load_generator
from argan_train.sample import draw


def main(run: str, out: str, count: int = 8, seed: int = 0) -> None:
    generator, config = load_generator(Path(run), torch.device("cpu"))
    Image.fromarray(draw(generator, config, count, seed)["grid"]).save(out)


if __name__ == "__main__":
    main(*sys.argv[1:3])
