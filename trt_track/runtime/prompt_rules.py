"""Which prompts make sense for a clip: everything is refused before the first frame is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from trt_track.errors import PromptError
from trt_track.runtime.prompt import Prompt, merge_prompts
from trt_track.specs import Limits

_MOST_CLICKS: Final = Limits().clicks


def check_prompts(prompts: Sequence[Prompt], *, width: int, height: int, frame_count: int, reverse: bool | None = False) -> None:
    """Refuse prompts that make no sense for a clip or contradict each other.

    Args:
        prompts: all prompts for the clip, merged or not.
        width: the clip's, in pixels.
        height: the clip's, in pixels.
        frame_count: frames of the clip.
        reverse: whether the clip is tracked from its end to its start, so that a later frame comes first; None while that is open, then
            only each prompt by itself is looked at.

    Raises:
        PromptError: the first fault found: what, for which object on which frame, and the way out.
    """
    if not prompts:
        raise PromptError("nothing to track: give at least one box, click or mask")
    merged = merge_prompts(prompts)
    for prompt in merged:
        _check_place(prompt, frame_count)
        _check_clicks(prompt, width, height)
        _check_box(prompt, width, height)
        _check_mask(prompt, width, height)
    if reverse is None:
        return
    stories: dict[int, list[Prompt]] = {}
    for prompt in merged:
        stories.setdefault(prompt.object_id, []).append(prompt)
    for story in stories.values():
        check_story(sorted(story, key=lambda prompt: prompt.frame, reverse=reverse), reverse=reverse)


def _check_place(prompt: Prompt, frame_count: int) -> None:
    """Refuse impossible ids and frames, and prompts that say nothing."""
    if prompt.object_id < 1:
        raise PromptError(f"{prompt.where}: object ids start at 1")
    if not 0 <= prompt.frame < frame_count:
        raise PromptError(f"{prompt.where}: the clip has {frame_count} frames, numbered 0 to {frame_count - 1}")
    if not prompt.remove and prompt.mask is None and not prompt.click_count:
        raise PromptError(f"{prompt.where} says nothing: give a box, a click or a mask")


def _check_clicks(prompt: Prompt, width: int, height: int) -> None:
    """Refuse clicks outside the frame and more of them than engines take."""
    for x, y in prompt.points_xy_px.tolist():
        if not (0 <= x < width and 0 <= y < height):  # also true for what is no number
            raise PromptError(f"{prompt.where}: click {x:g},{y:g} lies outside the frame of {width}x{height} pixels")
    if prompt.click_count > _MOST_CLICKS:
        raise PromptError(f"{prompt.where} has {prompt.click_count} clicks (a box counts as two): at most {_MOST_CLICKS} are possible")


def _check_box(prompt: Prompt, width: int, height: int) -> None:
    """Refuse boxes without area, with swapped corners or outside the frame."""
    if prompt.box_xyxy_px is None:
        return
    box = prompt.box_xyxy_px
    x0, y0, x1, y1 = box.tolist()
    told = f"{prompt.where}: box {x0:g},{y0:g},{x1:g},{y1:g}"
    if not np.isfinite(box).all():
        raise PromptError(f"{told} has a coordinate that is no number")
    if x1 < x0 or y1 < y0:
        raise PromptError(f"{told} has its corners swapped: give left,top,right,bottom")
    if x1 == x0 or y1 == y0:
        raise PromptError(f"{told} has no area: give left,top,right,bottom in pixels")
    if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
        raise PromptError(f"{told} leaves the frame of {width}x{height} pixels: clip it to the frame")


def _check_mask(prompt: Prompt, width: int, height: int) -> None:
    """Refuse masks of another size than the frame, and empty ones."""
    if prompt.mask is None:
        return
    if prompt.mask.shape != (height, width):
        rows, columns = prompt.mask.shape
        raise PromptError(f"{prompt.where}: the mask has {columns}x{rows} pixels, the clip {width}x{height}: resize it to the clip")
    if not prompt.mask.any():
        raise PromptError(f"{prompt.where}: the mask is empty: mark the object with any value but 0")


def check_story(prompts: Sequence[Prompt], *, reverse: bool) -> None:
    """Follow one object through its prompts, in the order in which tracking meets them.

    What counts of prompts that lie behind is the first one and a removal: the others may be left out.

    Args:
        prompts: of one object, at most one a frame, at least one.
        reverse: whether tracking runs backwards.

    Raises:
        PromptError: it is removed before it starts, starts with negative clicks, or is prompted after its removal.
    """
    first, *later = prompts
    order = " (tracking runs backwards)" if reverse else ""
    if first.remove:
        raise PromptError(f"{first.where} is removed before anything started it{order}: prompt it first")
    if not first.starts_object:
        raise PromptError(f"{first.where}: its first prompt has only negative clicks{order}: add a positive click, a box or a mask")
    removal = next((prompt for prompt in later if prompt.remove), None)
    if removal is not None and removal is not prompts[-1]:
        after = prompts[prompts.index(removal) + 1]
        raise PromptError(f"{after.where}: it was removed on frame {removal.frame}{order}: give a new object a new id")
