"""Measures of how far graphs and tracks are from upstream; the limits are in `thresholds.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trt_track.errors import TensorMismatchError

if TYPE_CHECKING:
    from trt_track.export.reference import Found
    from trt_track.parity.detector_check import DetectorDeviation
    from trt_track.parity.thresholds import OutputLimits, TrackLimits


@dataclass(frozen=True, slots=True)
class Deviation:
    """The distance of one output from its reference."""

    case: str
    output: str
    absolute: float
    """Largest absolute error."""
    relative: float
    """The same as a fraction of the reference's range of values."""
    tolerance: float
    where: tuple[int, ...]
    """Index of the largest error."""

    @property
    def passed(self) -> bool:
        """Whether the relative error is within its tolerance."""
        return self.relative <= self.tolerance


@dataclass(frozen=True, slots=True)
class TrackDeviation:
    """The distance of one object on one frame from upstream's track."""

    case: str
    frame: int
    object_id: int
    logits: float
    """Largest error of the low-resolution logits as a fraction of upstream's range of values on this frame."""
    iou: float
    """IoU of the masks at the video's size before small holes are filled; 1 when both are empty."""
    filled_iou: float
    """IoU of the masks as they come out. It may be lower where a hole has 8 cells in one and 9 in the other: a tie that rounding breaks."""
    pixels: int
    """Size of upstream's mask at the video's size."""
    passed: bool
    """Whether both are within their bounds."""


def deviation(case: str, output: str, got: np.ndarray, want: np.ndarray, *, limits: OutputLimits) -> Deviation:
    """Compare one output with its reference.

    Raises:
        TensorMismatchError: their shapes differ.
    """
    if got.shape != want.shape:
        raise TensorMismatchError(f"{case}, output {output!r}: expected {list(want.shape)} as upstream has it, got {list(got.shape)}")
    error = np.abs(got.astype(np.float64) - want.astype(np.float64))
    where = tuple(int(i) for i in np.unravel_index(int(np.nanargmax(np.where(np.isnan(error), np.inf, error))), error.shape))
    spread = float(want.max()) - float(want.min()) if want.size > 1 else abs(float(want.max()))
    relative = float(error.mean()) if output == "mask" else fraction(float(error[where]), spread)
    return Deviation(case, output, float(error[where]), relative, limits.of(output), where)


def fraction(error: float, spread: float) -> float:
    """Return error / spread; a constant reference is measured against 1."""
    return error / spread if spread > 0 else error


def compare_outputs(
    case: str, outputs: Mapping[str, np.ndarray], references: Mapping[str, np.ndarray], *, limits: OutputLimits
) -> list[Deviation]:
    """Compare all outputs of one graph; `case` names it in the table."""
    return [deviation(case, name, outputs[name], references[name], limits=limits) for name in references]


def compare_tracks(
    case: str,
    tracked: Mapping[int, Mapping[int, Found]],
    upstream: Mapping[int, Mapping[int, Found]],
    *,
    limits: TrackLimits,
) -> list[TrackDeviation]:
    """Compare tracks frame by frame and object by object.

    Args:
        case: names them in the table.
        tracked: frame -> object id -> what trt-track found.
        upstream: the same of upstream.
        limits: of the bundle's recipe.
    """
    rows = []
    for frame in sorted(upstream.keys() | tracked.keys()):
        theirs, ours = upstream.get(frame, {}), tracked.get(frame, {})
        for object_id in sorted(theirs.keys() | ours.keys()):
            if object_id not in ours or object_id not in theirs:
                rows.append(TrackDeviation(case, frame, object_id, float("inf"), 0.0, 0.0, 0, passed=False))
                continue
            want, got = theirs[object_id], ours[object_id]
            logits = logits_error(got.logits, want.logits)
            iou, filled = mask_iou(got.unfilled_hw, want.unfilled_hw), mask_iou(got.mask_hw, want.mask_hw)
            same = limits.too_small(int(want.mask_hw.sum())) or (iou >= limits.least_iou and filled >= limits.filled_iou)
            passed = bool(logits <= limits.logits and same)
            rows.append(TrackDeviation(case, frame, object_id, logits, iou, filled, int(want.mask_hw.sum()), passed=passed))
    return rows


def logits_error(got: np.ndarray, want: np.ndarray) -> float:
    """Return the largest error of a frame's logits as a fraction of the reference's range of values."""
    return fraction(float(np.abs(got - want).max()), float(want.max() - want.min()))


def mask_iou(first: np.ndarray, second: np.ndarray) -> float:
    """Return the intersection over union of two boolean masks, 1.0 when both are empty."""
    union = np.logical_or(first, second).sum()
    return float(np.logical_and(first, second).sum() / union) if union else 1.0


def as_json(rows: Sequence[Deviation | TrackDeviation | DetectorDeviation]) -> list[dict[str, Any]]:
    """Return the rows as JSON values, the verdict included."""
    return [{**asdict(row), "passed": row.passed} for row in rows]
