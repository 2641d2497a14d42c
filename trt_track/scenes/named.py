"""Scenes of things that words describe: `red circle`, `striped square`. The little world that the embedded text detector knows."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trt_track.scenes.outline import ANGLES, Outline, superellipse
from trt_track.scenes.path import random_path
from trt_track.scenes.scene import Material, Scene, SceneFrame, SceneStyle, Thing, cut, random_camera, shade
from trt_track.scenes.texture import patterned

Rng = np.random.Generator

COLOURS: Final = {
    "red": ((-8, 8), (0.8, 1.0), (0.65, 1.0)),
    "orange": ((24, 32), (0.85, 1.0), (0.9, 1.0)),
    "yellow": ((48, 58), (0.75, 1.0), (0.85, 1.0)),
    "green": ((95, 145), (0.6, 1.0), (0.45, 0.9)),
    "blue": ((205, 235), (0.65, 1.0), (0.55, 1.0)),
    "purple": ((268, 288), (0.6, 0.95), (0.5, 0.85)),
    "pink": ((318, 340), (0.35, 0.6), (0.92, 1.0)),
    "white": ((0, 360), (0.0, 0.05), (0.93, 1.0)),
    "black": ((0, 360), (0.0, 0.3), (0.04, 0.13)),
}
"""Ranges of hue in degrees, of saturation and of value."""
SHAPES: Final = ("circle", "square", "triangle", "star", "blob")
PATTERNS: Final = ("plain", "striped", "checked", "dotted")
ANYTHING: Final = "thing"
"""The word that every thing is."""

_SHOWN: Final = 0.5
"""Share of a thing that is in the picture and not hidden at least."""
_TEXTURE_SIDE: Final = 128
_TRIES: Final = 50


@dataclass(frozen=True, slots=True)
class Name:
    """What a thing is called."""

    colour: str
    pattern: str
    shape: str

    def is_called(self, phrase: str) -> bool:
        """Tell whether a phrase such as `red circle` is true of the thing: all its words are."""
        return set(phrase.split()) <= {self.colour, self.pattern, self.shape, ANYTHING}

    def phrase(self, *, colour: bool, pattern: bool, shape: bool) -> str:
        """Return the name with some of its words: `red striped star`, `striped thing`."""
        words = [self.colour] * colour + [self.pattern] * pattern + [self.shape if shape else ANYTHING]
        return " ".join(words)


def random_name(rng: Rng) -> Name:
    """Draw a name; half of all things are plain."""
    pattern = PATTERNS[0] if rng.random() < 0.5 else PATTERNS[1 + rng.integers(len(PATTERNS) - 1)]
    return Name(tuple(COLOURS)[rng.integers(len(COLOURS))], pattern, SHAPES[rng.integers(len(SHAPES))])


def _with_another_word(rng: Rng, name: Name) -> Name:
    """Change the colour or the shape."""
    other = random_name(rng)
    return replace(name, colour=other.colour) if rng.random() < 0.4 else replace(name, shape=other.shape)


def named_thing(rng: Rng, name: Name, style: SceneStyle) -> Thing:
    """Draw a thing that is called so."""
    path = random_path(rng, style.size_wh, style.frames, scale=style.scale, leave=style.leave)
    return Thing(named_outline(rng, name.shape), path, shade(rng, named_texture(rng, name)), tracked=True)


def named_texture(rng: Rng, name: Name) -> Image.Image:
    """Draw a texture of a colour and a pattern; the pattern's other colour is the same one, much darker or much lighter."""
    base = _colour(rng, name.colour)
    towards = {"black": 255.0, "white": 0.0}.get(name.colour, 255.0 * (rng.random() < 0.5))
    share = 0.35 if name.colour in {"black", "white"} else 0.65  # black with white checks would be white with black ones
    return patterned(rng, name.pattern, base, base + share * (towards - base), _TEXTURE_SIDE)


def named_outline(rng: Rng, shape: str) -> Outline:
    """Draw an outline of a shape, nearly rigid."""
    radii = _RADII[shape](rng)
    order = np.arange(5)
    swing = rng.uniform(0, 0.02, 5) / np.sqrt(order + 2)
    aspect = float(np.exp(rng.uniform(-0.15, 0.15)))
    return Outline(radii / radii.max(), aspect, swing, rng.uniform(0.05, 0.2, 5), rng.uniform(0, 2 * np.pi, 5))


def named_scene(seed: int | Sequence[int], material: Material, style: SceneStyle) -> tuple[Scene, tuple[Name, ...]]:
    """Make a scene from a seed in which everything is called something, but for a few strips cut from photographs.

    Args:
        seed: one number or several; the same seed, material and style give the same clip.
        material: pictures and textures, for the background and the strips.
        style: `objects` and `scale` are of the named things; nothing leaves where `leave` is 0.

    Returns:
        The scene and the name of each of its objects. On the first frame, half of every object can be seen at least.
    """
    rng = np.random.default_rng(seed)
    for _ in range(_TRIES):
        names = [random_name(rng) for _ in range(rng.integers(style.objects[0], style.objects[1] + 1))]
        things = [named_thing(rng, name, style) for name in names]
        strips = [_strip(rng, material, style) for _ in range(rng.integers(0, 1 + round(2 * style.clutter)))]
        drawn = Scene(
            style.size_wh, style.frames, random_camera(rng, material, style), (*strips, *things), noise_seed=int(rng.integers(2**31))
        )
        if shown_shares(drawn, drawn.frame(0)).min() >= _SHOWN:
            return drawn, tuple(names)
    raise ValueError(f"{style.objects[0]} to {style.objects[1]} things of this size hide each other in a picture of {style.size_wh}")


def shown_shares(scene: Scene, frame: SceneFrame, index: int = 0) -> NDArray[np.float64]:
    """Return the share of each object (n,) that a frame shows: in the picture, and hidden by nothing."""
    tracked = [thing for thing in scene.things if thing.tracked]
    areas = [_area(thing.path.at(index).apply(thing.outline.at(index))) for thing in tracked]
    shares: NDArray[np.float64] = frame.masks.sum(axis=(1, 2)) / np.maximum(areas, 1)
    return shares


def _strip(rng: Rng, material: Material, style: SceneStyle) -> Thing:
    """A long piece of a photograph, which has no name."""
    still = np.zeros(5)
    outline = Outline(superellipse(6), float(rng.uniform(0.15, 0.35)), still, still, still)
    path = random_path(rng, style.size_wh, style.frames, scale=style.scale, leave=style.leave)
    return Thing(outline, path, cut(rng, material.picture(rng), _TEXTURE_SIDE), tracked=False)


def _colour(rng: Rng, name: str) -> NDArray[np.float64]:
    hue, saturation, value = (rng.uniform(*bounds) for bounds in COLOURS[name])
    return 255 * np.array(colorsys.hsv_to_rgb(hue / 360 % 1, saturation, value))


def _area(curve: NDArray[np.float64]) -> float:
    """Shoelace formula: area of a closed polygon (n, 2)."""
    x, y = curve.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def _blob(rng: Rng) -> NDArray[np.float64]:
    """Two or three wide bulges, no two of the same size."""
    two, three = rng.uniform(0.12, 0.25), rng.uniform(0.12, 0.25)
    first, second = rng.uniform(0, 2 * np.pi, 2)
    bulges: NDArray[np.float64] = 1 + two * np.cos(2 * ANGLES + first) + three * np.cos(3 * ANGLES + second)
    return bulges


def _triangle(_: Rng) -> NDArray[np.float64]:
    third = 2 * np.pi / 3
    radii: NDArray[np.float64] = 1 / np.cos(ANGLES % third - third / 2)
    return radii


def _star(rng: Rng) -> NDArray[np.float64]:
    radii: NDArray[np.float64] = 1 + rng.uniform(0.28, 0.45) * np.cos(5 * ANGLES)
    return radii


_RADII: Final[dict[str, Callable[[Rng], NDArray[np.float64]]]] = {
    "circle": lambda _: np.ones_like(ANGLES),
    "square": lambda rng: superellipse(rng.uniform(4, 9)),
    "triangle": _triangle,
    "star": _star,
    "blob": _blob,
}


def phrases_of(rng: Rng, names: Collection[Name], present: int, absent: int) -> tuple[str, ...]:
    """Draw phrases, some of which are true of a thing and some most likely of none, in any order, none twice.

    Args:
        rng: where the choices come from.
        names: of the things in a picture, at least one.
        present: phrases made from these names.
        absent: phrases made from other names, every other one of which differs from a thing's in one word alone.
    """
    known = tuple(names)
    chosen = [known[rng.integers(len(known))] for _ in range(present)]
    chosen += [_with_another_word(rng, known[rng.integers(len(known))]) if rng.random() < 0.5 else random_name(rng) for _ in range(absent)]
    kinds = ((True, False, True), (True, False, True), (False, True, True), (False, False, True), (True, False, False), (True, True, True))
    phrases = [name.phrase(**dict(zip(("colour", "pattern", "shape"), kinds[rng.integers(len(kinds))], strict=True))) for name in chosen]
    return tuple(rng.permutation(sorted(set(phrases))).tolist())
