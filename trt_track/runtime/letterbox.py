"""A frame in the middle of a model's input, its aspect kept, and boxes back from there to the frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from trt_track.runtime.frames import ImageU8

PADDING: Final = 114
"""Grey of the bars, 0 to 255 (https://github.com/ultralytics/ultralytics/blob/v8.3.0/ultralytics/data/augment.py, LetterBox)."""

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Letterbox:
    """Where a video's picture lies in the model's input: scaled as a whole, in the middle, with bars around it.

    Sizes and places are rounded as https://github.com/ultralytics/ultralytics/blob/v8.3.0/ultralytics/data/augment.py (LetterBox) does.
    """

    video_hw: tuple[int, int]
    scaled_hw: tuple[int, int]
    top: int
    left: int

    @classmethod
    def of(cls, video_hw: tuple[int, int], size_hw: tuple[int, int]) -> Letterbox:
        """Fit a video's size into the input's."""
        scale = min(size / side for size, side in zip(size_hw, video_hw, strict=True))
        height, width = (max(1, round(side * scale)) for side in video_hw)
        top, left = (round((size - side) / 2 - 0.1) for size, side in zip(size_hw, (height, width), strict=True))
        return cls(video_hw, (height, width), top, left)

    def write(self, frame_rgb_hwc: ImageU8, image_chw: npt.NDArray[Any]) -> None:
        """Fill a (3, height, width) float array, 0 to 1, with the frame and the bars."""
        height, width = self.scaled_hw
        image_chw[:] = PADDING / 255
        picture_chw = image_chw[:, self.top : self.top + height, self.left : self.left + width]
        np.divide(resize_bilinear(frame_rgb_hwc, self.scaled_hw).transpose(2, 0, 1), np.float32(255), out=picture_chw, casting="same_kind")

    def to_video(self, boxes_xyxy: Array) -> Array:
        """Turn boxes (n, 4) in pixels of the input into pixels of the video, clipped to it."""
        corner = np.array([self.left, self.top] * 2, np.float32)
        size_wh = np.array(self.video_hw[::-1] * 2, np.float32)
        scaled_wh = np.array(self.scaled_hw[::-1] * 2, np.float32)
        clipped: Array = np.clip((boxes_xyxy - corner) * (size_wh / scaled_wh), 0, size_wh)
        return clipped


def resize_bilinear(image_hwc: ImageU8, size_hw: tuple[int, int]) -> Array:
    """Resize (H, W, 3) as OpenCV's INTER_LINEAR does, with which these models are trained: two taps an axis, no smoothing when it shrinks.

    Returns:
        (h, w, 3) float32, whole numbers from 0 to 255; OpenCV's fixed-point result differs by 1 here and there.
    """
    (top, bottom, down), (left, right, across) = (_taps(old, new) for old, new in zip(image_hwc.shape[:2], size_hw, strict=True))
    across = across[:, None]
    upper, lower = (
        (1 - across) * rows[:, left] + across * rows[:, right]  # whole rows are picked first: that is quick
        for rows in (image_hwc[top], image_hwc[bottom])
    )
    upper += (lower - upper) * down[:, None, None]
    rounded: Array = np.rint(upper, out=upper)
    return rounded


def _taps(old: int, new: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Array]:
    """Say which two old pixels make up each new one along an axis, and how much the second counts; pixels are squares."""
    place = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
    first = place.astype(np.intp)
    return first, np.minimum(first + 1, old - 1), (place - first).astype(np.float32)
