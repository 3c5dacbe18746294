"""The whole chain on the toy world, tiny: python examples/train_tiny.py OUT_FOLDER [STEPS]

Trains an AR-GAN, distils an AR-GAN-DR, exports it, and runs the bundle. Needs argan[train,export].
A few hundred steps take a minute and learn little; `make train-smoke` is long enough for depth.
"""

import sys
from pathlib import Path

import numpy as np

import argan
from argan_export.cli import main as export
from argan_train.cli import train
from argan_train.toy import ToyWorld


def main(folder: str, steps: str = "300") -> None:
    out = Path(folder)
    gan, student, bundle = out / "gan", out / "student", out / "tiny.argan"
    train(["ar-gan", "--preset", "toy32", "--data", "toy", "--out", str(gan), "--steps", steps])
    train(["ar-gan-dr", "--preset", "dr32", "--teacher", str(gan), "--out", str(student),
           "--steps", steps])  # fmt: skip
    export([str(student), "-o", str(bundle)])
    photo = ToyWorld(32, seed=1).batch(1).sharp[0].transpose(1, 2, 0)
    disparity = argan.load(bundle).depth((photo * 255).astype(np.uint8))
    print(f"disparity {disparity.shape}, from {disparity.min():.2f} to {disparity.max():.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
