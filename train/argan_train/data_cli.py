"""`argan data prepare`, `argan data split-by-blur`, `argan data download`: thin."""

from __future__ import annotations

import argparse
from pathlib import Path

from argan_train.download import DATASETS, download
from argan_train.prepare import NEAR_BITS, Settings, prepare
from argan_train.split_by_blur import PAGE, split

PREPARE_EXAMPLES = """examples:
  argan data prepare holiday_photos -o holiday128.zip
  argan data prepare 102flowers.tgz -o flowers64.zip --size 64
  argan data prepare "raw-{000..011}.tar" -o clean.tar --crop none --format png
"""
SPLIT_EXAMPLES = """examples:
  argan data split-by-blur flowers128.zip -o flowers-split
  argan data split-by-blur flowers128.zip -o flowers-split --size 64 --share 0.2
  argan train cycle-gan --deep flowers-split/deep --shallow flowers-split/shallow --out runs/cycle
"""
DOWNLOAD_EXAMPLES = """examples:
  argan data download flowers
  argan data download cub -o /mnt/sets
  argan train ar-gan --data data/102flowers.tgz --out runs/flowers
"""


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser("argan data", description="Photos to train on.")
    commands = parser.add_subparsers(dest="command", required=True)
    raw = argparse.RawDescriptionHelpFormatter
    _add_prepare(commands.add_parser(
        "prepare", help="any photos to a clean set", epilog=PREPARE_EXAMPLES, formatter_class=raw,
        description="Turn photos upright, crop, reduce, convert to sRGB, drop duplicates, and\n"
        "report what was dropped. The same photos in, the same bytes out.",
    ))  # fmt: skip
    _add_split(commands.add_parser(
        "split-by-blur", help="photos to two sets: background sharp, background blurred",
        epilog=SPLIT_EXAMPLES, formatter_class=raw,
        description="Copy the photos with the sharpest background to OUT/deep and those with the\n"
        f"most blurred to OUT/shallow, by a figure: look at OUT/{PAGE} before you train.",
    ))  # fmt: skip
    _add_download(commands.add_parser(
        "download", help="a published set", epilog=DOWNLOAD_EXAMPLES, formatter_class=raw,
        description="Download a published archive of photos and check it byte for byte; where it\n"
        "stops, run it again to go on. The archive can be trained on as it is.",
    ))  # fmt: skip
    arguments = parser.parse_args(argv)
    run = {"prepare": run_prepare, "split-by-blur": run_split, "download": run_download}
    return run[arguments.command](arguments)


def _add_prepare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", help='folder, .zip, .tar, .tgz or shards, as "raw-{000..011}.tar" in quotes'
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True,
        help="a .zip; a .tar (shards where it gets large); with any other name, a folder",
    )  # fmt: skip
    parser.add_argument(
        "--size", type=int, default=128,
        help="px of the shorter side; smaller photos are dropped (default: 128)",
    )  # fmt: skip
    parser.add_argument(
        "--crop", choices=["square", "none"], default="square",
        help="the centre square, or all of the photo (default: square)",
    )  # fmt: skip
    parser.add_argument(
        "--format", choices=["jpeg", "png"], default="jpeg", help="default: jpeg, quality 95"
    )
    parser.add_argument(
        "--near-duplicates", choices=["drop", "keep"], default="drop",
        help="photos that look like an earlier one, by a difference hash of which at most"
        f" {NEAR_BITS} bits in 128 differ (default: drop)",
    )  # fmt: skip
    parser.add_argument(
        "--overwrite", action="store_true", help="replace what an earlier run left at the output"
    )


def run_prepare(arguments: argparse.Namespace) -> int:
    settings = Settings(arguments.size, arguments.crop, arguments.format, arguments.near_duplicates)
    report, files = prepare(arguments.source, arguments.output, settings, arguments.overwrite)
    print(report)
    for file in files:
        print(file)
    return 0


def _add_split(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", help='folder, .zip, .tar, .tgz or shards, as "raw-{000..011}.tar" in quotes'
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="a folder")
    parser.add_argument(
        "--share", type=float, default=0.3,
        help="of the photos in each set; those between are left out (default: 0.3)",
    )  # fmt: skip
    parser.add_argument(
        "--size", type=int, default=128,
        help="px of the centre square that is looked at, best the size to train at; smaller photos"
        " are left out (default: 128)",
    )  # fmt: skip
    parser.add_argument(
        "--overwrite", action="store_true", help="replace what an earlier run left at the output"
    )


def run_split(arguments: argparse.Namespace) -> int:
    out: Path = arguments.output
    print(split(arguments.source, out, arguments.size, arguments.share, arguments.overwrite))
    print(f"{out / PAGE}\n{out / 'deep'}\n{out / 'shallow'}")
    return 0


def _add_download(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("set", choices=list(DATASETS))
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("data"), help="a folder (default: data)"
    )


def run_download(arguments: argparse.Namespace) -> int:
    dataset = DATASETS[arguments.set]
    print(f"{dataset.terms}\n{dataset.size / 1e6:,.0f} MB from {dataset.url}", flush=True)
    print(download(dataset, arguments.output))
    return 0
