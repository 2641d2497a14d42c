"""What the tracker sees of a clip: its description, its frames and the seam that video files and image folders fill."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

ImageU8 = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """A clip as it is displayed: prompts, masks and frames all live in these pixels."""

    name: str
    """File name without its suffix, or the folder's name."""
    width: int
    """Pixels, after rotation."""
    height: int
    """Pixels, after rotation."""
    frame_count: int
    """Frames that the clip holds; of a clip that was cut off, the frames that it announces."""
    frame_rate: Fraction
    """Frames per second, the average where the rate varies."""
    rotation_deg: int
    """0, 90, 180 or 270, counterclockwise, as the container's tag says; already applied to `width`, `height` and all frames."""
    path: Path


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a clip. Its arrays are its own: nothing overwrites them."""

    index: int
    """Position in display order, 0 for the first frame, whichever way the clip is read."""
    time_s: float
    """Seconds since the first frame."""
    model_rgb_hwc: ImageU8
    """(S, S, 3) RGB, contiguous: the frame squeezed to the model's square."""
    video_rgb_hwc: ImageU8 | None
    """(H, W, 3) RGB in displayed pixels, where it was asked for."""


@dataclass(frozen=True, slots=True)
class FrameRequest:
    """Which frames a reader shall deliver, and how."""

    indexes: range
    """With step 1 or -1."""
    size: int
    """Side S of the model's square, in pixels."""
    keep_video: bool = False
    """Whether `Frame.video_rgb_hwc` is filled."""
    only: frozenset[int] | None = None
    """Of `indexes` only these, None for all: the others are decoded, as those that follow need them, but made no frames of."""
    cancelled: threading.Event = field(default_factory=threading.Event)
    """Set from another thread when nobody waits for the frames any more."""

    def wants(self, index: int) -> bool:
        """Tell whether to deliver a frame of `indexes`."""
        return self.only is None or index in self.only


class FrameReader(Protocol):
    """Reads one kind of clip. `read` may run in a thread of its own."""

    info: VideoInfo
    damage: str | None

    def read(self, request: FrameRequest) -> Iterator[Frame]:
        """Yield the frames asked for, in that order.

        Forward, damage ends the iteration and is told in `damage`.

        Raises:
            VideoError: the clip is damaged and is read in reverse.
        """


def frame_of(index: int, time_s: float, model_rgb_hwc: Any, video_rgb_hwc: Any = None) -> Frame:
    """Make a frame whose arrays are contiguous.

    Args:
        index: position in display order.
        time_s: seconds since the first frame.
        model_rgb_hwc: (S, S, 3) uint8, any strides.
        video_rgb_hwc: (H, W, 3) uint8, any strides, or None.
    """
    video = None if video_rgb_hwc is None else np.ascontiguousarray(video_rgb_hwc)
    return Frame(index=index, time_s=time_s, model_rgb_hwc=np.ascontiguousarray(model_rgb_hwc), video_rgb_hwc=video)
