"""The figures of a bench as tables for a terminal of 140 columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from trt_track.bench.order import OURS

Figures = Mapping[str, Any]
"""What `Bench.figures` returns."""


def speed_table(figures: Figures) -> Table:
    """Return speed, load and memory: a row for each number of objects and side."""
    speed = ("\nframes/s", "whole\nframes/s", "\nms/frame", "p95\nms/frame", "CPU\ns/frame", "busiest\nthread")
    memory = ("host\nMB", "growth\nMB/frame", "GPU\nMB")
    compiled = any(row["times_compiled"] is not None for row in figures["rows"])
    times = ("times\neager", "times\ncompiled") if compiled else ("times\nupstream",)
    table = _table("\nobjects", "\nside", *speed, *memory, "% of\npeak", *times, "least\nIoU")
    least = _least_ious(figures)
    shown = None
    for row in figures["rows"]:
        steady, memory = row["steady"], row["memory"]
        table.add_row(
            "" if row["objects"] == shown else str(row["objects"]),
            row["side"],
            _number(steady["frames_per_s"]),
            _number(row["whole"]["frames_per_s"]),
            _number(steady["frame_ms_median"]),
            _number(steady["frame_ms_p95"]),
            _number(row["host"]["cpu_s_per_frame"]),
            _percent(row["host"]["busiest_thread_utilisation"]),
            _whole(memory["host_peak_mb"]),
            _signed(_growth(memory)),
            _whole(memory["device_peak_mb"]),
            "-" if row["limit"] is None else f"{row['limit']['percent_of_peak']:.1f}",
            _times(row["times_upstream"]),
            *[_times(row["times_compiled"])] * compiled,
            least.get((row["objects"], row["side"]), "-"),
        )
        shown = row["objects"]
    return table


def stage_table(figures: Figures) -> Table | None:
    """Return milliseconds of each stage of ours, median and 95th percentile; None where no stages were timed."""
    rows = [row for row in figures["rows"] if row["stages"]]
    if not rows:
        return None
    stages = dict.fromkeys(stage for row in rows for stage in row["stages"])
    table = _table("ms (p95)", *(f"{row['objects']} object{'' if row['objects'] == 1 else 's'}" for row in rows))
    for stage in stages:
        cells = (row["stages"].get(stage) for row in rows)
        table.add_row(stage, *("-" if cell is None else f"{cell['median_ms']:.2f} ({cell['p95_ms']:.2f})" for cell in cells))
    return table


def remarks(figures: Figures) -> Iterator[str]:
    """Yield what the tables do not say, a line each."""
    limit = figures["limit"]
    if {"gmac", "peak"} <= limit.keys():
        yield f"limit: {limit['peak']['gmac_per_s']:.0f} GMAC/s ({limit['peak']['by']})"
    for side, ms in figures["further_object_ms"].items():
        yield f"each further object, {side}: {_number(ms)} ms a frame"
    for what, why in figures["left_out"].items():
        yield f"left out: {what}: {why}"
    for failure in figures["failures"]:
        yield f"failed: {failure['side']}, {failure['objects']} objects: {failure['reason']}"
    for row in figures["agreement"]:
        if row["side"] == OURS and row["under_bound"]:
            worst = row["worst"]
            yield (
                f"masks differ from {row['reference']}: {row['under_bound']} of {row['masks']} have an IoU under {row['bound']}; "
                f"the least {row['least_iou']:.6f} (object {worst['object']} of {row['objects']}, frame {worst['frame']})"
            )


def _least_ious(figures: Figures) -> dict[tuple[int, str], str]:
    """Return the least IoU of each row with upstream, eager where that ran."""
    found: dict[tuple[int, str], tuple[str, float]] = {}
    for row in figures["agreement"]:
        key = row["objects"], row["side"]
        reference, least = found.get(key, (row["reference"], 1.0))
        if len(row["reference"]) < len(reference):
            reference, least = row["reference"], 1.0
        if row["reference"] == reference:
            found[key] = reference, min(least, row["least_iou"])
    return {key: f"{least:.6f}" for key, (_, least) in found.items()}


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in (first, *others):
        table.add_column(name, justify="left" if name in {first, "\nside"} else "right", no_wrap=True)
    return table


def _growth(memory: Mapping[str, float | None]) -> float | None:
    """Return the device's growth where it has a memory of its own."""
    device = memory["device_growth_mb_per_frame"]
    return memory["host_growth_mb_per_frame"] if device is None else device


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _number(value: float) -> str:
    """Write three digits that count, and more where there are more before the point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"


def _whole(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"
