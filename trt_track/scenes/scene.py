"""Scenes: a moving background, objects with their paths, occluders, and how a camera would show them."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from trt_track.scenes.outline import Outline, random_outline
from trt_track.scenes.path import Path, Pose, random_path
from trt_track.scenes.texture import lit, random_texture

Rng = np.random.Generator

_SUPERSAMPLING = 2
_TEXTURE_SPAN = 3.2
"""Side of a texture in radii of its thing: an outline that swings and is taller than wide stays on it."""
_SHUTTER = 0.5
"""Share of a frame's time that a blurred exposure takes."""


@dataclass(frozen=True)
class SceneStyle:
    """What a random scene may contain."""

    size_wh: tuple[int, int] = (256, 256)
    frames: int = 16
    objects: tuple[int, int] = (1, 4)
    """Fewest and most objects."""
    clutter: float = 1.0
    """0 for a strongly blurred background without occluders, 1 for a sharp one with other things in front and behind."""
    leave: float = 0.3
    """Probability that an object leaves the picture, for good or for a while."""
    degrade: float = 1.0
    """How strong noise, blur and compression are, 0 for none."""
    scale: tuple[float, float] = (0.1, 0.3)
    """Smallest and largest radius of an object as a share of the picture's short side."""
    alike: float = 0.0
    """Probability that a thing has the texture of the one drawn before it, so that only place and form tell them apart."""


@dataclass(frozen=True)
class Thing:
    """One textured shape."""

    outline: Outline
    path: Path
    texture: Image.Image
    tracked: bool
    """False for occluders and other things that only disturb."""


@dataclass(frozen=True)
class SceneFrame:
    """One picture with its truth."""

    frame_rgb: NDArray[np.uint8]
    """(H, W, 3)."""
    masks: NDArray[np.bool_]
    """(objects, H, W): the visible part of each tracked object, all False where it is hidden or has left."""


@dataclass(frozen=True)
class Camera:
    """What the camera does to every picture."""

    path: Path
    background: Image.Image
    blurred: bool
    noise: float
    """Standard deviation of the noise in grey levels."""
    quality: int | None
    """JPEG quality of the compression, None for none."""


@dataclass(frozen=True)
class Scene:
    """A clip that can be drawn frame by frame."""

    size_wh: tuple[int, int]
    frames: int
    camera: Camera
    things: tuple[Thing, ...]
    """From the back to the front."""
    noise_seed: int = 0

    @property
    def object_count(self) -> int:
        """Number of tracked objects."""
        return sum(thing.tracked for thing in self.things)

    def render(self) -> Iterator[SceneFrame]:
        """Yield every frame in order."""
        for index in range(self.frames):
            yield self.frame(index)

    def frame(self, index: int) -> SceneFrame:
        """Draw one frame."""
        width, height = self.size_wh
        picture = _place(self.camera.background, self.camera.path.at(index), (0, 0, width, height), fill=True)
        masks = np.zeros((self.object_count, height, width), bool)
        number = 0
        for thing in self.things:
            box, alpha = _silhouette(thing, index, self.size_wh, blurred=self.camera.blurred)
            if alpha is not None:
                picture.paste(_place(thing.texture, thing.path.at(index), box, fill=False), box[:2], alpha)
                solid = np.asarray(alpha) >= 128
                masks[:, box[1] : box[3], box[0] : box[2]] &= ~solid
                if thing.tracked:
                    masks[number, box[1] : box[3], box[0] : box[2]] = solid
            number += thing.tracked
        return SceneFrame(self._expose(picture, index), masks)

    def _expose(self, picture: Image.Image, index: int) -> NDArray[np.uint8]:
        """Add noise, then compression."""
        rgb = np.asarray(picture)
        if self.camera.noise:
            rng = np.random.default_rng((self.noise_seed, index))
            grain = rng.normal(0, self.camera.noise, (*rgb.shape[:2], 1)).astype(np.float32)
            rgb = np.clip(rgb + grain, 0, 255).astype(np.uint8)
        if self.camera.quality is not None:
            buffer = io.BytesIO()
            Image.fromarray(rgb).save(buffer, "JPEG", quality=self.camera.quality)
            rgb = np.asarray(Image.open(buffer))
        return rgb


@dataclass(frozen=True)
class Material:
    """What scenes are made of."""

    pictures: Sequence[Image.Image]
    """Photographs for backgrounds and to cut objects from; at least one."""
    textures: Sequence[Image.Image] = ()
    """Textures to choose from; none for a new one each time, which takes some milliseconds."""

    def texture(self, rng: Rng) -> Image.Image:
        """Return a texture made from nothing."""
        return self.textures[int(rng.integers(len(self.textures)))] if self.textures else random_texture(rng)

    def picture(self, rng: Rng) -> Image.Image:
        """Return one of the pictures."""
        return self.pictures[int(rng.integers(len(self.pictures)))]


def random_scene(seed: int | Sequence[int], material: Material, style: SceneStyle = SceneStyle()) -> Scene:
    """Make a scene from a seed.

    Args:
        seed: one number or several; the same seed, material and style give the same clip.
        material: pictures and textures.
        style: what the scene may contain.

    Raises:
        ValueError: there are no pictures.
    """
    if not material.pictures:
        raise ValueError("a scene needs at least one picture")
    rng = np.random.default_rng(seed)
    tracked = int(rng.integers(style.objects[0], style.objects[1] + 1))
    disturbing = int(rng.integers(0, 1 + round(3 * style.clutter)))
    roles = np.array([True] * tracked + [False] * disturbing)
    things: list[Thing] = []
    for role in rng.permutation(roles):
        thing = _random_thing(rng, material, style, tracked=bool(role))
        twin = bool(things) and style.alike > 0 and rng.random() < style.alike
        things.append(replace(thing, texture=tint(rng, things[-1].texture, 0.05)) if twin else thing)
    return Scene(style.size_wh, style.frames, random_camera(rng, material, style), tuple(things), noise_seed=int(rng.integers(2**31)))


def _random_thing(rng: Rng, material: Material, style: SceneStyle, *, tracked: bool) -> Thing:
    outline = random_outline(rng, deform=float(rng.random() < 0.7))
    side = max(64, min(192, round(0.75 * min(style.size_wh))))
    texture = cut(rng, material.picture(rng), side) if rng.random() < 0.6 else tint(rng, material.texture(rng), 0.2)
    leave = style.leave if tracked else 0.5
    return Thing(outline, random_path(rng, style.size_wh, style.frames, scale=style.scale, leave=leave), shade(rng, texture), tracked)


def cut(rng: Rng, picture: Image.Image, side: int) -> Image.Image:
    """Cut a square from a picture and change its colours a little."""
    width, height = picture.size
    crop = int(min(width, height) * rng.uniform(0.2, 0.8))
    left, top = int(rng.integers(width - crop + 1)), int(rng.integers(height - crop + 1))
    patch = picture.resize((side, side), Image.Resampling.BILINEAR, box=(left, top, left + crop, top + crop))
    return tint(rng, patch, 0.35)


def tint(rng: Rng, picture: Image.Image, strength: float) -> Image.Image:
    """Scale contrast and channels, sometimes mirrored."""
    gain = np.exp(rng.normal(0, strength, 3) * 0.5 + rng.normal(0, strength))
    rgb = (np.asarray(picture, np.float32) - 128) * np.float32(np.exp(rng.normal(0, 0.2))) + 128
    rgb = np.clip(rgb * gain.astype(np.float32), 0, 255).astype(np.uint8)
    return Image.fromarray(rgb[:, ::-1] if rng.random() < 0.5 else rgb)


def shade(rng: Rng, texture: Image.Image) -> Image.Image:
    """Light every other texture from a random side."""
    if rng.random() < 0.5:
        return texture
    angle, depth = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.6)
    return lit(texture, (np.cos(angle), np.sin(angle)), depth=depth)


def random_camera(rng: Rng, material: Material, style: SceneStyle) -> Camera:
    """Draw a slowly moving background, and how the camera blurs and compresses."""
    width, height = style.size_wh
    source = material.picture(rng) if rng.random() < 0.85 else material.texture(rng)
    margin = 1.35
    background = _crop_to(rng, source, (round(width * margin), round(height * margin)))
    radius = (1 - style.clutter) * min(width, height) / 16
    if radius >= 0.5:
        background = background.filter(ImageFilter.GaussianBlur(radius))
    drift = rng.normal(0, min(0.004, 0.05 / style.frames), 2) * min(width, height)
    path = Path(
        start_xy=(width / 2, height / 2),
        velocity_xy=(float(drift[0]), float(drift[1])),
        sway_xy=(0.0, 0.0),
        pace=0.0,
        phase=0.0,
        angle=float(rng.normal(0, 0.02)),
        spin=float(rng.normal(0, min(0.002, 0.03 / style.frames))),
        radius=max(background.size) / 2,
        breath=float(rng.uniform(0, 0.04)),
        breath_pace=float(rng.uniform(0.02, 0.1)),
    )
    strong = style.degrade
    quality = int(100 - strong * rng.uniform(10, 70)) if rng.random() < 0.7 * strong else None
    return Camera(path, background, bool(rng.random() < 0.4 * strong), float(strong * rng.uniform(0, 8)), quality)


def _crop_to(rng: Rng, picture: Image.Image, size_wh: tuple[int, int]) -> Image.Image:
    """Cut a random part of a picture that has the wanted shape, and scale it to the wanted size."""
    width, height = picture.size
    shrink = min(width / size_wh[0], height / size_wh[1]) * rng.uniform(0.5, 1.0)
    crop_wh = size_wh[0] * shrink, size_wh[1] * shrink
    left, top = rng.uniform(0, width - crop_wh[0]), rng.uniform(0, height - crop_wh[1])
    box = (left, top, left + crop_wh[0], top + crop_wh[1])
    return tint(rng, picture.resize(size_wh, Image.Resampling.BICUBIC, box=box), 0.15)


def _place(texture: Image.Image, pose: Pose, box: tuple[int, int, int, int], *, fill: bool) -> Image.Image:
    """Draw a texture as a pose puts it, seen through a box of the frame; `fill` keeps the texture's own shape instead of a square."""
    side_w, side_h = texture.size
    scale = max(side_w, side_h) / (2 * pose.radius) if fill else side_w / (_TEXTURE_SPAN * pose.radius)
    cos, sin = np.cos(pose.angle) * scale, np.sin(pose.angle) * scale
    dx, dy = box[0] + 0.5 - pose.x, box[1] + 0.5 - pose.y
    coefficients = (cos, sin, cos * dx + sin * dy + side_w / 2, -sin, cos, -sin * dx + cos * dy + side_h / 2)
    size = (box[2] - box[0], box[3] - box[1])
    return texture.transform(size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)


def _silhouette(
    thing: Thing, index: int, size_wh: tuple[int, int], *, blurred: bool
) -> tuple[tuple[int, int, int, int], Image.Image | None]:
    """Return the box x0, y0, x1, y1 of a thing in the frame and its coverage there, None where nothing of it is in the picture."""
    moments = (index - _SHUTTER / 2, float(index), index + _SHUTTER / 2) if blurred else (float(index),)
    curves = [thing.path.at(moment).apply(thing.outline.at(moment)) for moment in moments]
    every = np.concatenate(curves)
    low = np.maximum(np.floor(every.min(axis=0)).astype(int), 0)
    high = np.minimum(np.ceil(every.max(axis=0)).astype(int), size_wh)
    box = (int(low[0]), int(low[1]), int(high[0]), int(high[1]))
    if (high - low).min() <= 0:
        return box, None
    size = (int(high[0] - low[0]), int(high[1] - low[1]))
    layers = [_fill(curve - low, size) for curve in curves]
    if len(layers) == 1:
        return box, layers[0]
    mean = np.mean([np.asarray(layer, np.float32) for layer in layers], axis=0)
    return box, Image.fromarray(mean.astype(np.uint8))


def _fill(curve: NDArray[np.float64], size: tuple[int, int]) -> Image.Image:
    """Draw a filled curve with soft edges."""
    large = Image.new("L", (size[0] * _SUPERSAMPLING, size[1] * _SUPERSAMPLING))
    ImageDraw.Draw(large).polygon((curve * _SUPERSAMPLING - 0.5).ravel().tolist(), fill=255)
    return large.reduce(_SUPERSAMPLING)
