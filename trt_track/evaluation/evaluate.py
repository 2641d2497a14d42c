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
    """For all frames, from their decoding to their masks beside the annotations; comparing the masks is not in it."""

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

    As in DAVIS's semi-supervised task, the frame that an object is prompted on and the last frame of the sequence are not scored, whatever
    the prompt; trackeval leaves it to its user to take them out. An object that is annotated first on a later frame is prompted there, and
    no frame before counts. Where masks overlap, a pixel goes to the object with the largest logit, as upstream's `non_overlap_masks` has
    it. Pixels that the annotation calls void count for nobody, as in trackeval.

    Args:
        tracker: tracks it.
        sequence: frames and annotations.
        prompt: one of `PROMPTS`.
        save: a folder for the masks, as DAVIS's palette images; None to save none.
        on_frame: called with the frames done and the frames in all.

    Raises:
        VideoError: a frame or an annotation cannot be read, or there are too few.
        PromptError: there are more objects than the tracker takes.
        ModelError: trackeval is not installed.
    """
    with tracker.video(sequence.clip) as video:
        scoring = _Scoring(sequence, (video.info.height, video.info.width), _last_frame(sequence, video))
        scoring.prompt_objects(video, prompt)
        writer = None if save is None else MaskImageWriter(save)
        result = SequenceScore(sequence.name, prompt)
        started = time.perf_counter()
        for found in video.propagate(keep_logits=True, throughput=tracker.session.overlaps):
            ids = object_map(found)
            if writer is not None:
                writer.write(_exclusive(found, ids))
            scoring.add(found.frame_index, ids)
            result.frames += 1
            if on_frame:
                on_frame(result.frames, video.info.frame_count)
        result.seconds = time.perf_counter() - started
        if video.damage:
            raise VideoError(f"{sequence.name}: {video.damage}; the frames before it are no score of the sequence")
    result.objects = scoring.scores()
    return result


class _Scoring:
    """The masks of a sequence beside its annotations, as run lengths, so that a long one takes little memory."""

    def __init__(self, sequence: AnnotatedSequence, size_hw: tuple[int, int], last: int) -> None:
        self._sequence, self._size_hw, self._last = sequence, size_hw, last
        self._first: dict[int, int] = {}
        self._pairs: dict[int, list[tuple[Any, Any]]] = {}

    def prompt_objects(self, video: Video, prompt: str) -> None:
        """Read every annotation and prompt every object on the first frame that it is annotated on."""
        for frame in sorted(self._sequence.masks):
            ids = self._sequence.mask(frame, self._size_hw)
            for number in sorted(set(np.unique(ids).tolist()) - {0, VOID} - set(self._first)):
                self._first[number] = frame
                video.add(frame=frame, object_id=number, **prompt_of(ids == number, prompt))
        if not self._first:
            raise VideoError(f"{self._sequence.name}: its annotations show no object")
        judged = max((frame for frame in self._sequence.masks if frame < self._last), default=-1)
        if unjudged := [number for number, frame in self._first.items() if frame >= judged]:
            raise VideoError(
                f"{self._sequence.name}: object {unjudged[0]} has no annotated frame between its first one and the sequence's last"
            )

    def add(self, frame: int, ids: npt.NDArray[np.int64]) -> None:
        """Keep the masks (H, W) of a frame, if it counts."""
        if frame not in self._sequence.masks or frame >= self._last:
            return
        truth = self._sequence.mask(frame, self._size_hw)
        for number, first in self._first.items():
            if first < frame:
                self._pairs.setdefault(number, []).append((encoded((ids == number) & (truth != VOID)), encoded(truth == number)))

    def scores(self) -> dict[int, Score]:
        """Compare the masks of every object."""
        return {number: score_object(*map(list, zip(*self._pairs[number], strict=True))) for number in sorted(self._pairs)}


def _last_frame(sequence: AnnotatedSequence, video: Video) -> int:
    """Return the number of the last frame, which is not scored."""
    if max(sequence.masks) >= video.info.frame_count:
        path = sequence.masks[max(sequence.masks)]
        raise VideoError(f"{path}: {sequence.clip} has {video.info.frame_count} frames only")
    return video.info.frame_count - 1


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
