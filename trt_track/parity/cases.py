"""The ways of prompting that end-to-end parity is checked for, each as prompts for a clip of any size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from trt_track.runtime.prompts import Prompt

MIN_FRAMES: Final = 12
"""Frames that the cases with events on frames 5, 8 and 10 need."""


@dataclass(frozen=True, slots=True)
class Case:
    """One way of prompting a clip."""

    name: str
    prompts: tuple[Prompt, ...]
    frames: int
    reverse: bool = False


def all_cases(frames: int, width: int, height: int) -> list[Case]:
    """Return every case.

    Args:
        frames: of the clip to use, at least `MIN_FRAMES`; over 24 to go through every length of memory.
        width: of the video, in pixels.
        height: of the video, in pixels.
    """
    at = _Placer(width, height)
    click, box = at.clicks(0, 1, [(0.5, 0.5, 1)]), at.box(0, 1, (0.25, 0.3, 0.7, 0.8))
    second = at.box(5, 2, (0.1, 0.1, 0.4, 0.6))
    short = min(frames, MIN_FRAMES)
    return [
        Case("one click", (click,), frames),
        Case("box", (box,), short),
        Case("clicks, one negative", (at.clicks(0, 1, [(0.5, 0.5, 1), (0.6, 0.4, 1), (0.15, 0.2, 0)]),), short),
        Case("box and click", (at.box(0, 1, (0.25, 0.3, 0.7, 0.8), clicks=[(0.3, 0.35, 0)]),), short),
        Case("mask", (at.ellipse(0, 1),), short),
        Case("second object from frame 5", (click, second), short),
        Case("correction on frame 8", (click, at.clicks(8, 1, [(0.3, 0.7, 0)])), short),
        Case("mask as correction on frame 8", (click, at.ellipse(8, 1)), short),
        Case("reverse", (at.clicks(short - 1, 1, [(0.5, 0.5, 1)]),), short, reverse=True),
        Case("object removed on frame 6", (click, at.box(0, 2, (0.1, 0.1, 0.4, 0.6)), at.removal(6, 1)), short),
    ]


def default_prompts(width: int, height: int) -> list[Prompt]:
    """Return a box for object 1 and a click for object 2 on the first frame, where the cases place theirs."""
    at = _Placer(width, height)
    return [at.box(0, 1, (0.25, 0.3, 0.7, 0.8)), at.clicks(0, 2, [(0.5, 0.5, 1)])]


class _Placer:
    """Places prompts by fractions of the video's size."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height

    def clicks(self, frame: int, object_id: int, clicks: Sequence[tuple[float, float, int]]) -> Prompt:
        xy = np.array([[x * self.width, y * self.height] for x, y, _ in clicks], np.float32).reshape(-1, 2)
        return Prompt(frame, object_id, xy, np.array([label for *_, label in clicks], np.int32), None, None, remove=False)

    def box(
        self, frame: int, object_id: int, corners: tuple[float, float, float, float], clicks: Sequence[tuple[float, float, int]] = ()
    ) -> Prompt:
        clicked = self.clicks(frame, object_id, clicks)
        box = np.array(corners, np.float32) * np.array([self.width, self.height] * 2, np.float32)
        return Prompt(frame, object_id, clicked.points_xy_px, clicked.labels, box, None, remove=False)

    def ellipse(self, frame: int, object_id: int) -> Prompt:
        y, x = np.mgrid[: self.height, : self.width]
        mask = ((x / self.width - 0.45) / 0.2) ** 2 + ((y / self.height - 0.55) / 0.3) ** 2 < 1
        nothing = self.clicks(frame, object_id, [])
        return Prompt(frame, object_id, nothing.points_xy_px, nothing.labels, None, mask, remove=False)

    def removal(self, frame: int, object_id: int) -> Prompt:
        nothing = self.clicks(frame, object_id, [])
        return Prompt(frame, object_id, nothing.points_xy_px, nothing.labels, None, None, remove=True)
