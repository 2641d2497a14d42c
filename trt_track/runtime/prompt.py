"""What a user asks for: clicks, a box or a mask for one object on one frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from trt_track.errors import PromptError

BOX_LABELS: Final = (2, 3)
"""Upstream's labels of a box's top left and bottom right corner, which it treats as clicks."""


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """Clicks, a box, both, or a mask for one object on one frame; or the object's end. Arrays are brought into the stated dtypes.

    Raises:
        PromptError: an array has another shape, or a label is neither 0 nor 1.
    """

    frame: int
    """Number of the frame, from 0."""
    object_id: int
    """The user's number for the object, from 1."""
    points_xy_px: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    """(K, 2) clicks in pixels of the video, origin top left."""
    labels: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    """(K,) 1 inside the object, 0 outside."""
    box_xyxy_px: npt.NDArray[np.float32] | None = None
    """(4,) left, top, right, bottom in pixels of the video."""
    mask: npt.NDArray[np.bool_] | None = None
    """(H, W) of the video's size, true inside the object."""
    remove: bool = False
    """Whether the object is tracked no more from this frame on."""
    conditions: bool = False
    """Whether a correction makes its frame a conditioning frame, which it does with every prompt where the model says so."""

    def __post_init__(self) -> None:
        points = self._array("points", self.points_xy_px, np.float32)
        labels = self._array("labels", self.labels, np.int32)
        if points.ndim != 2 or points.shape[1] != 2 or labels.shape != (len(points),):
            raise PromptError(
                f"{self.where}: expected clicks (K, 2) and as many labels (K,), got {list(points.shape)} and {list(labels.shape)}"
            )
        if not np.isin(labels, (0, 1)).all():
            raise PromptError(f"{self.where}: a label is 1 (inside the object) or 0 (outside), got {labels.tolist()}")
        object.__setattr__(self, "points_xy_px", points)
        object.__setattr__(self, "labels", labels)
        if self.box_xyxy_px is not None:
            box = self._array("box", self.box_xyxy_px, np.float32)
            if box.shape != (4,):
                raise PromptError(f"{self.where}: a box is x0,y0,x1,y1, got {box.size} numbers")
            object.__setattr__(self, "box_xyxy_px", box)
        if self.mask is not None:
            mask = self._array("mask", self.mask, np.bool_)
            if mask.ndim != 2:
                raise PromptError(f"{self.where}: expected a mask (H, W), got {list(mask.shape)}")
            object.__setattr__(self, "mask", mask)

    def _array(self, name: str, value: object, dtype: type[np.generic]) -> npt.NDArray[np.generic]:
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # what gets infinite is refused with the frame's size, by `check_prompts`
                return np.asarray(value, dtype)
        except (OverflowError, TypeError, ValueError) as error:
            raise PromptError(f"{self.where}: {name} must be numbers in a regular array: {error}") from error

    @property
    def where(self) -> str:
        """Which object on which frame, for messages."""
        return f"object {self.object_id} on frame {self.frame}"

    @property
    def starts_object(self) -> bool:
        """Whether an object can be found from this prompt alone."""
        return self.box_xyxy_px is not None or self.mask is not None or bool((self.labels == 1).any())

    @property
    def click_count(self) -> int:
        """Clicks that the model gets; a box counts as two."""
        return len(self.points_xy_px) + (0 if self.box_xyxy_px is None else len(BOX_LABELS))


def model_clicks(prompt: Prompt, *, width: int, height: int, size: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Return a prompt's clicks as the model takes them, in upstream's order and arithmetic: the box's corners, then the clicks.

    https://github.com/facebookresearch/sam2/blob/2b90b9f5ceec907a1c18123530e92e794ad901a4/sam2/sam2_video_predictor.py#L199

    Args:
        prompt: clicks in pixels of the video; it has no mask.
        width: the video's, in pixels.
        height: the video's, in pixels.
        size: side S of the model's square, in pixels.

    Returns:
        Points (K, 2) float32 in model pixels, and labels (K,) int32: 0, 1, and 2, 3 for the corners.
    """
    points, labels = prompt.points_xy_px, prompt.labels
    if prompt.box_xyxy_px is not None:
        points = np.concatenate([prompt.box_xyxy_px.reshape(2, 2), points])
        labels = np.concatenate([np.array(BOX_LABELS, np.int32), labels])
    relative = (points / np.array([width, height], np.float32)).astype(np.float32)
    return (relative * np.float32(size)).astype(np.float32), labels


def merge_prompts(prompts: Sequence[Prompt], known: Mapping[tuple[int, int], Prompt] | None = None) -> list[Prompt]:
    """Join all clicks and the box of one object on one frame into one prompt, in the order of their first mention.

    Args:
        prompts: any.
        known: merged before, by frame and object: those for the same object and frame are joined with them, the others are left out.

    Raises:
        PromptError: an object has two boxes, two masks, a mask beside clicks, or a prompt beside its removal, on one frame.
    """
    groups: dict[tuple[int, int], list[Prompt]] = {}
    for prompt in prompts:
        place = (prompt.frame, prompt.object_id)
        before = known.get(place) if known else None
        groups.setdefault(place, [before] if before else []).append(prompt)
    return [_merge(group) for group in groups.values()]


def _merge(group: Sequence[Prompt]) -> Prompt:
    """Join the prompts of one object on one frame."""
    first = group[0]
    boxes = [prompt.box_xyxy_px for prompt in group if prompt.box_xyxy_px is not None]
    masks = [prompt.mask for prompt in group if prompt.mask is not None]
    for kind, several in (("boxes", boxes), ("masks", masks)):
        if len(several) > 1:
            raise PromptError(f"{first.where} has {len(several)} {kind}: keep one")
    merged = (
        first
        if len(group) == 1
        else Prompt(
            first.frame,
            first.object_id,
            np.concatenate([prompt.points_xy_px for prompt in group]),
            np.concatenate([prompt.labels for prompt in group]),
            boxes[0] if boxes else None,
            masks[0] if masks else None,
            any(prompt.remove for prompt in group),
            any(prompt.conditions for prompt in group),
        )
    )
    if merged.mask is not None and merged.click_count:
        raise PromptError(f"{first.where} has a mask and clicks or a box: a mask says all, leave the others out")
    if merged.remove and (merged.mask is not None or merged.click_count):
        raise PromptError(f"{first.where} is prompted and removed at once: keep one of the two, or remove it on a later frame")
    return merged
