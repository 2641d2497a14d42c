"""Training examples: random scenes with a prompt for every object of the first frame, made on the fly from a seed and a number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from pictures import load_pictures
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from trt_track.runtime.results import mask_boxes
from trt_track.scenes import Material, SceneStyle, random_scene, random_texture

LEAST_AREA = 0.0015
"""Share of the picture that an object shows on the first frame at least; smaller ones are not prompted."""


@dataclass
class ClipBatch:
    """Clips of equal length and all their objects."""

    frames: Tensor
    """(T, B, 3, S, S) uint8 RGB."""
    masks: Tensor
    """(T, N, S, S) bool, the objects of all clips behind one another."""
    clip: Tensor
    """(N,) int64: which clip an object belongs to."""
    boxes: Tensor
    """(N, 2, 2) float32: top left and bottom right corner on the first frame, a little off as people draw them, in pixels."""
    clicks: Tensor
    """(N, 1, 2) float32: a pixel inside the object on the first frame."""

    def pin(self, device: torch.device) -> ClipBatch:
        """Return the batch on a device."""
        return ClipBatch(**{name: value.to(device, non_blocking=True) for name, value in vars(self).items()})


@dataclass(frozen=True)
class ClipRecipe:
    """What one training step sees."""

    style: SceneStyle
    clips: int
    objects: int
    """Most objects of one clip that are trained on."""
    seed: int


class ClipDataset(Dataset[ClipBatch]):
    """Batch `step` of a recipe: always the same, whichever process makes it."""

    def __init__(self, recipe: ClipRecipe, first: int, steps: int, clutter_steps: int) -> None:
        """Make batches `first` to `first + steps`; clutter rises to the style's own over the first `clutter_steps` of the recipe."""
        self.recipe, self.first, self.steps, self.clutter_steps = recipe, first, steps, clutter_steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> ClipBatch:
        step = self.first + index
        rise = min(1.0, step / self.clutter_steps) if self.clutter_steps else 1.0
        style = replace(self.recipe.style, clutter=rise * self.recipe.style.clutter, degrade=rise * self.recipe.style.degrade)
        clips: list[tuple[np.ndarray, ...]] = []
        number = 0
        while len(clips) < self.recipe.clips:
            clip = make_clip((self.recipe.seed, step, number), style, self.recipe.objects, "train")
            number += 1
            if clip is not None:
                clips.append(clip)
        return _collate(clips)


@cache
def material(split: str) -> Material:
    """Return pictures and 400 textures of a split, `train` or `held_out`; no texture is in both."""
    first = {"train": 0, "held_out": 1_000_000}[split]
    textures = tuple(random_texture(np.random.default_rng(first + number), 160) for number in range(400))
    return Material(load_pictures(split), textures)


def make_clip(seed: tuple[int, ...], style: SceneStyle, most: int, split: str) -> tuple[np.ndarray, ...] | None:
    """Return frames (T, S, S, 3), masks (T, n, S, S), boxes (n, 2, 2) and clicks (n, 1, 2); None where no object is large enough."""
    rendered = list(random_scene(seed, material(split), style).render())
    masks = np.stack([frame.masks for frame in rendered])
    large = np.flatnonzero(masks[0].mean(axis=(1, 2)) >= LEAST_AREA)
    rng = np.random.default_rng((*seed, 1))
    chosen = rng.permutation(large)[:most]
    if not len(chosen):
        return None
    masks = masks[:, chosen]
    boxes = np.stack([_box(rng, mask) for mask in masks[0]])
    clicks = np.stack([_click(rng, mask) for mask in masks[0]])
    return np.stack([frame.frame_rgb for frame in rendered]), masks, boxes, clicks


def batches(recipe: ClipRecipe, first: int, steps: int, clutter_steps: int, workers: int) -> Iterator[ClipBatch]:
    """Yield the batches `first` to `first + steps`, made ahead by worker processes."""
    data = ClipDataset(recipe, first, steps, clutter_steps)
    yield from DataLoader(data, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None)


def _box(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """The tight box with every side moved by up to 5 % of its length, as upstream jitters boxes."""
    corners = mask_boxes(mask[None]).reshape(2, 2).astype(np.float32)
    return corners + (rng.uniform(-0.05, 0.05, (2, 2)) * (corners[1] - corners[0])).astype(np.float32)


def _click(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    ys, xs = np.nonzero(mask)
    chosen = rng.integers(len(ys))
    return np.array([[xs[chosen] + 0.5, ys[chosen] + 0.5]], np.float32)


def _collate(clips: list[tuple[np.ndarray, ...]]) -> ClipBatch:
    counts = [clip[1].shape[1] for clip in clips]
    return ClipBatch(
        frames=torch.from_numpy(np.stack([clip[0] for clip in clips], axis=1)).permute(0, 1, 4, 2, 3).contiguous(),
        masks=torch.from_numpy(np.concatenate([clip[1] for clip in clips], axis=1)),
        clip=torch.repeat_interleave(torch.arange(len(clips)), torch.tensor(counts)),
        boxes=torch.from_numpy(np.concatenate([clip[2] for clip in clips])),
        clicks=torch.from_numpy(np.concatenate([clip[3] for clip in clips])),
    )
