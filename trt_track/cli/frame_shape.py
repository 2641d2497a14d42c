"""How far frames are squeezed for a detector, and which size would suit them."""

from __future__ import annotations

from typing import Final

MOST_SQUEEZED: Final = 1.5
"""Ratio of two shapes (width through height) up to which nothing is said: films of 21:9 stay below it at 800 x 1333 pixels, what stands
upright or is square does not."""


def is_squeezed(video_wh: tuple[int, int], frame_hw: tuple[int, int]) -> bool:
    """Tell whether a clip's frames lose their shape where a detector stretches them to its own size."""
    ratio = (video_wh[0] / video_wh[1]) / (frame_hw[1] / frame_hw[0])
    return max(ratio, 1 / ratio) > MOST_SQUEEZED


def suiting_frame(video_wh: tuple[int, int], frame_hw: tuple[int, int]) -> tuple[int, int]:
    """Return the height and width that a detector should be exported for: turned upright, else as many pixels in the clip's own shape."""
    upright = frame_hw[::-1]
    if not is_squeezed(video_wh, upright):
        return upright
    shape = video_wh[0] / video_wh[1]
    height = (frame_hw[0] * frame_hw[1] / shape) ** 0.5
    return round(height), round(height * shape)
