"""Limits from the command line and from the table [tool.argan.verify] of a pyproject.toml:

    [tool.argan.verify]
    min-psnr = {int8 = 42}           # dB, by precision; or one number for all
    min-bokeh-psnr = 38
    max-drop = {delta1 = 0.01, abs_rel = 0.02}
    require = ["onnx", "tflite"]     # formats, variants, or "all"
    data = "tests/photos"            # relative to the file
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from argan.bundle import PRECISIONS
from argan.errors import InputError
from argan.files import check_readable
from argan.verify.result import MAX_DROP, MIN_BOKEH_PSNR, MIN_PSNR, Limits

KEYS = ("min-psnr", "min-bokeh-psnr", "max-drop", "require", "data")
Table = Mapping[str, Any]


def find_table(config: Path | None) -> tuple[Table, Path | None]:
    """The table, and its file: `config`, or the nearest pyproject.toml upwards that has one; empty
    and None where there is none. InputError where it can't be read or has an unknown key."""
    if config is not None:
        check_readable(config, "a pyproject.toml")
    here = Path.cwd()
    places = [config] if config else [p / "pyproject.toml" for p in (here, *here.parents)]
    for path in places:
        if not path.is_file():
            continue
        try:
            tool = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {})
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
            raise InputError(f"{path} is no TOML: {error}") from error
        table = tool.get("argan", {}).get("verify")
        if isinstance(table, dict):
            for key in table:
                if key not in KEYS:
                    raise InputError(f"{path}: no key {key!r}; there are {', '.join(KEYS)}")
            return table, path
        if config is not None:
            raise InputError(f"{path} has no table [tool.argan.verify]")
    return {}, None


def read(
    table: Table,
    min_psnr: Sequence[str] = (),
    min_bokeh_psnr: float | None = None,
    max_drop: Sequence[str] = (),
    require: Sequence[str] = (),
) -> Limits:
    """What the table says, with flags such as "int8=42", "40" and "delta1=0.02" before it."""
    least = table.get("min-psnr", {})
    least = {"": least} if not isinstance(least, dict) else least
    drops = table.get("max-drop", {})
    if not isinstance(drops, dict):
        raise InputError(f"max-drop = {drops!r}: give a table, {{delta1 = 0.01}}")
    wanted = table.get("require", [])
    wanted = [wanted] if isinstance(wanted, str) else wanted
    return Limits(
        min_psnr=_merged("min-psnr", MIN_PSNR, least, min_psnr, PRECISIONS),
        min_bokeh_psnr=_number(
            "min-bokeh-psnr",
            table.get("min-bokeh-psnr", MIN_BOKEH_PSNR) if min_bokeh_psnr is None
            else min_bokeh_psnr,
        ),
        max_drop=_merged("max-drop", MAX_DROP, drops, max_drop, tuple(MAX_DROP)),
        require=tuple(require or map(str, wanted)),
    )  # fmt: skip


def _merged(
    key: str, default: Mapping[str, float], table: Table, flags: Sequence[str],
    names: tuple[str, ...],
) -> dict[str, float]:  # fmt: skip
    """Of one key: the defaults, then the table, then the flags, "NAME=NUMBER" or "NUMBER"."""
    limits = dict(default)
    pairs = [(name, value) for name, value in table.items()]
    for flag in flags:
        name, equals, value = flag.rpartition("=")
        pairs.append((name if equals else "", value))
    for name, value in pairs:
        if name and name not in names:
            raise InputError(f"{key} {name}: there are {', '.join(names)}")
        for each in [name] if name else names:
            limits[each] = _number(key, value)
    return limits


def _number(key: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise InputError(f"{key} {value!r}: give a number, as in 40 or NAME=40")
    return number
