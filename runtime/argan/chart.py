"""Bar charts as PNG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

COLOURS = ("#35618f", "#e39b3a", "#5b9a68", "#a54f63")
INK, LINE = "#222222", "#999999"
WIDTH, MARGIN, LABEL, VALUE = 1000, 24, 240, 130  # px; labels left of the bars, values right
TEXT, BAR, GAP = 16, 16, 10


@dataclass(frozen=True)
class Bar:
    """A value, 0 or more, with what it is called in the legend and the end of its whisker."""

    series: str
    value: float
    high: float | None = None


def bars(panels: Mapping[str, Mapping[str, Sequence[Bar]]]) -> bytes:
    """{heading: {label: bars}} -> PNG, panel under panel, each to its own scale from 0."""
    panels = {heading: rows for heading, rows in panels.items() if any(rows.values())}
    height = MARGIN + sum(_height(rows) for rows in panels.values())
    image = Image.new("RGB", (WIDTH, height), "white")
    draw = ImageDraw.Draw(image)
    top = MARGIN
    for heading, rows in panels.items():
        _panel(draw, top, heading, rows)
        top += _height(rows)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _height(rows: Mapping[str, Sequence[Bar]]) -> int:
    return 2 * TEXT + sum(len(row) * BAR + GAP for row in rows.values()) + MARGIN


def _panel(
    draw: ImageDraw.ImageDraw, y: int, heading: str, rows: Mapping[str, Sequence[Bar]]
) -> None:
    font = ImageFont.load_default(TEXT)
    draw.text((MARGIN, y), heading, INK, font)
    series = list(dict.fromkeys(bar.series for row in rows.values() for bar in row))
    after = MARGIN + int(draw.textlength(heading, font))
    widths = [2 * TEXT + int(draw.textlength(name, font)) if name else 0 for name in series]
    x = max(after + TEXT, min(after + LABEL, WIDTH - MARGIN + TEXT - sum(widths)))
    for name, colour, width in zip(series, COLOURS, widths, strict=False):
        if name:
            draw.rectangle((x, y + 4, x + TEXT - 4, y + TEXT), colour)
            draw.text((x + TEXT, y), name, INK, font)
            x += width
    y += 2 * TEXT
    most = max(max(bar.value, bar.high or 0) for row in rows.values() for bar in row) or 1
    left, scale = MARGIN + LABEL, (WIDTH - 2 * MARGIN - LABEL - VALUE) / most
    for label, row in rows.items():
        draw.text((MARGIN, y + (len(row) * BAR - TEXT) // 2 - 2), label[:28], INK, font)
        for bar in row:
            colour = COLOURS[series.index(bar.series) % len(COLOURS)]
            end = left + round(bar.value * scale)
            draw.rectangle((left, y, end, y + BAR - 3), colour)
            said = _figure(bar.value)
            if bar.high is not None:
                tip = left + round(bar.high * scale)
                draw.line((end, y + BAR // 2 - 1, tip, y + BAR // 2 - 1), LINE, 2)
                draw.line((tip, y + 2, tip, y + BAR - 5), LINE, 2)
                end, said = max(end, tip), f"{said} / {_figure(bar.high)}"
            draw.text((end + 8, y - 3), said, INK, font)
            y += BAR
        y += GAP


def _figure(value: float) -> str:
    """Three digits, or all of a larger number."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
