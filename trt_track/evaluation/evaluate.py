"""Track an annotated sequence from what its first annotations tell, and score every object."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import distance_transform_edt

from trt_track.errors import VideoError
from trt_track.evaluation.boundary import encoded
from trt_track.evaluation.scores import Score, score_object
from trt_track.evaluation.sequences import VOID, AnnotatedSequence
from trt_track.runtime.mask_images import MaskImageWriter
from trt_track.runtime.results import FrameResult, mask_boxes
from trt_track.runtime.tracker import Tracker, Video

PROMPTS: Final = ("mask", "box", "click")
"""What an object is prompted with on the first frame that it is annotated on: the annotation, its tight box, or the pixel of it that is
furthest from its border."""


@dataclass(slots=True)
class SequenceScore:
    """What one sequence came to."""

    name: str
    prompt: str
    objects: dict[int, Score] = field(default_factory=dict)
    frames: int = 0
    seconds: float = 0.0

    @property
    def score(self) -> Score:
        """The mean over its objects."""
        return Score.mean(list(self.objects.values()))

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        objects = {str(number): score.to_json() for number, score in self.objects.items()}
        head = {"sequence": self.name, "prompt": self.prompt, "frames": self.frames, "seconds": round(self.seconds, 3)}
        return {**head, **self.score.to_json(), "objects": objects}


def evaluate_sequence(
    tracker: Tracker,
    sequence: AnnotatedSequence,
    prompt: str,
    *,
    save: Path | None = None,
    on_frame: Callable[[int, int], None] | None = None,
) -> SequenceScore:
    """Track a sequence and score it.

    As in DAVIS's semi-supervised task, the frame that an object is prompted on and the last frame of the sequence are not scored. An object
    that is annotated first on a later frame is prompted there. Where masks overlap, a pixel goes to the object with the largest logit, as
    upstream's `non_overlap_masks` has it. Pixels that the annotation calls void count for nobody.

    Args:
        tracker: tracks it.
        sequence: frames and annotations.
        prompt: one of `PROMPTS`.
        save: a folder for the masks, as DAVIS's palette images; None to save none.
        on_frame: called with the frames done and the frames in all.

    Raises:
        VideoError: a frame or an annotation cannot be read, or there are too few.
        ModelError: trackeval is not installed.
    """
    result = SequenceScore(sequence.name, prompt)
    pairs: dict[int, list[tuple[Any, Any]]] = {}
    writer = None if save is None else MaskImageWriter(save)
    with tracker.video(sequence.clip) as video:
        size_hw = (video.info.height, video.info.width)
        first = _prompt_objects(video, sequence, prompt, size_hw)
        last = _last_frame(sequence, video)
        started = time.perf_counter()
        for found in video.propagate(keep_logits=True):
            ids = object_map(found)
            result.frames += 1
            if writer is not None:
                writer.write(_exclusive(found, ids))
            if found.frame_index in sequence.masks and found.frame_index < last:
                truth = sequence.mask(found.frame_index, size_hw)
                for number in (number for number, frame in first.items() if frame < found.frame_index):
                    pairs.setdefault(number, []).append((encoded((ids == number) & (truth != VOID)), encoded(truth == number)))
            if on_frame:
                on_frame(result.frames, video.info.frame_count)
        result.seconds = time.perf_counter() - started
    if missing := sorted(set(first) - set(pairs)):
        raise VideoError(f"{sequence.name}: object {missing[0]} has no annotated frame between its first one and the sequence's last")
    result.objects = {number: score_object(*map(list, zip(*pairs[number], strict=True))) for number in sorted(pairs)}
    return result


def _last_frame(sequence: AnnotatedSequence, video: Video) -> int:
    """Return the number of the last frame, which is not scored."""
    if max(sequence.masks) >= video.info.frame_count:
        path = sequence.masks[max(sequence.masks)]
        raise VideoError(f"{path}: {sequence.clip} has {video.info.frame_count} frames only")
    return video.info.frame_count - 1


def _prompt_objects(video: Video, sequence: AnnotatedSequence, prompt: str, size_hw: tuple[int, int]) -> dict[int, int]:
    """Prompt every object on the first frame that it is annotated on; return these frames by object."""
    first: dict[int, int] = {}
    for frame in sorted(sequence.masks):
        ids = sequence.mask(frame, size_hw)
        for number in sorted(set(np.unique(ids).tolist()) - {0, VOID} - set(first)):
            first[number] = frame
            video.add(frame=frame, object_id=number, **prompt_of(ids == number, prompt))
    if not first:
        raise VideoError(f"{sequence.name}: its annotations show no object")
    return first


def prompt_of(mask_hw: npt.NDArray[np.bool_], kind: str) -> dict[str, Any]:
    """Return what `Video.add` is given for a mask (H, W) that is not empty.

    Raises:
        ValueError: the kind is none of `PROMPTS`.
    """
    if kind == "mask":
        return {"mask": mask_hw}
    if kind == "box":
        return {"box": tuple(mask_boxes(mask_hw[None])[0].tolist())}
    if kind == "click":
        depth = distance_transform_edt(np.pad(mask_hw, 1))[1:-1, 1:-1]
        y, x = np.unravel_index(int(depth.argmax()), depth.shape)
        return {"points": [(float(x), float(y))], "labels": [1]}
    raise ValueError(f"prompt {kind!r} is unknown: choose from {', '.join(PROMPTS)}")


def object_map(found: FrameResult) -> npt.NDArray[np.int64]:
    """Return the id of the object at each pixel (H, W), 0 for none; where masks overlap that of the largest logit.

    Args:
        found: with its logits.
    """
    masks = found.masks.astype(bool, copy=False)
    ids = np.zeros(masks.shape[1:], np.int64)
    for number, mask in zip(found.object_ids, masks, strict=True):
        ids[mask] = number
    if found.logits is not None and (masks.sum(axis=0) > 1).any():
        for number, winner in _winners(masks, found.logits, found.object_ids):
            ids[winner] = number
    return ids


def _winners(
    masks_bhw: npt.NDArray[np.bool_], logits: npt.NDArray[np.float32], object_ids: tuple[int, ...]
) -> Iterator[tuple[int, npt.NDArray[np.bool_]]]:
    """Yield each object with the pixels among those of several masks where its logit is the largest."""
    height, width = masks_bhw.shape[1:]
    scaled = np.stack([np.asarray(Image.fromarray(one[0]).resize((width, height), Image.Resampling.BILINEAR)) for one in logits])
    best = np.where(masks_bhw, scaled, -np.inf).argmax(axis=0)
    disputed = masks_bhw.sum(axis=0) > 1
    for place, number in enumerate(object_ids):
        yield number, disputed & (best == place)


def _exclusive(found: FrameResult, ids: npt.NDArray[np.int64]) -> FrameResult:
    """Return a result whose masks do not overlap."""
    masks = np.stack([ids == number for number in found.object_ids]) if found.object_ids else found.masks
    return FrameResult(found.frame_index, found.time_s, found.object_ids, masks, found.ious, found.presence)
