"""Memory and speed over the frames of every run, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trt_track.bench.order import SIDES
from trt_track.errors import OutputError
from trt_track.runtime.output_file import output_errors

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS: Final = dict(zip(SIDES, ("#2a6f97", "#c8553d", "#d9a441"), strict=True))
_DASHES: Final = ("-", "--", ":", "-.")
_WINDOW: Final = 5
"""Frames that a point of the speed is the mean of."""
_SUFFIXES: Final = (".png", ".svg", ".pdf")


def check_plot(path: Path) -> None:
    """Refuse a plot that could not be written, before anything is measured.

    Raises:
        OutputError: matplotlib is missing, or the name is of no picture.
    """
    if find_spec("matplotlib") is None:
        raise OutputError("--plot needs matplotlib: pip install 'trt-track[bench]'")
    if path.suffix.lower() not in _SUFFIXES:
        raise OutputError(f"{path}: choose a name that ends in {', '.join(_SUFFIXES)}")


def write_plot(runs: Sequence[Mapping[str, Any]], path: Path, *, title: str) -> None:
    """Draw two panels: memory over frames, of the device where it has its own, and frames a second over frames.

    Args:
        runs: of all sides, as `Bench.runs` has them.
        path: of the picture; its folder is made.
        title: stands above.

    Raises:
        OutputError: the picture cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.5), layout="constrained")
    memory, speed = figure.subplots(1, 2)
    counts = list(dict.fromkeys(run["objects"] for run in runs))
    for run in runs:
        dashes = _DASHES[counts.index(run["objects"]) % len(_DASHES)]
        label = f"{run['side']}, {run['objects']}" if run["repeat"] == 0 else None
        look = {"color": _COLOURS[run["side"]], "linestyle": dashes, "label": label}
        samples = run["memory"]["samples"]
        memory.plot(samples["frame"], samples["device_mb" if _on_device(runs) else "host_mb"], **look)
        speed.plot(*_speed(run["frame_s"]), **look)
    _name(memory, f"{'GPU' if _on_device(runs) else 'host'} memory, MB")
    _name(speed, "frames a second")
    speed.set_yscale("log")
    speed.yaxis.set_major_formatter("{x:g}")
    speed.yaxis.set_minor_formatter("{x:g}")
    memory.legend(title="side, objects", fontsize="small")
    figure.suptitle(title)
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)


def _on_device(runs: Sequence[Mapping[str, Any]]) -> bool:
    return any(value is not None for run in runs for value in run["memory"]["samples"]["device_mb"])


def _speed(frame_s: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers of frames and the mean speed of some frames up to each."""
    window = min(_WINDOW, len(frame_s))
    means = np.convolve(frame_s, np.full(window, 1 / window), "valid")
    return np.arange(window, len(frame_s) + 1), 1 / means


def _name(axes: Axes, what: str) -> None:
    axes.set_xlabel("frames tracked")
    axes.set_ylabel(what)
    axes.grid(visible=True, alpha=0.3)
    if what.endswith("MB"):
        axes.set_ylim(0, 1.1 * axes.dataLim.ymax)
