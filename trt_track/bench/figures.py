"""From what runs left behind to the figures that are told: one row for each side and number of objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trt_track.bench.intervals import Intervals, steady_figures
from trt_track.bench.memory_series import growth_mb_per_frame
from trt_track.bench.order import COMPILED, OURS, UPSTREAM

Run = Mapping[str, Any]
"""What `RunLog.figures` returned, with "stages" where they were timed."""


def rows(runs: Sequence[Run], limit: Mapping[str, Any], *, skip: int) -> list[dict[str, Any]]:
    """Return a row for each side and number of objects, repetitions together.

    Args:
        runs: all runs so far, failed ones left out.
        limit: "gmac" per graph and "peak", as far as they are known.
        skip: frames at the start of each run that the steady figures leave out.
    """
    keys = sorted({(run["objects"], run["side"]) for run in runs}, key=lambda key: (key[0], _turn(key[1])))
    found = [_row([run for run in runs if (run["objects"], run["side"]) == key], limit, skip) for key in keys]
    for row in found:
        row["times_upstream"], row["times_compiled"] = (_ratio(row, found, side) for side in (UPSTREAM, COMPILED))
    return found


def _turn(side: str) -> tuple[bool, str]:
    return side != OURS, side


def _row(runs: Sequence[Run], limit: Mapping[str, Any], skip: int) -> dict[str, Any]:
    first = runs[0]
    frames, whole_s = sum(len(run["frame_s"]) for run in runs), sum(run["whole_s"] for run in runs)
    steady = steady_figures((Intervals(wall_s=run["frame_s"], cpu_s=run["cpu_s"]) for run in runs), skip=skip)
    busiest = [run["busiest_thread"]["utilisation"] for run in runs if run["busiest_thread"]]
    return {
        "side": first["side"],
        "objects": first["objects"],
        "repeats": len(runs),
        "steady": {
            "frames": steady["frames"],
            "frames_per_s": steady["frames_per_s"],
            "frame_ms_median": 1000 * steady["frame_s_median"],
            "frame_ms_p95": 1000 * steady["frame_s_p95"],
        },
        "whole": {"frames": frames, "seconds": whole_s, "frames_per_s": frames / whole_s},
        "host": {"cpu_s_per_frame": steady["frame_cpu_s"], "busiest_thread_utilisation": max(busiest, default=None)},
        "memory": _memory(runs, skip),
        "stages": _stages([frame for run in runs for frame in run.get("stages", [])[skip:]]),
        "limit": _limit(limit, first["objects"], steady["frames_per_s"]),
    }


def _memory(runs: Sequence[Run], skip: int) -> dict[str, float | None]:
    """Return peaks and growths, of several runs the largest."""
    found: dict[str, float | None] = {}
    for place in ("host", "device"):
        peaks = [run["memory"][f"{place}_peak_mb"] for run in runs]
        growths = [growth_mb_per_frame(run["memory"]["samples"], f"{place}_mb", skip=skip) for run in runs]
        found[f"{place}_peak_mb"] = max((value for value in peaks if value is not None), default=None)
        found[f"{place}_growth_mb_per_frame"] = max((value for value in growths if value is not None), default=None)
    return found


def _stages(frames: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]] | None:
    """Return milliseconds of each stage; a stage that a frame does not have takes no time there."""
    if not frames:
        return None
    found = {}
    for stage in dict.fromkeys(stage for frame in frames for stage in frame):
        ms = 1000 * np.array([frame.get(stage, 0.0) for frame in frames])
        found[stage] = {"median_ms": float(np.median(ms)), "p95_ms": float(np.percentile(ms, 95)), "mean_ms": float(ms.mean())}
    return found


def _limit(limit: Mapping[str, Any], objects: int, frames_per_s: float) -> dict[str, float] | None:
    """Return how far a speed is from what the device's arithmetic allows."""
    if not {"gmac", "peak"} <= limit.keys():
        return None
    gmac = gmac_of(limit["gmac"], objects)
    return {
        "gmac_per_frame": gmac,
        "gmac_per_s": gmac * frames_per_s,
        "percent_of_peak": 100 * gmac * frames_per_s / limit["peak"]["gmac_per_s"],
    }


def gmac_of(found: Mapping[str, float], objects: int) -> float:
    """Add up a frame with several objects, the encoder once; `found` is what `frame_gmac` counted."""
    return found["image_encoder"] + objects * sum(gmac for graph, gmac in found.items() if graph != "image_encoder")


def _ratio(row: Mapping[str, Any], every: Sequence[Mapping[str, Any]], side: str) -> float | None:
    """Return how many times as fast as another side a side is, by the medians; None where that one was not measured."""
    for other in every:
        if other["side"] == side and other["objects"] == row["objects"]:
            return float(other["steady"]["frame_ms_median"] / row["steady"]["frame_ms_median"])
    return None


def further_object_ms(found: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return what each further object costs, by side: the slope of the median frame over the objects, by least squares."""
    slopes = {}
    for side in dict.fromkeys(row["side"] for row in found):
        points = [(row["objects"], row["steady"]["frame_ms_median"]) for row in found if row["side"] == side]
        if len(points) > 1:
            objects, ms = np.array(points, np.float64).T
            slopes[side] = float(np.polyfit(objects, ms, 1)[0])
    return slopes
