"""J and F of the objects of a sequence, and their means, as DAVIS defines them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from trt_track.evaluation.boundary import f_of_frames, j_of_frames

_PART: Final = 4
"""Into so many parts the frames are cut for the decay."""
_GOOD: Final = 0.5


@dataclass(frozen=True, slots=True)
class Score:
    """What masks are worth, each 0 to 1, the decays -1 to 1. NaN where nothing was judged."""

    j_mean: float
    """Mean IoU."""
    j_recall: float
    """Share of frames with an IoU over 0.5."""
    j_decay: float
    """What is lost from the first quarter of the frames to the last."""
    f_mean: float
    """The same three of the boundary measure."""
    f_recall: float
    f_decay: float

    @property
    def j_and_f(self) -> float:
        """The mean of J and F, DAVIS's headline."""
        return (self.j_mean + self.f_mean) / 2

    @classmethod
    def of_frames(cls, j: npt.NDArray[np.float64], f: npt.NDArray[np.float64]) -> Self:
        """Sum up one object's J and F of each frame, both (T,)."""
        return cls(*(measure(frames) for frames in (j, f) for measure in (_mean, _recall, _decay)))

    @classmethod
    def mean(cls, scores: Sequence[Score]) -> Self:
        """Return the mean over objects, which is how DAVIS comes from objects to sequences to sets: each object counts the same."""
        return cls(*(_mean(np.array([getattr(one, field.name) for one in scores])) for field in fields(cls)))

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return {key: None if np.isnan(value) else round(value, 6) for key, value in {"j_and_f": self.j_and_f, **asdict(self)}.items()}


def score_object(found: Sequence[Any], truth: Sequence[Any]) -> Score:
    """Score one object.

    Args:
        found: its masks on the frames that count, as `boundary.encoded` makes them.
        truth: the annotations of these frames.

    Raises:
        ModelError: trackeval is not installed.
    """
    return Score.of_frames(j_of_frames(found, truth), f_of_frames(found, truth))


def _mean(values: npt.NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else float("nan")


def _recall(values: npt.NDArray[np.float64]) -> float:
    return _mean((values > _GOOD).astype(np.float64))


def _decay(values: npt.NDArray[np.float64]) -> float:
    """Return the mean of the first quarter less that of the last; the quarters share a frame, as DAVIS's own evaluation cuts them."""
    if not values.size:
        return float("nan")
    bounds = np.round(np.linspace(1, len(values), _PART + 1) + 1e-10).astype(int) - 1
    return _mean(values[bounds[0] : bounds[1] + 1]) - _mean(values[bounds[-2] : bounds[-1] + 1])
