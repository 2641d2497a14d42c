"""Examples for the text detector: drawn pictures of named things, prompts that name some of them and some that are not there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from clips import material
from detector_loss import BoxTruth
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from trt_track.export.image_encoder import MEAN_RGB, STD_RGB
from trt_track.runtime.results import mask_boxes
from trt_track.scenes import SceneStyle
from trt_track.scenes.named import COLOURS, PATTERNS, SHAPES, Name, named_scene, phrases_of

FRAME_HW = (192, 320)
"""Height and width of the detector's frame."""


def picture_style(frame_hw: tuple[int, int] = FRAME_HW, clutter: float = 1.0) -> SceneStyle:
    """Return what pictures contain; `clutter` from 0 to 1."""
    return SceneStyle(
        size_wh=(frame_hw[1], frame_hw[0]), frames=1, objects=(1, 5), clutter=clutter, leave=0.0, degrade=0.6 * clutter, scale=(0.1, 0.3)
    )


@dataclass
class Picture:
    """A picture and a prompt with its answer."""

    frame_rgb: np.ndarray
    """(h, w, 3) uint8."""
    boxes: np.ndarray
    """(n, 4) float32 x0, y0, x1, y1 in pixels, of every thing."""
    names: tuple[Name, ...]
    phrases: tuple[str, ...]

    @property
    def prompt(self) -> str:
        """The phrases as a text prompt."""
        return " ".join(f"{phrase}." for phrase in self.phrases)


def make_picture(seed: tuple[int, ...], split: str, style: SceneStyle, contrast: float = 0.0) -> Picture:
    """Draw the picture of a seed and write its prompt.

    Args:
        seed: the same one gives the same picture and prompt.
        split: `train` or `held_out`.
        style: what the picture contains.
        contrast: share of prompts that ask for one thing under names that differ in one word, `red circle. red star. red square.`; the
            others have up to four phrases that are true of something and up to two that most likely are not.
    """
    scene, names = named_scene(seed, material(split), style)
    frame = scene.frame(0)
    rng = np.random.default_rng((*seed, 1))
    if rng.random() < contrast:
        phrases = alternatives(rng, names)
    else:
        present = int(rng.integers(0 if rng.random() < 0.1 else 1, 5))
        phrases = phrases_of(rng, names, present, int(rng.integers(0 if present else 1, 3)))
    return Picture(frame.frame_rgb, mask_boxes(frame.masks).astype(np.float32), names, phrases)


def alternatives(rng: np.random.Generator, names: Sequence[Name]) -> tuple[str, ...]:
    """Return a thing's name and two to four more that have another word in one place; shapes, the hardest, most often."""
    name = names[rng.integers(len(names))]
    kind, others = (("shape", SHAPES), ("pattern", PATTERNS), ("colour", tuple(COLOURS)))[rng.choice(3, p=(0.6, 0.25, 0.15))]
    words = {word: word == kind or bool(rng.random() < 0.3) for word in ("colour", "pattern", "shape")}
    values = rng.permutation([value for value in others if value != getattr(name, kind)])[: rng.integers(2, 5)]
    every = [name, *(replace(name, **{kind: str(value)}) for value in values)]
    return tuple(rng.permutation([one.phrase(**words) for one in every]).tolist())


@dataclass
class Things:
    """All n things of a batch, whether a prompt names them or not."""

    corners: Tensor
    """(n, 5) float32: number of the picture, then x0, y0, x1, y1 in pixels."""
    kinds: Tensor
    """(n, 3) int64: which colour, pattern and shape."""

    def pin(self, device: torch.device) -> Things:
        """Return them on a device."""
        return Things(self.corners.to(device), self.kinds.to(device))


@dataclass
class DetectorBatch:
    """F pictures and their prompts of at most T tokens."""

    pixels: Tensor
    """(F, 3, h, w) float32, normalised."""
    token: Tensor
    """(F, T) int64, padded with 0."""
    mask: Tensor
    """(F, T) int64, 0 for padding."""
    truth: list[BoxTruth]
    things: Things

    def pin(self, device: torch.device) -> DetectorBatch:
        """Return the batch on a device."""
        truth = [BoxTruth(one.boxes.to(device), one.words.to(device)) for one in self.truth]
        return DetectorBatch(self.pixels.to(device), self.token.to(device), self.mask.to(device), truth, self.things.pin(device))


@dataclass(frozen=True)
class PictureRecipe:
    """What one training step sees."""

    tokenizer_json: bytes
    frame_hw: tuple[int, int]
    pictures: int
    seed: int
    clutter_steps: int
    """Steps over which the scenes rise from clean to cluttered."""
    contrast: float = 0.0
    """See `make_picture`."""


class PictureDataset(Dataset[DetectorBatch]):
    """Batch `step` of a recipe: always the same, whichever process makes it."""

    def __init__(self, recipe: PictureRecipe, first: int, steps: int) -> None:
        """Make batches `first` to `first + steps`."""
        self.recipe, self.first, self.steps = recipe, first, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> DetectorBatch:
        recipe, step = self.recipe, self.first + index
        style = picture_style(recipe.frame_hw, min(1.0, step / recipe.clutter_steps) if recipe.clutter_steps else 1.0)
        pictures = [make_picture((recipe.seed, step, number), "train", style, recipe.contrast) for number in range(recipe.pictures)]
        return collate(pictures, Tokenizer.from_str(recipe.tokenizer_json.decode()))


def collate(pictures: list[Picture], tokenizer: Any) -> DetectorBatch:
    """Put pictures into a batch."""
    encoded = [tokenizer.encode(picture.prompt) for picture in pictures]
    longest = max(len(one.ids) for one in encoded)
    token, mask = torch.zeros(2, len(pictures), longest, dtype=torch.int64)
    truth = []
    for row, (picture, one) in enumerate(zip(pictures, encoded, strict=True)):
        token[row, : len(one.ids)] = torch.tensor(one.ids)
        mask[row, : len(one.ids)] = 1
        truth.append(_truth(picture, phrase_of_tokens(picture, one), longest))
    rgb = torch.from_numpy(np.stack([picture.frame_rgb for picture in pictures])).permute(0, 3, 1, 2).float() / 255
    pixels = (rgb - torch.tensor(MEAN_RGB).view(3, 1, 1)) / torch.tensor(STD_RGB).view(3, 1, 1)
    return DetectorBatch(pixels, token, mask, truth, _things(pictures))


def _things(pictures: Sequence[Picture]) -> Things:
    numbers = np.repeat(np.arange(len(pictures)), [len(picture.boxes) for picture in pictures])
    corners = np.concatenate([picture.boxes for picture in pictures])
    names = [name for picture in pictures for name in picture.names]
    kinds = [[tuple(COLOURS).index(name.colour), PATTERNS.index(name.pattern), SHAPES.index(name.shape)] for name in names]
    return Things(torch.from_numpy(np.column_stack([numbers, corners]).astype(np.float32)), torch.tensor(kinds))


def phrase_of_tokens(picture: Picture, encoding: Any) -> list[int]:
    """Return the number of the phrase that each token is a word of, -1 for what separates phrases."""
    ends = np.cumsum([len(phrase) + 2 for phrase in picture.phrases])
    numbers = []
    for (start, stop), word in zip(encoding.offsets, encoding.tokens, strict=True):
        numbers.append(-1 if start == stop or word == "." else int(np.searchsorted(ends, start, side="right")))
    return numbers


def _truth(picture: Picture, phrase: list[int], longest: int) -> BoxTruth:
    """Keep the things that the prompt names, each with all words of all phrases that are true of it."""
    height, width = picture.frame_rgb.shape[:2]
    true = np.array([[name.is_called(one) for one in picture.phrases] for name in picture.names]).reshape(len(picture.names), -1)
    kept = np.flatnonzero(true.any(axis=1))
    words = torch.zeros(len(kept), longest)
    for row, thing in enumerate(kept):
        words[row, : len(phrase)] = torch.tensor([float(number >= 0 and true[thing, number]) for number in phrase])
    corners = torch.from_numpy(picture.boxes[kept].reshape(-1, 2, 2)) / torch.tensor([width, height])
    return BoxTruth(torch.cat([corners.mean(dim=1), corners[:, 1] - corners[:, 0]], dim=1), words)


def batches(recipe: PictureRecipe, first: int, steps: int, workers: int) -> Iterator[DetectorBatch]:
    """Yield the batches `first` to `first + steps`, made ahead by worker processes."""
    data = PictureDataset(recipe, first, steps)
    yield from DataLoader(data, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None)
