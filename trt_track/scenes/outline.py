"""Outlines of objects: closed curves around the origin that change their form over time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

VERTICES = 72
_HARMONICS = np.arange(2, 7)
ANGLES = np.arange(VERTICES) * (2 * np.pi / VERTICES)
"""Of the vertices, in radians."""


@dataclass(frozen=True)
class Outline:
    """A star-shaped curve r(angle) whose harmonics swing."""

    radii: NDArray[np.float64]
    """(VERTICES,) distance of the curve from the origin at rest, about 1 at most."""
    aspect: float
    """Height over width."""
    swing: NDArray[np.float64]
    """(5,) amplitudes of the swinging harmonics 2 to 6, as a share of the radius."""
    pace: NDArray[np.float64]
    """(5,) their angular speeds in radians a frame."""
    phase: NDArray[np.float64]
    """(5,) their phases in radians."""

    def at(self, time: float) -> NDArray[np.float64]:
        """Return the curve (VERTICES, 2) as x, y at a time in frames."""
        waves = np.sin(self.pace * time + self.phase) * self.swing
        radii = self.radii * (1.0 + np.cos(np.outer(ANGLES, _HARMONICS) + self.phase) @ waves)
        return np.stack([radii * np.cos(ANGLES), radii * np.sin(ANGLES) * self.aspect], axis=1)


def random_outline(rng: np.random.Generator, *, deform: float = 1.0) -> Outline:
    """Draw an outline: an ellipse, a polygon, a star, a rounded box or a blob.

    Args:
        rng: where the choices come from.
        deform: how far the outline swings, 0 for a rigid one.
    """
    forms = (_ellipse, _polygon, _star, _rounded_box, _blob, _blob)
    radii = forms[rng.integers(len(forms))](rng)
    return Outline(
        radii=radii / radii.max(),
        aspect=float(np.exp(rng.uniform(-0.7, 0.4))),
        swing=deform * rng.uniform(0, 0.16, 5) / np.sqrt(_HARMONICS),
        pace=rng.uniform(0.05, 0.35, 5) * rng.choice([-1, 1], 5),
        phase=rng.uniform(0, 2 * np.pi, 5),
    )


def superellipse(power: float) -> NDArray[np.float64]:
    """Return the radii (VERTICES,) of |x|^p + |y|^p = 1: a circle at 2, a square with round corners above."""
    radii: NDArray[np.float64] = (np.abs(np.cos(ANGLES)) ** power + np.abs(np.sin(ANGLES)) ** power) ** (-1 / power)
    return radii


def _ellipse(_: np.random.Generator) -> NDArray[np.float64]:
    return np.ones(VERTICES)


def _polygon(rng: np.random.Generator) -> NDArray[np.float64]:
    """A regular polygon: distance of a side from the centre over the cosine of the angle to its middle."""
    sector = 2 * np.pi / rng.integers(3, 8)
    radii: NDArray[np.float64] = 1.0 / np.cos((ANGLES % sector) - sector / 2)
    return radii


def _star(rng: np.random.Generator) -> NDArray[np.float64]:
    points = rng.integers(4, 8)
    radii: NDArray[np.float64] = 1.0 + rng.uniform(0.2, 0.5) * np.cos(points * ANGLES)
    return radii


def _rounded_box(rng: np.random.Generator) -> NDArray[np.float64]:
    return superellipse(rng.uniform(2.5, 8))


def _blob(rng: np.random.Generator) -> NDArray[np.float64]:
    """A few random harmonics, smaller the higher they are."""
    order = np.arange(1, 7)
    waves = rng.normal(0, 0.32, 6) / order**0.9
    radii: NDArray[np.float64] = 1.0 + np.cos(np.outer(ANGLES, order) + rng.uniform(0, 2 * np.pi, 6)) @ waves
    return np.maximum(radii, 0.25)
