"""The page at the end of a run: what was trained, how it went, what came of it."""

from __future__ import annotations

import base64
import html
import json
from pathlib import Path
from typing import Any

from argan_train import checkpoint

# Curves that belong on one plot: by the start of their names; the rest get a plot each.
TOGETHER = {
    "the game": ("d_main", "g_main"),
    "the photos' logit and R1": ("d_real", "d_r1"),
    "correlation with the prior, with edges": ("prior_correlation", "edge_correlation"),
    "|D| at the centre and the border, deviation over samples (px)": (
        "centre_px", "border_px", "variation_px",
    ),
}  # fmt: skip
COLOURS = ("#1f77b4", "#d62728", "#2ca02c")
WIDTH, HEIGHT = 360, 150  # px of a plot
STYLE = """body{font:15px sans-serif;max-width:75em;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse}td{padding:.15em 1em .15em 0;vertical-align:top}
figure{display:inline-block;margin:0 1em 1em 0}img{max-width:100%;image-rendering:pixelated}
figcaption{font-size:13px}svg{background:#f6f6f6}"""


def read_log(path: Path) -> list[dict[str, float]]:
    """The lines of a log.jsonl; a last one that a killed process left unfinished is left out."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def write(folder: Path) -> Path:
    """summary.html of a run folder, one file with its curves and its last picture inside."""
    about, log = checkpoint.read_json(folder / "config.json"), read_log(folder / "log.jsonl")
    page = folder / "summary.html"
    partial = page.with_name(page.name + ".partial")
    partial.write_text(render(folder.name, about, log, sorted((folder / "samples").glob("*.png"))))
    partial.replace(page)
    return page


def render(
    name: str, about: dict[str, Any], log: list[dict[str, float]], pictures: list[Path]
) -> str:
    title = html.escape(f"{name}: {about['method']}")
    facts = {
        "steps": about["steps"],
        "minutes": round(about["seconds"] / 60, 1),
        "images per second": log[-1]["images_per_s"] if log else "-",
        "device": about["device"],
        "data": about["data"].get("source", ", ".join(about["data"].get("teachers", {}))),
        "seed": about["settings"]["seed"],
    } | {f"last {key}": value for key, value in (log[-1] if log else {}).items()
         if key not in ("step", "seconds", "images_per_s")}  # fmt: skip
    last = ""
    if pictures:
        data = base64.b64encode(pictures[-1].read_bytes()).decode()
        last = f'<p><img src="data:image/png;base64,{data}" alt="grid with fixed latents"></p>'
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>{STYLE}</style><h1>{title}</h1>
{last}
{table(facts)}
<h2>Curves</h2>
{curves(log)}
<h2>Settings</h2>
{table(about["settings"])}
<h2>Versions</h2>
{table(about["versions"])}
</html>
"""


def table(rows: dict[str, Any]) -> str:
    cells = (f"<tr><td>{html.escape(str(k))}<td>{html.escape(str(v))}" for k, v in rows.items())
    return f"<table>{''.join(cells)}</table>"


def curves(log: list[dict[str, float]]) -> str:
    names = [k for k in (log[-1] if log else {}) if k not in ("step", "seconds", "images_per_s")]
    grouped = {name for group in TOGETHER.values() for name in group}
    groups = {caption: [n for n in group if n in names] for caption, group in TOGETHER.items()}
    groups |= {name: [name] for name in names if name not in grouped}
    return "".join(plot(caption, group, log) for caption, group in groups.items() if group)


def plot(caption: str, names: list[str], log: list[dict[str, float]]) -> str:
    """One figure: lines over the steps, on one scale."""
    series = {n: [(line["step"], line[n]) for line in log if n in line] for n in names}
    values = [value for points in series.values() for _, value in points]
    low, high = min(values), max(values)
    span, steps = (high - low) or 1.0, max(log[-1]["step"], 1)
    lines = []
    for colour, points in zip(COLOURS, series.values(), strict=False):
        path = " ".join(
            f"{x / steps * WIDTH:.1f},{HEIGHT - 5 - (y - low) / span * (HEIGHT - 10):.1f}"
            for x, y in points
        )
        lines.append(f'<polyline fill="none" stroke="{colour}" points="{path}"/>')
    key = ", ".join(
        f'<span style="color:{colour}">{name}</span>'
        for colour, name in zip(COLOURS, names, strict=False)
    )
    about = key if caption in names else f"{html.escape(caption)}: {key}"
    return (
        f'<figure><svg width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}">'
        f"{''.join(lines)}</svg><figcaption>{about}<br>{low:.4g} to {high:.4g}</figcaption>"
        "</figure>"
    )
