"""A report for a terminal, for programs (JSON), for CI (JUnit XML), and to look at (HTML)."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from html import escape
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
from PIL import Image
from rich.table import Table
from rich.text import Text

from argan import __version__
from argan.metrics import MOST_DB
from argan.verify.result import Array, Check, Report, Result

BINS = 48
PICTURE_PX = 256  # side at which a picture is shown

# Of a result: heading, how to write it, where it lies.
COLUMNS = {
    "PSNR dB": ("{:.1f}", "golden", "psnr_db"),
    "max abs": ("{:.1e}", "golden", "max_abs"),
    "SNR dB": ("{:.1f}", "golden", "snr_db"),
    "rank corr.": ("{:.5f}", "golden", "spearman"),
    "photos dB": ("{:.1f}", "photos", "psnr_db"),
    "worst dB": ("{:.1f}", "photos", "worst_db"),
    "bokeh dB": ("{:.1f}", "photos", "bokeh_psnr_db"),
    "delta1 lost": ("{:+.4f}", "photos", "delta1 lost"),
    "AbsRel lost": ("{:+.2%}", "photos", "abs_rel lost"),
    "p50 ms": ("{:.1f}", "speed", "p50_ms"),
    "MiB": ("{:.0f}", "speed", "peak_mib"),
}


def verdict(result: Result) -> str:
    if result.not_checked:
        return "not checked"
    return "passed" if result.passed else "FAILED"


def rows(report: Report) -> tuple[list[str], list[list[str]]]:
    """Headings, those that have a figure, and a row for each variant."""
    values = {
        heading: [_figure(result, form, group, key) for result in report.results]
        for heading, (form, group, key) in COLUMNS.items()
    }
    values = {heading: column for heading, column in values.items() if any(column)}
    lines = [
        [r.variant.name, *(column[i] or "-" for column in values.values()), f"{r.bytes / 1e3:.0f}",
         verdict(r)]
        for i, r in enumerate(report.results)
    ]  # fmt: skip
    return ["variant", *values, "kB", ""], lines


def _figure(result: Result, form: str, group: str, key: str) -> str:
    fields: Mapping[str, float] = getattr(result, group)
    if group == "golden":
        fields = result.golden.get("disparity", {})
    if fields.get(key) == MOST_DB:
        return "same"
    return form.format(fields[key]) if key in fields else ""


def table(report: Report) -> Table:
    """For a terminal."""
    headings, lines = rows(report)
    made = Table(title=Text(title(report)))
    for i, heading in enumerate(headings):
        ends = i in (0, len(headings) - 1)
        made.add_column(heading, justify="left" if ends else "right", no_wrap=ends)
    for line in lines:
        style = {"FAILED": "red", "passed": "green"}.get(line[-1], "dim")
        made.add_row(*map(Text, line[:-1]), Text(line[-1], style))
    return made


def title(report: Report) -> str:
    name = printable(report.content.manifest.get("name", ""))
    photos, truths = report.photos
    seen = f" and {photos} photo{'s' * (photos > 1)}" if photos else ""
    truth = f", {truths} with ground truth" if truths else ""
    judge = f", against {report.reference.get('disparity')}" if photos else ""
    return f"{name} on golden.npz{seen}{truth}{judge}"


def remarks(report: Report) -> Iterator[str]:
    """A line for each thing that the table has no room for."""
    for check in report.checks:
        yield f"{'ok' if check.passed else 'FAILED'}: {_said(check)}"
    reasons = dict.fromkeys(r.not_checked for r in report.results if r.not_checked)
    for reason in reasons:
        names = ", ".join(r.variant.name for r in report.results if r.not_checked == reason)
        yield f"not checked: {names}: {printable(reason)}"
    for result in report.results:
        name = result.variant.name
        for fault in result.faults:
            yield f"FAILED: {name}: {fault.name}: {printable(fault.detail)}"
        details = [fault.detail for fault in result.faults]
        for check in result.checks:
            if not check.passed and not any(d.startswith(check.measured) for d in details):
                yield f"FAILED: {name}: {_said(check)}"


def _said(check: Check) -> str:
    wanted = f", wanted {check.limit}" if check.limit else ""
    return printable(f"{check.name}: {check.measured}{wanted}")


def printable(text: object) -> str:
    """One line without control characters: what is shown may come from a hostile file."""
    return "".join(c if c.isprintable() else " " for c in str(text))


# ---- for programs


def to_json(report: Report) -> bytes:
    """Everything but the pictures."""
    return (json.dumps(_plain(report), indent=1, allow_nan=False) + "\n").encode()


def _plain(report: Report) -> dict[str, Any]:
    return {
        "bundle": report.content.manifest.get("name", ""),
        "argan": __version__,
        "passed": report.passed,
        "checks": [check._asdict() for check in report.checks],
        "reference": report.reference,
        "photos": {"count": report.photos[0], "with_truth": report.photos[1]},
        "variants": [
            {
                "name": r.variant.name, "graph": r.variant.graph, "format": r.variant.format,
                "precision": r.variant.precision, "bytes": r.bytes, "verdict": verdict(r),
                "not_checked": r.not_checked or None, "golden": _finite(r.golden),
                "photos": _finite(r.photos), "dtypes": r.dtypes, "speed": _finite(r.speed),
                "checks": [check._asdict() for check in r.checks],
                "faults": [fault._asdict() for fault in r.faults],
            }
            for r in report.results
        ],
    }  # fmt: skip


def _finite(fields: Mapping[str, Any]) -> dict[str, Any]:
    """NaN and infinity as null, which JSON has."""
    return {
        name: _finite(value) if isinstance(value, dict)
        else value if math.isfinite(value) else None
        for name, value in fields.items()
    }  # fmt: skip


def to_junit(report: Report) -> bytes:
    """A suite for the bundle and one for each variant; a test for each check and each fault."""
    name = printable(report.content.manifest.get("name", "bundle"))
    suites = ElementTree.Element("testsuites", name="argan verify")
    whole = [(check.name, check.passed, _said(check)) for check in report.checks]
    _suite(suites, name, [*whole, ("read", True, "")])
    for result in report.results:
        cases = [(check.name, check.passed, _said(check)) for check in result.checks]
        cases += [(f.name, False, printable(f"{f.name}: {f.detail}")) for f in result.faults]
        _suite(suites, f"{name}.{result.variant.name}", cases, printable(result.not_checked))
    ElementTree.indent(suites)
    return bytes(ElementTree.tostring(suites, "utf-8", xml_declaration=True)) + b"\n"


def _suite(
    suites: ElementTree.Element, name: str, cases: Sequence[tuple[str, bool, str]],
    skipped: str = "",
) -> None:  # fmt: skip
    failures = sum(not passed for _, passed, _ in cases)
    suite = ElementTree.SubElement(
        suites, "testsuite", name=name, tests=str(max(len(cases), 1)), failures=str(failures),
        errors="0", skipped=str(int(bool(skipped))),
    )  # fmt: skip
    if skipped:
        case = ElementTree.SubElement(suite, "testcase", classname=name, name="runs")
        ElementTree.SubElement(case, "skipped", message=skipped)
    for title, passed, said in cases:
        case = ElementTree.SubElement(suite, "testcase", classname=name, name=title)
        if not passed:
            ElementTree.SubElement(case, "failure", message=said)


# ---- to look at

STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --dim: #5a5a5a; --paper: #ffffff;
  --line: #c8c8c8; --good: #0b6b2e; --bad: #b3261e; --bar: #35618f; --other: #c77d1e; }
@media (prefers-color-scheme: dark) { :root { --ink: #eeeeee; --dim: #b4b4b4; --paper: #161616;
  --line: #4a4a4a; --good: #6fcf8c; --bad: #ff8a80; --bar: #8ab4e8; --other: #e8b45f; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } caption { text-align: left; color: var(--dim); }
th, td { padding: .25rem .75rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child, td:last-child { text-align: left; }
.scroll { overflow-x: auto; } .passed { color: var(--good); } .FAILED { color: var(--bad); }
figure { display: inline-block; margin: 0 1rem 1rem 0; vertical-align: top; }
.words td, .words th { text-align: left; } table { margin-bottom: 1rem; }
figure img { width: 256px; height: auto; display: block; image-rendering: pixelated; }
figcaption { color: var(--dim); font-size: .875rem; max-width: 256px; }
svg text { fill: var(--ink); font: 12px system-ui, sans-serif; }
"""


def to_html(report: Report) -> bytes:
    """One file with its pictures in it; loads nothing."""
    name = escape(printable(report.content.manifest.get("name", "")))
    headings, lines = rows(report)
    state = "passed" if report.passed else "FAILED"
    head = "".join(f'<th scope="col">{escape(h) or "verdict"}</th>' for h in headings)
    body = "".join(
        f'<tr><th scope="row">{escape(line[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in line[1:-1])
        + f'<td class="{line[-1].split()[-1]}">{line[-1]}</td></tr>'
        for line in lines
    )
    said = "".join(f"<li>{escape(remark)}</li>" for remark in remarks(report))
    parts = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>argan verify: {name},'
        f' {state}</title><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body><main>",
        f'<h1>{name}: <span class="{state}">{state}</span></h1>',
        f'<div class="scroll"><table><caption>{escape(title(report))}; argan {__version__}'
        f"</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>",
        f"<ul>{said}</ul>" if said else "",
        *(_section(r, _search(report, r)) for r in report.results if not r.not_checked),
        "</main></body></html>\n",
    ]
    return "\n".join(part for part in parts if part).encode()


def _section(result: Result, search: str) -> str:
    """A variant: its checks, its pictures, its histogram, its layers."""
    name = escape(result.variant.name)
    checks = "".join(
        f'<tr><th scope="row">{escape(check.name)}</th><td>{escape(printable(check.measured))}</td>'
        f'<td>{escape(printable(check.limit))}</td><td class="{state}">{state}</td></tr>'
        for check in result.checks
        for state in ["passed" if check.passed else "FAILED"]
    )
    return (
        f"<h2>{name}</h2>"
        f'<div class="scroll"><table class="words"><caption>checks of {name}</caption><thead><tr>'
        '<th scope="col">check</th><th scope="col">measured</th><th scope="col">wanted</th>'
        f'<th scope="col">verdict</th></tr></thead><tbody>{checks}</tbody></table></div>'
        + "".join(_pictures(result))
        + "".join(_worst(result))
        + search
    )


def _pictures(result: Result) -> Iterator[str]:
    shown, name = result.pictures, result.variant.name
    if "got" not in shown:
        return
    yield _figure_of(_photo(shown["image"]), "input", f"the picture that {name} was given")
    expected, got = shown["expected"][0, 0], shown["got"][0, 0]
    yield from _maps(expected, got, name)
    if "got bokeh" in shown:
        yield _figure_of(_photo(shown["expected bokeh"]), "bokeh, expected", "expected bokeh")
        yield _figure_of(_photo(shown["got bokeh"]), "bokeh, got", f"bokeh of {name}")
    yield _histogram(name, expected, got)


def _worst(result: Result) -> Iterator[str]:
    """The photo that it is worst at, and what it makes of it."""
    worst = result.worst
    if worst is None:
        return
    pixels = worst.pixels if worst.pixels.dtype == np.uint8 else worst.pixels // 257
    title = f"the photo farthest from the reference, {worst.psnr_db:.1f} dB: {worst.name}"
    yield f"<h3>{escape(printable(title))}</h3>"
    yield _figure_of(pixels.astype(np.uint8), "photo", printable(worst.name))
    yield from _maps(worst.expected, worst.got, result.variant.name)
    bokeh = _photo(worst.bokeh.transpose(2, 0, 1)[None])
    yield _figure_of(bokeh, "rendered with it", f"the photo rendered with {result.variant.name}")


def _maps(expected: Array, got: Array, name: str) -> Iterator[str]:
    """Two disparities [H, W] in the same colours, and their difference."""
    ends = float(expected.min()), float(expected.max())
    between = f"dark {ends[0]:.3g} (far) to bright {ends[1]:.3g} (near)"
    yield _figure_of(_map(expected, *ends), "disparity, expected", f"expected: {between}")
    yield _figure_of(_map(got, *ends), "disparity, got", f"what {name} gives: {between}")
    if got.shape == expected.shape:
        error = np.abs(got - expected)
        most = float(np.nanmax(error, initial=0.0))
        words = f"absolute error, dark 0 to bright {most:.2e}"
        yield _figure_of(_map(error, 0.0, most), words, f"error of {name}")


def _figure_of(pixels: Any, caption: str, alt: str) -> str:
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((PICTURE_PX, PICTURE_PX))
    image.save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{escape(alt)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _photo(planes: Array) -> Any:
    """[1, 3, H, W] in 0..1 -> uint8 [H, W, 3]."""
    pixels = np.nan_to_num(planes[0].transpose(1, 2, 0))
    return np.ascontiguousarray((np.clip(pixels, 0, 1) * 255).round().astype(np.uint8))


def _map(values: Array, low: float, high: float) -> Any:
    """[H, W] -> colours, uint8 [H, W, 3]; what is not finite is dark."""
    share = np.nan_to_num((values - low) / max(high - low, 1e-12), posinf=0.0, neginf=0.0)
    grey = (np.clip(share, 0, 1) * 255).round().astype(np.uint8)
    return np.ascontiguousarray(cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO)[..., ::-1])


def _histogram(name: str, expected: Array, got: Array) -> str:
    """How often each disparity is expected and given."""
    finite = got[np.isfinite(got)]
    if not finite.size:
        return ""
    low, high = float(expected.min()), float(expected.max())
    low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    counts = [
        np.histogram(v, BINS, (low, max(high, low + 1e-12)))[0] / v.size for v in (expected, finite)
    ]
    most = max(float(c.max()) for c in counts)
    width, height = 480, 120

    def outline(shares: Any) -> str:
        step = width / BINS
        steps = [f"H{(i + 1) * step:.1f}" for i in range(BINS)]
        return f"M0 {height}" + "".join(
            f"V{height - share / most * (height - 10):.1f}{to}"
            for share, to in zip(shares, steps, strict=True)
        )

    label = escape(f"histogram of the disparity: expected, and what {name} gives")
    return (
        f'<figure><svg role="img" aria-label="{label}" width="{width}" height="{height + 40}"'
        f' viewBox="0 0 {width} {height + 40}"><title>{label}</title>'
        f'<path d="{outline(counts[0])}V{height}Z" fill="var(--bar)" fill-opacity="0.35"/>'
        f'<path d="{outline(counts[1])}" fill="none" stroke="var(--other)" stroke-width="2"/>'
        f'<text x="0" y="{height + 16}">{low:.3g}</text>'
        f'<text x="{width}" y="{height + 16}" text-anchor="end">{high:.3g}</text>'
        f'<text x="0" y="{height + 34}">filled: expected; line: got</text></svg></figure>'
    )


def _search(report: Report, result: Result) -> str:
    """Of quantization.json: how far each layer of a variant, alone in int8, takes the disparity."""
    try:
        searches = json.loads(report.content.files.get("quantization.json", b"{}"))
        search = searches["variants"][result.variant.name]
        layers = {str(layer): float(decibels) for layer, decibels in search["layers"].items()}
        kept = set(map(str, search.get("kept", ())))
    # It is for people, and of any form: what can't be shown is not.
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return ""
    return f"<h3>layers</h3>{_bars(result.variant.name, layers, kept)}"


def _bars(name: str, values: Mapping[str, float], kept: Collection[str]) -> str:
    """PSNR of each layer as a bar, in the order in which they run."""
    values = {layer: value for layer, value in values.items() if math.isfinite(value)}
    most, row, left, width = max([*values.values(), 1.0]), 18, 300, 760
    lines = []
    for i, (layer, value) in enumerate(values.items()):
        length = max(0.0, value / most * (width - left - 120))
        fill = "var(--other)" if layer in kept else "var(--bar)"
        word = f"{value:.1f} dB" + (", kept in float" if layer in kept else "")
        lines.append(
            f'<text x="{left - 8}" y="{i * row + 13}" text-anchor="end">'
            f"{escape(printable(layer)[-42:])}</text>"
            f'<rect x="{left}" y="{i * row + 3}" width="{length:.1f}" height="{row - 6}"'
            f' fill="{fill}"/><text x="{left + length + 6:.1f}" y="{i * row + 13}">{word}</text>'
        )
    label = escape(printable(f"PSNR of {name} with one layer alone in int8, for each layer"))
    height = len(values) * row + 4
    return (
        f'<div class="scroll"><svg role="img" aria-label="{label}" width="{width}"'
        f' height="{height}" viewBox="0 0 {width} {height}"><title>{label}</title>'
        + "".join(lines)
        + "</svg></div>"
    )
