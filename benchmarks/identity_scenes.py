"""Drawn clips in which things come and go, and their truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import numpy as np
from identity_score import Truth
from numpy.typing import NDArray
from PIL import Image

from trt_track.cli.package_file import package_file
from trt_track.scenes import Material, SceneStyle, random_texture
from trt_track.scenes.named import Name, named_outline, named_scene, named_texture, random_name, shown_shares
from trt_track.scenes.path import Path
from trt_track.scenes.scene import Scene, Thing, random_camera, shade

SEED: Final = 4_100
HELD_OUT: Final = ("coffee.png", "rocket.jpg", "grass.png")
"""Photographs of scikit-image that neither model was trained on."""
SIZE_WH: Final = (480, 288)


class Scenes(StrEnum):
    """What is drawn."""

    VISITORS = "visitors"
    """Five random things over photographs on paths made by hand: one stays, one enters late from either side, one leaves and comes back,
    one leaves for good."""
    TEXTURES = "textures"
    """Two to four things on random paths, most of which leave, over textures."""
    PHOTOGRAPHS = "photographs"
    """The same over photographs."""

    @property
    def frames(self) -> int:
        """How long a clip is if nobody says."""
        return 180 if self is Scenes.VISITORS else 90


@dataclass(frozen=True, slots=True)
class Clip:
    """A drawn clip and its truth."""

    pictures: Sequence[NDArray[np.uint8]]
    truth: Truth
    text: str

    @property
    def changes(self) -> dict[str, int]:
        """Objects that enter late, that are gone for a while, and that are gone at the end."""
        seen = np.array([masks.any(axis=(1, 2)) for masks in self.truth.masks])
        spans = [np.flatnonzero(column) for column in seen.T if column.any()]
        return {
            "late": sum(int(span[0] > 0) for span in spans),
            "away": sum(int(len(span) < span[-1] - span[0] + 1) for span in spans),
            "gone": sum(int(span[-1] < len(seen) - 1) for span in spans),
        }


def draw(kind: Scenes, number: int, frames: int) -> Clip:
    """Draw one clip; every second one runs backwards, so that what left for good enters late."""
    rng = np.random.default_rng((SEED, number))
    material = Material(_ground(kind, rng), [random_texture(rng, 128) for _ in range(6)])
    if kind is Scenes.VISITORS:
        scene, names = _visitors(rng, material, frames)
    else:
        style = SceneStyle(size_wh=SIZE_WH, frames=frames, objects=(2, 4), clutter=0.5, leave=0.8, scale=(0.15, 0.3))
        scene, names = named_scene((SEED, number), material, style)
    order = range(frames)[:: -1 if number % 2 else 1]
    drawn = [scene.frame(index) for index in order]
    shares = [shown_shares(scene, frame, index) for frame, index in zip(drawn, order, strict=True)]
    phrases = dict.fromkeys(name.phrase(colour=True, pattern=name.pattern != "plain", shape=True) for name in names)
    text = " ".join(f"{phrase}." for phrase in phrases)
    return Clip([frame.frame_rgb for frame in drawn], Truth([frame.masks for frame in drawn], shares), text)


def _ground(kind: Scenes, rng: np.random.Generator) -> list[Image.Image]:
    """Return what backgrounds are made of."""
    if kind is Scenes.TEXTURES:
        return [random_texture(rng, 400) for _ in range(3)]
    paths = [package_file("skimage", f"data/{name}") for name in HELD_OUT]
    if None in paths:
        raise SystemExit("scikit-image is missing: pip install 'trt-track[demo]', or --scenes textures")
    return [Image.open(path).convert("RGB") for path in paths if path is not None]


def _visitors(rng: np.random.Generator, material: Material, frames: int) -> tuple[Scene, list[Name]]:
    """Cast random things of five colours for the paths; who comes from the left passes behind who stays."""
    width, height = SIZE_WH
    paths = (
        _path(rng, (-0.29 * width, 0.25 * height), (0.75 * width, 0.10 * height), frames),
        _path(rng, (0.23 * width, 0.55 * height), (0.06 * width, 0.03 * height), frames),
        _path(rng, (1.33 * width, 0.76 * height), (-0.60 * width, -0.06 * height), frames),
        replace(_path(rng, (0.77 * width, 0.38 * height), (0.0, 0.0), frames), sway_xy=(0.40 * width, 0.0), pace=1.4 * np.pi / frames),
        _path(rng, (0.50 * width, 0.65 * height), (0.05 * width, 1.0 * height), frames),
    )
    names: list[Name] = []
    while len(names) < len(paths):
        name = random_name(rng)
        if name.colour not in {known.colour for known in names}:
            names.append(name)
    things = tuple(
        Thing(named_outline(rng, name.shape), path, shade(rng, named_texture(rng, name)), tracked=True)
        for name, path in zip(names, paths, strict=True)
    )
    style = SceneStyle(size_wh=SIZE_WH, frames=frames, clutter=0.5)
    return Scene(SIZE_WH, frames, random_camera(rng, material, style), things, noise_seed=int(rng.integers(2**31))), names


def _path(rng: np.random.Generator, start: tuple[float, float], way: tuple[float, float], frames: int) -> Path:
    """Go `way` pixels within the clip."""
    radius = SIZE_WH[1] * float(rng.uniform(0.12, 0.16))
    velocity, angle, spin = (way[0] / frames, way[1] / frames), float(rng.uniform(0, 6.28)), float(rng.normal(0, 0.015))
    return Path(start, velocity, (0.0, 0.0), 0.0, 0.0, angle, spin, radius, 0.04, 0.05)
