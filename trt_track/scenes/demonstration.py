"""The scene of the demonstration, designed by hand: a square, a blob that leaves and comes back, and a star that passes in front."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trt_track.scenes.named import Name, named_texture
from trt_track.scenes.outline import ANGLES, Outline, superellipse
from trt_track.scenes.path import Path
from trt_track.scenes.scene import Camera, Scene, Thing
from trt_track.scenes.texture import lit, random_texture

SIZE_WH: Final = (640, 360)
FRAMES: Final = 120
FRAME_RATE: Final = 30

NAMES: Final = (Name("purple", "checked", "square"), Name("red", "plain", "blob"), Name("yellow", "plain", "star"))
"""What the three things are called, from the back to the front."""
PHRASES: Final = ("checked square", "red blob", "yellow star")
"""Enough of each name to find the thing."""

_MARGIN: Final = 1.3
"""Size of the background in pictures: the camera moves over it."""


def demonstration_scene(photograph: Image.Image | None, *, frames: int = FRAMES) -> Scene:
    """Build the scene: three tracked objects over a photograph, or over a texture where there is none.

    Args:
        photograph: any size, RGB.
        frames: length of the clip; a shorter one is the beginning of the whole one.
    """
    return Scene(SIZE_WH, frames, _camera(photograph or random_texture(np.random.default_rng(25), 512)), (_square(), _blob(), _star()))


def _camera(photograph: Image.Image) -> Camera:
    """A slow pan to the right that sinks a little."""
    width, height = round(SIZE_WH[0] * _MARGIN), round(SIZE_WH[1] * _MARGIN)
    shrink = min(photograph.width / width, photograph.height / height)
    left, bottom = (photograph.width - width * shrink) / 2, photograph.height
    crop = (left, bottom - height * shrink, left + width * shrink, bottom)
    background = photograph.convert("RGB").resize((width, height), Image.Resampling.BICUBIC, box=crop)
    path = _path(SIZE_WH[0] / 2 + 60, SIZE_WH[1] / 2 - 20, width / 2, velocity=(-1.0, 0.2))
    return Camera(path, background, blurred=True, noise=2.0, quality=None)


def _square() -> Thing:
    """At the back, drifts to the right."""
    path = _path(185, 215, 66, velocity=(0.9, 0.0), sway=(0.0, 14.0), pace=0.06, spin=0.007)
    return Thing(_outline(superellipse(5), aspect=0.85), path, _lit(7, NAMES[0]), tracked=True)


def _blob() -> Thing:
    """Changes its form, leaves over the right side for some thirty frames and comes back."""
    radii = 1.0 + 0.13 * np.cos(2 * ANGLES + 0.5) + 0.12 * np.cos(3 * ANGLES + 2.0)
    path = _path(500, 250, 52, sway=(215.0, -40.0), pace=np.pi / 110, spin=0.01)
    return Thing(_outline(radii, swing=0.09), path, _lit(31, NAMES[1]), tracked=True)


def _star() -> Thing:
    """In front, crosses the picture from right to left and turns."""
    path = _path(545, 95, 54, velocity=(-3.3, 1.35), sway=(0.0, 12.0), pace=0.1, spin=0.03)
    return Thing(_outline(1.0 + 0.3 * np.cos(5 * ANGLES)), path, _lit(27, NAMES[2]), tracked=True)


def _outline(radii: NDArray[np.float64], *, aspect: float = 1.0, swing: float = 0.0) -> Outline:
    order = np.arange(5, dtype=np.float64)
    return Outline(radii / radii.max(), aspect, np.full(5, swing) / np.sqrt(order + 2), 0.06 + 0.03 * order, 1.3 * order)


def _path(  # noqa: PLR0913 - how a thing moves
    x: float,
    y: float,
    radius: float,
    *,
    velocity: tuple[float, float] = (0.0, 0.0),
    sway: tuple[float, float] = (0.0, 0.0),
    pace: float = 0.0,
    spin: float = 0.0,
) -> Path:
    return Path((x, y), velocity, sway, pace, phase=0.0, angle=0.0, spin=spin, radius=radius, breath=0.04, breath_pace=0.05)


def _lit(seed: int, name: Name) -> Image.Image:
    """Make a texture that is lighter at its top left."""
    return lit(named_texture(np.random.default_rng(seed), name), (1, 1), depth=-0.3, middle=0.95)
