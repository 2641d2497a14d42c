"""What is counted of tracked clips whose truth is known: trackeval's identity scores, and where the frames of objects go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from trackeval.metrics import Identity

from trt_track.runtime.appearance import box_iou
from trt_track.runtime.detections import FrameDetections
from trt_track.runtime.results import FrameResult, mask_boxes

SAME: Final = 0.5
"""IoU from which on two masks, or two boxes, are one object's."""
SHOWN: Final = 0.5
"""Share of a thing that is in the picture and not hidden, from which on it counts as shown: the detector was trained on such things."""
NAMES: Final = ("IDF1", "IDP", "IDR")
FATES: Final = ("under its id", "under another id", "never detected", "before it was detected", "mask under 0.5", "no mask")
"""What can become of an object on a frame."""


@dataclass(frozen=True, slots=True)
class Truth:
    """What a drawn clip shows."""

    masks: Sequence[NDArray[np.bool_]]
    """(n, H, W) of each frame."""
    shares: Sequence[NDArray[np.float64]]
    """(n,) of each frame: share of each object that is in the picture and not hidden."""


@dataclass(frozen=True, slots=True)
class Tracked:
    """What became of it."""

    results: Sequence[FrameResult]
    detections: Sequence[FrameDetections]


def likeness(true: NDArray[np.bool_], ours: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the IoU of every pair of masks (n, H, W) and (m, H, W), as (n, m)."""
    flat, other = (masks.reshape(len(masks), int(np.prod(masks.shape[1:]))).astype(np.float64) for masks in (true, ours))
    shared = flat @ other.T
    return shared / np.maximum(flat.sum(1)[:, None] + other.sum(1)[None] - shared, 1)


def identity_scores(truth: Truth, results: Sequence[FrameResult], *, least: float = 0.0) -> dict[str, float]:
    """Return trackeval's identity scores of one clip.

    Args:
        truth: of the clip.
        results: ours, a frame each.
        least: share of an object that must be shown. Where less is, it is set aside as KITTI's hard objects are: it is not asked for, and a
            mask of ours that is its is not counted either.
    """
    numbers: dict[int, int] = {}
    there, ours, alike = [], [], []
    for masks, shares, result in zip(truth.masks, truth.shares, results, strict=True):
        seen = np.flatnonzero(masks.any(axis=(1, 2)))
        drawn = np.flatnonzero(result.masks.any(axis=(1, 2)))
        pairs = likeness(masks[seen], result.masks[drawn])
        asked = shares[seen] >= least
        kept = np.setdiff1d(np.arange(len(drawn)), [column for row, column in _same(pairs) if not asked[row]])
        there.append(seen[asked])
        ours.append(np.array([numbers.setdefault(result.object_ids[drawn[column]], len(numbers)) for column in kept], int))
        alike.append(pairs[asked][:, kept])
    counts = {"num_gt_dets": sum(map(len, there)), "num_tracker_dets": sum(map(len, ours))}
    ids = {"num_gt_ids": len(truth.masks[0]), "num_tracker_ids": len(numbers), "gt_ids": there, "tracker_ids": ours}
    scores: dict[str, float] = Identity({"PRINT_CONFIG": False}).eval_sequence({**counts, **ids, "similarity_scores": alike})
    return scores


def pooled(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the scores of several clips as those of one."""
    together = Identity({"PRINT_CONFIG": False}).combine_sequences(dict(enumerate(scores)))
    return {name: float(together[name]) for name in NAMES}


def fates(truth: Truth, tracked: Tracked) -> Counter[str]:
    """Count what became of each object on each frame that shows anything of it; the keys are `FATES`, and `masks of nothing` of ours."""
    pairs = [likeness(masks, result.masks) for masks, result in zip(truth.masks, tracked.results, strict=True)]
    own = _own_ids(pairs, tracked.results)
    first = _first_detections(truth, tracked.detections)
    found: Counter[str] = Counter(dict.fromkeys((*FATES, "masks of nothing"), 0))
    for frame, (masks, result) in enumerate(zip(truth.masks, tracked.results, strict=True)):
        of_none = result.masks.any(axis=(1, 2)) & ~(pairs[frame] >= SAME).any(axis=0)
        found["masks of nothing"] += int(of_none.sum())
        for i in np.flatnonzero(masks.any(axis=(1, 2))).tolist():
            fits = dict(zip(result.object_ids, pairs[frame][i].tolist(), strict=True))
            found[_fate(fits, own.get(i), frame, first.get(i))] += 1
    return found


def _fate(fits: dict[int, float], own: int | None, frame: int, first: int | None) -> str:
    if own is not None and fits.get(own, 0.0) >= SAME:
        return FATES[0]
    if max(fits.values(), default=0.0) >= SAME:
        return FATES[1]
    if first is None:
        return FATES[2]
    if frame < first:
        return FATES[3]
    return FATES[4] if own is not None and fits.get(own, 0.0) > 0 else FATES[5]


def _same(pairs: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Return the pairs (row, column), one to one, that are one object's."""
    rows, columns = linear_sum_assignment(np.where(pairs >= SAME, pairs, 0), maximize=True)
    return [(int(row), int(column)) for row, column in zip(rows, columns, strict=True) if pairs[row, column] >= SAME]


def _own_ids(pairs: Sequence[NDArray[np.float64]], results: Sequence[FrameResult]) -> dict[int, int]:
    """Return the id of each object: the one under which it was seen longest, one to one."""
    ids = sorted({object_id for result in results for object_id in result.object_ids})
    frames = np.zeros((len(pairs[0]), len(ids)))
    for fit, result in zip(pairs, results, strict=True):
        for column, object_id in enumerate(result.object_ids):
            frames[:, ids.index(object_id)] += fit[:, column] >= SAME
    rows, columns = linear_sum_assignment(frames, maximize=True)
    return {int(row): ids[column] for row, column in zip(rows, columns, strict=True) if frames[row, column]}


def _first_detections(truth: Truth, detections: Sequence[FrameDetections]) -> dict[int, int]:
    """Return the first frame on which a box, of whatever name, is of an object."""
    first: dict[int, int] = {}
    for one in detections:
        for i, box in enumerate(mask_boxes(truth.masks[one.frame])):
            if box[2] > 0 and any(box_iou(found.box_xyxy_px, box) >= SAME for found in one.found):
                first.setdefault(i, one.frame)
    return first
