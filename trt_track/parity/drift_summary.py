"""What a drift run comes to for one object against one reference, and whether that is within the limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from trt_track.parity.drift import DriftRow
from trt_track.parity.thresholds import TrackLimits

_LOST: Final = 0.5
"""An object is lost where its mask's IoU is under this."""


@dataclass(frozen=True, slots=True)
class DriftSummary:
    """One object over all frames. Numbers are None where no frame has a mask that is large enough to be judged."""

    object_id: int
    frames: int
    """Frames that have the object."""
    judged: int
    """Of these, the ones with a mask that is large enough."""
    mean_iou: float | None
    least_iou: float | None
    least_frame: int | None
    slope: float | None
    """Change of the IoU a frame, by least squares; None too with less than two frames."""
    mean_f: float | None
    """Mean F of the outlines."""
    logits: float | None
    """Largest error of the logits, as a fraction of the reference's range, where both have the object or both have not."""
    presence: tuple[int, ...]
    """Frames on which only one of both has the object."""
    choice: tuple[int, ...] | None
    """Frames on which they took different ones of the decoder's masks; None if that is not known."""
    lost_frame: int | None
    """First frame whose mask has an IoU under a half."""
    failures: tuple[str, ...]
    """Which limits it misses, in words."""

    @property
    def passed(self) -> bool:
        """Whether it is within every limit."""
        return not self.failures


def summarise(rows: Sequence[DriftRow], limits: TrackLimits) -> list[DriftSummary]:
    """Return a summary for each object of a clip's rows, by its id."""
    ids = sorted({row.object_id for row in rows})
    return [_summary([row for row in rows if row.object_id == object_id], limits) for object_id in ids]


def _summary(rows: Sequence[DriftRow], limits: TrackLimits) -> DriftSummary:
    judged = [row for row in rows if not limits.too_small(row.pixels, row.found_pixels)]
    worst = min(judged, key=lambda row: row.iou, default=None)
    mean = float(np.mean([row.iou for row in judged])) if judged else None
    slope = fitted_slope([row.frame for row in judged], [row.iou for row in judged])
    outlines = [row.boundary_f for row in judged if row.boundary_f is not None]
    known = [row for row in rows if row.choice_differs is not None]
    return DriftSummary(
        object_id=rows[0].object_id,
        frames=len(rows),
        judged=len(judged),
        mean_iou=mean,
        least_iou=None if worst is None else worst.iou,
        least_frame=None if worst is None else worst.frame,
        slope=slope,
        mean_f=float(np.mean(outlines)) if outlines else None,
        logits=max((row.logits for row in rows if row.logits is not None), default=None),
        presence=tuple(row.frame for row in rows if row.presence_differs),
        choice=tuple(row.frame for row in known if row.choice_differs) if known else None,
        lost_frame=next((row.frame for row in judged if row.iou < _LOST), None),
        failures=tuple(_failures(worst, mean, slope if len(judged) >= limits.slope_frames else None, limits)),
    )


def _failures(worst: DriftRow | None, mean: float | None, slope: float | None, limits: TrackLimits) -> list[str]:
    if worst is None or mean is None:
        return [f"nothing to judge: no mask has {limits.small_pixels} pixels"]
    failures = []
    if mean < limits.mean_iou:
        failures.append(f"mean IoU {mean:.4f} is under {limits.mean_iou:g}")
    if worst.iou < limits.least_iou:
        failures.append(f"IoU {worst.iou:.4f} on frame {worst.frame} is under {limits.least_iou:g}")
    if slope is not None and slope < limits.slope:
        failures.append(f"IoU changes by {slope:.1e} a frame, the limit is {limits.slope:g}")
    return failures


def fitted_slope(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Return the slope of the straight line nearest to some points, by least squares; None for fewer than two."""
    if len(x) < 2:
        return None
    offsets = np.asarray(x, np.float64) - np.mean(x)
    return float(offsets @ (np.asarray(y, np.float64) - np.mean(y)) / (offsets @ offsets))
