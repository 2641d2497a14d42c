"""What a drift run comes to for one object against one reference, and whether that is within the limits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
    """Of these, the ones on which the reference's mask is large enough."""
    mean_iou: float | None
    least_iou: float | None
    least_frame: int | None
    slope: float | None
    """Change of the IoU a frame, by least squares; None too with less than two frames."""
    slope_judged: bool
    """Whether there are frames enough for its limit."""
    mean_f: float | None
    """Mean F of the outlines."""
    logits: float | None
    """Largest error of the logits, as a fraction of the reference's range, where both have the object or both have not."""
    presence: tuple[int, ...]
    """Frames on which only one of both has the object; see `presence_flips`."""
    choice: tuple[int, ...] | None
    """Frames on which they took different ones of the decoder's masks; None if that is not known."""
    lost_frame: int | None
    """First frame whose mask has an IoU under a half."""
    failures: tuple[str, ...] = ()
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
    judged = [row for row in rows if not limits.too_small(row.pixels)]
    worst = min(judged, key=lambda row: row.iou, default=None)
    outlines = [row.boundary_f for row in judged if row.boundary_f is not None]
    known = [row for row in rows if row.choice_differs is not None]
    found = DriftSummary(
        object_id=rows[0].object_id,
        frames=len(rows),
        judged=len(judged),
        mean_iou=float(np.mean([row.iou for row in judged])) if judged else None,
        least_iou=None if worst is None else worst.iou,
        least_frame=None if worst is None else worst.frame,
        slope=fitted_slope([row.frame for row in judged], [row.iou for row in judged]),
        slope_judged=len(judged) >= limits.slope_frames,
        mean_f=float(np.mean(outlines)) if outlines else None,
        logits=max((row.logits for row in rows if row.logits is not None), default=None),
        presence=tuple(row.frame for row in rows if presence_flips(row, limits)),
        choice=tuple(row.frame for row in known if row.choice_differs) if known else None,
        lost_frame=next((row.frame for row in judged if row.iou < _LOST), None),
    )
    return replace(found, failures=tuple(_failures(found, limits)))


def presence_flips(row: DriftRow, limits: TrackLimits) -> bool:
    """Tell whether only one of both sees an object: by its score, or as one mask is empty and the other large enough to be judged."""
    least = max(limits.small_pixels, 1)
    return row.presence_differs or (min(row.pixels, row.found_pixels) == 0 and max(row.pixels, row.found_pixels) >= least)


def _failures(found: DriftSummary, limits: TrackLimits) -> Iterator[str]:
    if found.mean_iou is None or found.least_iou is None:
        yield f"nothing to judge: no mask of the reference has {limits.small_pixels} pixels"
        return
    if found.mean_iou < limits.mean_iou:
        yield f"mean IoU {found.mean_iou:.4f} is under {limits.mean_iou:g}"
    if found.least_iou < limits.least_iou:
        yield f"IoU {found.least_iou:.4f} on frame {found.least_frame} is under {limits.least_iou:g}"
    if found.slope is not None and found.slope_judged and found.slope < limits.slope:
        yield f"IoU changes by {found.slope:.1e} a frame, the limit is {limits.slope:g}"
    if limits.mean_f is not None and found.mean_f is None:
        yield "boundary F is limited and was not measured: it needs trackeval (pip install 'trt-track[eval]')"
    elif limits.mean_f is not None and found.mean_f is not None and found.mean_f < limits.mean_f:
        yield f"boundary F {found.mean_f:.4f} is under {limits.mean_f:g}"


def fitted_slope(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Return the slope of the straight line nearest to some points, by least squares; None for fewer than two."""
    if len(x) < 2:
        return None
    offsets = np.asarray(x, np.float64) - np.mean(x)
    return float(offsets @ (np.asarray(y, np.float64) - np.mean(y)) / (offsets @ offsets))
