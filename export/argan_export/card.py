"""CARD.md of a bundle: what it learnt from, for how long, how well it does, where it fails."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from argan_export.graph import DepthGraph

NO_LICENCE = """The licence of these weights was not stated when they were exported. The photographs
that they were learnt from belong to their owners. argan's own Apache-2.0 licence does
not cover weights.
"""


def card(
    name: str,
    graph: DepthGraph,
    variants: Mapping[str, dict[str, Any]],
    files: Mapping[str, bytes],
    evaluation: dict[str, Any] | None,
) -> str:
    """Markdown. variants: of the manifest, with their parity; files: of the bundle."""
    settings, data = graph.record["settings"], graph.record["data"]
    parameters = sum(p.numel() for p in graph.network.parameters())
    lines = [
        f"# {name}",
        "",
        "One photo to disparity (affine inverse depth, larger = nearer), learnt without depth",
        "labels: an AR-GAN learns to photograph its own sharp images and disparities through a",
        "lens, and this network (AR-GAN-DR) learns from its samples.",
        *second_round(graph.record),
        pretraining(data),
        "",
        "| | |",
        "| --- | --- |",
        f"| run | `{graph.run}`, seed {settings['seed']} |",
        f"| network | AR-GAN-DR {settings['network']}, {parameters:,} parameters |",
        f"| trained | {steps(graph.record)} of {settings['batch']} samples at"
        f" {settings['size']} px, {hours(graph.record)} on {device(graph.record)} |",
    ]
    before = data
    while "student" in before:  # what it went on from, back to the first
        run, record = before["student"]["run"], before["student"]["record"]
        lines.append(
            f"| student before | `{run}`: {steps(record)} of"
            f" {record['settings']['batch']} at {record['settings']['size']} px,"
            f" {hours(record)} on {device(record)} |"
        )
        before = record["data"]
    for teacher, about in data["teachers"].items():
        source, record = about["data"], about["record"]
        lines += [
            f"| teacher | `{teacher}`: {steps(record)} of"
            f" {record['settings']['batch']} at {record['settings']['size']} px,"
            f" seed {record['settings']['seed']}, {hours(record)} on {device(record)} |",
            f"| photos | {source['photos']:,} of `{source['source']}`, sha256 of the list"
            f" `{source.get('sha256', '-')[:16]}` |",
        ]
        lines += [f"| by hand | {change} |" for change in record.get("history", [])]
    lines += [
        f"| runs at | about {graph.nominal} x {graph.nominal} px, sides multiples of 32 |",
        "",
        *formats(variants, files),
    ]
    lines += figures(evaluation) if evaluation else ["Accuracy: not measured.", ""]
    return "\n".join(lines)


def pretraining(data: dict[str, Any]) -> str:
    """What it began as, or a student before it, whose weights or cuts it has learnt from."""
    if "pretrained" in data:
        return f"Its encoder began as {data['pretrained']['weights']}."
    before = data
    while "student" in before:
        run, before = before["student"]["run"], before["student"]["record"]["data"]
        if "pretrained" in before:
            return f"It learnt from `{run}`, which began as {before['pretrained']['weights']}."
    return "No pretrained weights."


def second_round(record: dict[str, Any]) -> list[str]:
    """What it learnt from besides a teacher's samples, and what is assumed there."""
    after = []
    if record["data"].get("student", {}).get("int8"):
        after = ["At last it learnt to say in int8 what it said in float."]
        record = record["data"]["student"]["record"]
    if runs := record.get("mean_of"):
        names = ", ".join(f"`{run}`" for run in runs)
        after.insert(0, f"Its weights are the mean of those of several runs: {names}.")
    settings, data = record["settings"], record["data"]
    photos = data.get("photos", {})
    if "cut_out" not in photos:
        return after
    lines = [
        "Its student before cut the subjects out of real, unlabelled photos, and most lessons are",
        f"such photos ({photos['cut_out']:,} of {photos['photos']:,} of `{photos['source']}`) and",
        "scenes put together of them.",
    ]
    before = data["student"]["record"]["settings"]["network"]
    if parts := data["student"].get("begun_with"):
        widened = "" if before == settings["network"] else f", a narrower one's (`{before}`)"
        lines.append(f"It began with the weights of that student{widened}: {', '.join(parts)}.")
    assumed = []
    if settings["ground"]:
        assumed.append("that the ground comes nearer downwards, and that things stand upon it")
    if settings.get("standing"):
        assumed.append("that what lies below a subject carries it and is as near")
    elif settings.get("stems"):
        assumed.append("that some subjects have a stem, which is as near")
        assumed.append("that leaves are as near as where they grow")
    if assumed:
        lines.append(f"Assumed in them, not learnt: {'; '.join(assumed)}.")
    return lines + after


def formats(variants: Mapping[str, dict[str, Any]], files: Mapping[str, bytes]) -> list[str]:
    """The table of model files: size, and how near each is to PyTorch on the golden picture."""
    lines = [
        "## Files",
        "",
        "| variant | kB | PSNR to PyTorch | largest gap |",
        "| --- | --- | --- | --- |",
    ]
    for name, fields in variants.items():
        parts = [f for f in files if f == fields["file"] or f.startswith(f"{fields['file']}/")]
        size = sum(len(files[f]) for f in parts) / 1e3
        gaps = fields["parity"].values()
        decibels = " / ".join(f"{gap['psnr_db']} dB" for gap in gaps) or "not measured"
        largest = " / ".join(f"{gap['max_abs']:g}" for gap in gaps) or "-"
        lines.append(f"| {name} | {size:.0f} | {decibels} | {largest} |")
    return [*lines, ""]


def figures(evaluation: dict[str, Any]) -> list[str]:
    """The table of `argan evaluate`, with its baselines."""
    lines = [
        "## Accuracy",
        "",
        "Relative RMSE of the disparity after the best scale and shift (1 = a constant) / Spearman",
        "correlation, beside baselines that have learnt nothing. None of these sets was used for",
        "training.",
        "",
        "| set | this model | radial | ramp | radial+ramp |",
        "| --- | --- | --- | --- | --- |",
    ]
    for group, scores in evaluation["means"].items():
        cells = [
            f"{scores[m]['rel_rmse']:.2f} / {scores[m]['spearman']:.2f}"
            for m in ("model", "radial", "ramp", "radial+ramp")
        ]
        lines.append(f"| {group} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def steps(record: dict[str, Any]) -> str:
    """How many were made, and of how many that were planned."""
    made, planned = record["steps"], record["settings"]["steps"]
    return f"{made:,} steps" if made >= planned else f"{made:,} of {planned:,} steps"


def hours(record: dict[str, Any]) -> str:
    return f"{record['seconds'] / 3600:.2f} h"


def device(record: dict[str, Any]) -> str:
    threads = "" if record["device"].startswith("NVIDIA") else f", {record['threads']} threads"
    return f"{record['device']}{threads}"
