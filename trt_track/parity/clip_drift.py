"""One clip beside one reference: every mask, what each object comes to, and what is wrong with the clip as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from trt_track.parity.drift import DriftRow
from trt_track.parity.drift_summary import DriftSummary, summarise
from trt_track.parity.thresholds import TrackLimits
from trt_track.parity.worst_frames import WorstFrame


@dataclass(frozen=True, slots=True)
class Flips:
    """How often two trackers decide differently, per 1,000 object-frames: frames of each object, added up over all objects."""

    object_frames: int
    presence: float
    """Only one of both has the object."""
    choice: float | None
    """They took different ones of the decoder's masks; None if that is not known."""

    @classmethod
    def of(cls, summaries: Sequence[DriftSummary]) -> Self:
        """Add up the objects of a clip."""
        frames = sum(one.frames for one in summaries)
        known = [len(one.choice) for one in summaries if one.choice is not None]
        choice = 1000 * sum(known) / max(frames, 1) if len(known) == len(summaries) else None
        return cls(frames, 1000 * sum(len(one.presence) for one in summaries) / max(frames, 1), choice)


@dataclass(slots=True)
class ClipDrift:
    """What was compared of a clip; `judge` makes the rest of it."""

    clip: str
    """Its file name."""
    against: str
    """Name of the reference."""
    prompts: list[dict[str, Any]]
    """As a prompt file states them."""
    rows: list[DriftRow]
    damage: str | None = None
    """Why the clip ended early, or None."""
    worst: list[WorstFrame] = field(default_factory=list)
    """The worst first; none where no pictures were asked for."""
    summaries: list[DriftSummary] = field(default_factory=list)
    flips: Flips = field(default_factory=lambda: Flips.of(()))
    failures: tuple[str, ...] = ()
    """What of the clip as a whole is not as it must be, in words; objects have their own."""
    remarks: tuple[str, ...] = ()
    """What was not judged, and why."""

    @property
    def title(self) -> str:
        """What it is called in a report."""
        return f"{self.clip} against {self.against}"

    @property
    def passed(self) -> bool:
        """Whether the clip and every object are within every limit."""
        return not self.failures and all(one.passed for one in self.summaries)

    def judge(self, limits: TrackLimits) -> None:
        """Sum up the rows, once all are there, and hold them to limits."""
        self.summaries = summarise(self.rows, limits)
        self.flips = Flips.of(self.summaries)
        self.failures = tuple(self._failures(limits))
        if short := [str(one.object_id) for one in self.summaries if not one.slope_judged]:
            needed = f"that takes {limits.slope_frames} frames on which the reference's mask is large enough"
            self.remarks = (f"the slope of object {', '.join(short)} was not judged: {needed}",)

    def all_failures(self) -> Iterator[str]:
        """Say of the clip, then of each object, which limits are missed."""
        yield from (f"{self.title}: {failure}" for failure in self.failures)
        for one in self.summaries:
            yield from (f"{self.title}, object {one.object_id}: {failure}" for failure in one.failures)

    def _failures(self, limits: TrackLimits) -> Iterator[str]:
        if self.damage is not None:
            yield f"{self.damage}: what comes after it was not compared"
        if not self.rows:
            yield "no frame was compared"
        if limits.presence_flips is not None and self.flips.presence > limits.presence_flips:
            yield f"{self.flips.presence:.1f} presence flips per 1,000 object-frames are over {limits.presence_flips:g}"
        if limits.choice_flips is not None and self.flips.choice is None:
            yield "choice flips are limited, and the reference does not say which mask it took"
        elif limits.choice_flips is not None and self.flips.choice is not None and self.flips.choice > limits.choice_flips:
            yield f"{self.flips.choice:.1f} choice flips per 1,000 object-frames are over {limits.choice_flips:g}"
