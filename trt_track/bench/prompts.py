"""What benchmarks track: a box for each object, in the cells of a grid."""

from __future__ import annotations

from typing import Final

import numpy as np

from trt_track.errors import PromptError
from trt_track.runtime.prompts import Prompt

_GRID: Final = 4
"""Cells of a row and of a column."""
MOST_OBJECTS: Final = _GRID**2


def box_prompts(objects: int, *, width: int, height: int) -> list[Prompt]:
    """Return a box on frame 0 for each object; object 1 is the same however many there are.

    Args:
        objects: 1 to `MOST_OBJECTS`.
        width: of the video, in pixels.
        height: of the video, in pixels.

    Raises:
        PromptError: there are not so many boxes.
    """
    if not 1 <= objects <= MOST_OBJECTS:
        raise PromptError(f"{objects} objects: choose 1 to {MOST_OBJECTS}")
    inside_out = sorted(((i, k) for i in range(_GRID) for k in range(_GRID)), key=lambda cell: abs(cell[0] - 1.5) + abs(cell[1] - 1.5))
    scale = np.array([width, height, width, height], np.float32) / _GRID
    corners = [np.asarray(np.array([x + 0.1, y + 0.1, x + 0.9, y + 0.9]) * scale, np.float32) for y, x in inside_out[:objects]]
    return [Prompt(frame=0, object_id=i, box_xyxy_px=box) for i, box in enumerate(corners, start=1)]
