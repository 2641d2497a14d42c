"""Textures made from nothing: noise of several octaves, stripes, checks, dots and plain colours, never the same twice."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Rng = np.random.Generator
_Field = NDArray[np.float32]


def random_texture(rng: Rng, side: int = 192) -> Image.Image:
    """Draw a square RGB texture of `side` pixels: two or three colours mixed by one or two patterns."""
    low, high = _colour(rng), _colour(rng)
    mix = _pattern(rng, side)
    rgb = low + (high - low) * mix[..., None]
    if rng.random() < 0.5:
        rgb = rgb + (_colour(rng) - rgb) * (_pattern(rng, side) * rng.uniform(0.2, 0.7))[..., None]
    rgb = rgb + rng.normal(0, rng.uniform(0, 10), rgb.shape[:2])[..., None]
    return Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8))


def _colour(rng: Rng) -> NDArray[np.float64]:
    """A colour; every fourth one nearly grey."""
    colour = rng.uniform(0, 255, 3)
    return colour if rng.random() < 0.75 else colour.mean() + rng.uniform(-15, 15, 3)


def _pattern(rng: Rng, side: int) -> _Field:
    """A field from 0 to 1 of shape (side, side)."""
    patterns = (_noise, _noise, _stripes, _checks, _dots, _ramp)
    return patterns[rng.integers(len(patterns))](rng, side).astype(np.float32)


def _noise(rng: Rng, side: int) -> _Field:
    """Value noise: random grids of growing fineness, enlarged and added."""
    total = np.zeros((side, side), np.float32)
    fall = rng.uniform(0.4, 0.9)
    for octave in range(int(rng.integers(2, 6))):
        cells = min(side, int(rng.integers(2, 5)) << octave)
        grid = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
        total += np.asarray(grid.resize((side, side), Image.Resampling.BICUBIC)) * np.float32(fall**octave)
    total -= total.min()
    return np.asarray(total / max(float(total.max()), 1e-6), np.float32)


def _axes(rng: Rng, side: int) -> tuple[_Field, _Field]:
    """Two turned coordinates in pixels."""
    angle = rng.uniform(0, np.pi)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return x * cos + y * sin, y * cos - x * sin


def _wave(rng: Rng, x: _Field, side: int) -> _Field:
    """A sine along x, soft or cut to two values."""
    sine = _sine(rng, x, side * rng.uniform(0.05, 0.4))
    return np.asarray(sine > 0.5 if rng.random() < 0.6 else sine, np.float32)


def _sine(rng: Rng, x: _Field, period: float) -> _Field:
    """A wave from 0 to 1 that begins anywhere."""
    return np.asarray(0.5 + 0.5 * np.sin(x * (2 * np.pi / period) + rng.uniform(0, 2 * np.pi)), np.float32)


def _stripes(rng: Rng, side: int) -> _Field:
    return _wave(rng, _axes(rng, side)[0], side)


def _checks(rng: Rng, side: int) -> _Field:
    x, y = _axes(rng, side)
    return np.asarray(np.abs(_wave(rng, x, side) - _wave(rng, y, side)), np.float32)


def _dots(rng: Rng, side: int) -> _Field:
    x, y = _axes(rng, side)
    return _dotted(x, y, side * rng.uniform(0.08, 0.3), rng.uniform(0.2, 0.42))


def _dotted(x: _Field, y: _Field, period: float, radius: float) -> _Field:
    """Discs on a grid; their radius is a share of the grid's period."""
    return np.asarray(np.hypot(x / period % 1 - 0.5, y / period % 1 - 0.5) < radius, np.float32)


def _ramp(rng: Rng, side: int) -> _Field:
    x, _ = _axes(rng, side)
    return np.asarray((x - x.min()) / max(float(np.ptp(x)), 1e-6), np.float32)


def patterned(rng: Rng, pattern: str, first: NDArray[np.float64], second: NDArray[np.float64], side: int) -> Image.Image:
    """Draw a square texture of two colours in a coarse pattern.

    Args:
        rng: where it lies and how wide it is.
        pattern: `plain` (the first colour alone), `striped`, `checked` or `dotted` (the first colour with dots of the second).
        first: (3,) RGB, 0 to 255.
        second: (3,) RGB, 0 to 255.
        side: of the texture in pixels.
    """
    x, y = _axes(rng, side)
    period = side * rng.uniform(0.12, 0.22)
    stripes, across = _sine(rng, x, period) > 0.5, _sine(rng, y, period) > 0.5
    dots = _dotted(x, y, 0.8 * period, rng.uniform(0.28, 0.36))
    mixes = {"plain": np.zeros_like(x), "striped": stripes, "checked": stripes ^ across, "dotted": dots}
    mix = np.asarray(mixes[pattern], np.float64)
    return Image.fromarray(np.clip(first + (second - first) * mix[..., None], 0, 255).astype(np.uint8))


def lit(texture: Image.Image, direction_xy: tuple[float, float], *, depth: float, middle: float = 1.0) -> Image.Image:
    """Light a square texture from one side, so that a shape looks like a body.

    Args:
        texture: RGB.
        direction_xy: where it gets lighter; the sides of the texture are at -1 and 1.
        depth: how much lighter one unit further.
        middle: brightness in the middle, 1 for the texture's own.
    """
    side = texture.size[0]
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    light = middle + depth * (x * direction_xy[0] + y * direction_xy[1])
    return Image.fromarray(np.clip(np.asarray(texture) * light[..., None], 0, 255).astype(np.uint8))
