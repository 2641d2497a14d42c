"""The output tensors of YOLO detectors: which form one has, and the boxes that it holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from trt_track.errors import ModelError
from trt_track.runtime.detector_card import CARD_FILE

# https://github.com/ultralytics/ultralytics/blob/v8.3.0/ultralytics/cfg/default.yaml: iou, max_det
MAX_IOU: Final = 0.7
MAX_FOUND: Final = 300

_GRIDS: Final = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32))
"""Strides of the heads P3 to P5, P3 to P6 and P2 to P5."""

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Candidates:
    """Boxes of one image."""

    boxes_xyxy: Array
    """(n, 4) in pixels of the model's input."""
    scores: Array
    """(n,) 0 to 1."""
    class_index: npt.NDArray[np.int64]
    """(n,), -1 where the model gave no whole number."""

    def take(self, rows: npt.NDArray[Any]) -> Candidates:
        """Return the rows that a mask or a list of numbers picks."""
        return Candidates(self.boxes_xyxy[rows], self.scores[rows], self.class_index[rows])

    def fault(self, classes: int, least_px: float) -> str | None:
        """Say what no detector can give; None where all is well.

        Args:
            classes: how many there are.
            least_px: one of the boxes reaches further than this from the top left, unless all are 0.
        """
        if not (np.isfinite(self.scores).all() and np.isfinite(self.boxes_xyxy).all()):
            return "gives numbers that are not finite: a float16 model may overflow, export it in float32"
        if ((self.scores < -1e-3) | (self.scores > 1.001)).any():
            return "gives scores that are not between 0 and 1: export the model with its sigmoid"
        if self.boxes_xyxy.any() and self.boxes_xyxy.max() < least_px:
            return "gives boxes that are no pixels of its input (RT-DETR gives fractions, YOLOX offsets): export a YOLO with decoded boxes"
        index = self.class_index[self.scores > 0]
        if ((index < 0) | (index >= classes)).any():
            return f"gives class numbers other than 0 to {classes - 1}: name all of its classes, in {CARD_FILE}"
        return None


@dataclass(frozen=True, slots=True)
class HeadForm:
    """One way in which models write their boxes."""

    name: str
    decode: Callable[[Array], Candidates]
    """Reads one image's (rows, columns)."""
    overlaps: bool
    """Whether an object has many boxes, of which all but the best are still to be dropped."""


def head_form(model: str, shape: Sequence[int], classes: int, size_hw: tuple[int, int]) -> HeadForm:
    """Tell by its shape how a model writes its boxes.

    | shape | form |
    |---|---|
    | [N, n, 6], n no grid | end to end: x0, y0, x1, y1, score, class (YOLOv10, YOLO26, exports with `nms=True`) |
    | [N, 4 + classes, n] | channels first: centre x, y, width, height, a score for each class (YOLOv8, v9, v11, v12) |
    | [N, n, 4 + classes], n no grid of 3 | channels last: the same, transposed |
    | [N, n, 5 + classes] | with objectness: channels last with a score that anything is there before the classes (YOLOv5, v6, v7) |

    Tried in this order. A *grid* is the number of boxes of a head without selection at this input size: 1 or 3 for each cell of its
    strides. Where the sides are multiples of 32 it is a multiple of 21 or 85, which the usual numbers of selected boxes (300, 100) are
    not. So six columns are an end-to-end head, whatever the number of classes, unless every cell has its row: then they can only be 4 + 2
    classes or 5 + 1. And only heads with objectness have 3 boxes a cell: there, 4 + classes means that one class too many is named.

    Args:
        model: what the message calls it.
        shape: of the output that it gave, [N, rows, columns].
        classes: how many its card names.
        size_hw: pixels of its input.

    Raises:
        ModelError: none of these.
    """
    rows, columns = shape[1:] if len(shape) == 3 else (0, 0)
    boxes_per_cell = _boxes_per_cell(rows, size_hw)
    if columns == 6 and boxes_per_cell is None:
        return END_TO_END
    if rows == 4 + classes:
        return CHANNELS_FIRST
    if columns == 4 + classes and boxes_per_cell != 3:
        return CHANNELS_LAST
    if columns == 5 + classes:
        return OBJECTNESS
    raise ModelError(_unknown_form(model, shape, classes))


def drop_overlapping(found: Candidates, max_iou: float = MAX_IOU, limit: int = MAX_FOUND) -> npt.NDArray[np.intp]:
    """Keep the best box of each object: greedy non-maximum suppression within each class.

    Args:
        found: the boxes.
        max_iou: a box goes when it shares more than this with a better one of its class, intersection over union.
        limit: how many to keep at most.

    Returns:
        Row numbers, the best score first; the earlier row where scores are equal.
    """
    order = np.argsort(-found.scores, kind="stable")
    boxes, labels = np.ascontiguousarray(found.boxes_xyxy[order].T, np.float64), found.class_index[order]
    alive = np.ones(len(order), bool)
    kept: list[int] = []
    for row in range(len(order)):
        if alive[row] and len(kept) < limit:
            kept.append(row)
            worse = slice(row + 1, None)
            alive[worse] &= (labels[worse] != labels[row]) | (_iou(boxes[:, row], boxes[:, worse]) <= max_iou)
    return order[kept]


def _iou(box: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return what a box (4,) shares with each of (4, n), 0 to 1; 0 where both are empty."""
    width = np.minimum(box[2], others[2]) - np.maximum(box[0], others[0])
    height = np.minimum(box[3], others[3]) - np.maximum(box[1], others[1])
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    covered = (box[2] - box[0]) * (box[3] - box[1]) + (others[2] - others[0]) * (others[3] - others[1]) - shared
    share: npt.NDArray[np.float64] = np.divide(shared, covered, out=np.zeros_like(shared), where=covered > 0)
    return share


def _decode_channels_first(head: Array) -> Candidates:
    return _best_class(head[:4], head[4:])


def _decode_channels_last(head: Array) -> Candidates:
    return _best_class(head.T[:4], head.T[4:])


def _decode_objectness(head: Array) -> Candidates:
    """Multiply each class's score with that of anything being there (https://github.com/ultralytics/yolov5/blob/v7.0/utils/general.py)."""
    return _best_class(head.T[:4], head.T[5:] * head.T[4])


def _decode_end_to_end(head: Array) -> Candidates:
    """Read corners, score, class (https://github.com/ultralytics/ultralytics/blob/v8.3.0/ultralytics/nn/modules/head.py, postprocess)."""
    whole = np.isfinite(head[:, 5]) & (head[:, 5] == np.rint(head[:, 5]))
    return Candidates(head[:, :4], head[:, 4], np.where(whole, head[:, 5], -1).astype(np.int64))


def _best_class(boxes_cxcywh: Array, scores: Array) -> Candidates:
    """Give each box its best class: boxes (4, n), scores (classes, n)."""
    center, half = boxes_cxcywh[:2], boxes_cxcywh[2:] / 2
    return Candidates(np.concatenate([center - half, center + half]).T, scores.max(axis=0), scores.argmax(axis=0))


END_TO_END: Final = HeadForm("end to end [N, n, 6]", _decode_end_to_end, overlaps=False)
CHANNELS_FIRST: Final = HeadForm("channels first [N, 4+classes, n]", _decode_channels_first, overlaps=True)
CHANNELS_LAST: Final = HeadForm("channels last [N, n, 4+classes]", _decode_channels_last, overlaps=True)
OBJECTNESS: Final = HeadForm("with objectness [N, n, 5+classes]", _decode_objectness, overlaps=True)


def _boxes_per_cell(count: int, size_hw: tuple[int, int]) -> int | None:
    """Return 1 or 3 where a head without selection has this many boxes, None where none has."""
    height, width = size_hw
    for strides in _GRIDS:
        cells = sum(-(-height // stride) * -(-width // stride) for stride in strides)
        if count in {cells, 3 * cells}:
            return count // cells
    return None


def _unknown_form(model: str, shape: Sequence[int], classes: int) -> str:
    forms = f"[N, {4 + classes}, n] (YOLOv8 to v12), [N, n, {5 + classes}] (YOLOv5 to v7) or [N, n, 6] (end to end)"
    expected = f"{model} gives {list(shape)}; expected for {classes} named classes {forms}"
    if len(shape) != 3:
        return f"{expected}: export a YOLO detection model"
    channels = min(shape[1:])
    counts = f"{channels} channels are {channels - 4} classes, or {channels - 5} with objectness" if channels > 5 else "too few channels"
    return f"{expected}: {counts}; masks, keypoints and rotated boxes add channels and are not known"
