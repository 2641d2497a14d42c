"""How things move: position, angle and size as functions of time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rng = np.random.Generator


@dataclass(frozen=True)
class Pose:
    """Where a thing is at one moment."""

    x: float
    y: float
    angle: float
    """Radians."""
    radius: float
    """Pixels that one unit of the outline takes."""

    def apply(self, points_xy: NDArray[np.float64]) -> NDArray[np.float64]:
        """Take (n, 2) points of the outline to pixels of the frame."""
        cos, sin = np.cos(self.angle) * self.radius, np.sin(self.angle) * self.radius
        placed: NDArray[np.float64] = points_xy @ np.array([[cos, sin], [-sin, cos]]) + (self.x, self.y)
        return placed


@dataclass(frozen=True)
class Path:
    """A straight line with a sway, a turn and a breath; all speeds are per frame, all lengths in pixels."""

    start_xy: tuple[float, float]
    velocity_xy: tuple[float, float]
    sway_xy: tuple[float, float]
    pace: float
    """Angular speed of the sway."""
    phase: float
    angle: float
    spin: float
    radius: float
    breath: float
    """How much the size swings, as a share."""
    breath_pace: float

    def at(self, time: float) -> Pose:
        """Return the pose at a time in frames."""
        swing = np.sin(self.pace * time + self.phase) - np.sin(self.phase)
        return Pose(
            x=self.start_xy[0] + self.velocity_xy[0] * time + self.sway_xy[0] * swing,
            y=self.start_xy[1] + self.velocity_xy[1] * time + self.sway_xy[1] * swing,
            angle=self.angle + self.spin * time,
            radius=self.radius * float(np.exp(self.breath * np.sin(self.breath_pace * time + self.phase))),
        )


def random_path(rng: Rng, size_wh: tuple[int, int], frames: int, *, scale: tuple[float, float], leave: float) -> Path:
    """Draw a path that starts inside the picture.

    Args:
        rng: where the choices come from.
        size_wh: the picture in pixels.
        frames: length of the clip: who leaves does so within it.
        scale: smallest and largest radius as a share of the short side.
        leave: probability of leaving, half of the time with a return.
    """
    width, height = size_wh
    short = min(width, height)
    radius = short * float(np.exp(rng.uniform(np.log(scale[0]), np.log(scale[1]))))
    start = np.array([rng.uniform(0.15, 0.85) * width, rng.uniform(0.15, 0.85) * height])
    velocity, sway, pace, phase = (
        rng.normal(0, 0.006, 2) * short,
        rng.normal(0, 0.06, 2) * short,
        rng.uniform(0.05, 0.3),
        rng.uniform(0, 6.28),
    )
    if rng.random() < leave and frames > 2:
        away = _way_out(start, radius, size_wh)
        if rng.random() < 0.5:
            velocity = away * 1.15 / (frames * rng.uniform(0.3, 0.8))
        else:  # out and back: half a period of a sine over most of the clip
            velocity, sway = np.zeros(2), away * 1.3
            pace, phase = np.pi / (frames * rng.uniform(0.6, 0.95)), 0.0
    return Path(
        start_xy=(float(start[0]), float(start[1])),
        velocity_xy=(float(velocity[0]), float(velocity[1])),
        sway_xy=(float(sway[0]), float(sway[1])),
        pace=float(pace),
        phase=float(phase),
        angle=float(rng.uniform(0, 2 * np.pi)),
        spin=float(rng.normal(0, 0.04)),
        radius=radius,
        breath=float(rng.uniform(0, 0.2)),
        breath_pace=float(rng.uniform(0.05, 0.25)),
    )


def _way_out(start: NDArray[np.float64], radius: float, size_wh: tuple[int, int]) -> NDArray[np.float64]:
    """Return the shortest move that takes a thing out of the picture over one of its sides."""
    reach = radius * 1.4
    moves = np.array(
        [[-start[0] - reach, 0], [size_wh[0] - start[0] + reach, 0], [0, -start[1] - reach], [0, size_wh[1] - start[1] + reach]]
    )
    shortest: NDArray[np.float64] = moves[np.abs(moves).sum(axis=1).argmin()]
    return shortest
