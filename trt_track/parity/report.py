"""Everything that a parity run found, as values: what the tables, the JSON, the Markdown and the page are made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from trt_track.engines.manifest import Description, own_version
from trt_track.parity.clip_drift import ClipDrift
from trt_track.parity.measures import Deviation, as_json
from trt_track.parity.thresholds import Thresholds, TrackLimits

if TYPE_CHECKING:
    from trt_track.parity.detector_check import DetectorDeviation
    from trt_track.parity.track_check import TrackCheck


@dataclass(frozen=True, slots=True)
class Subject:
    """What is compared, and with what."""

    description: Description
    folder: str
    backend: str
    """Its name."""
    against: dict[str, str]
    """Name of each reference -> what it is."""


@dataclass
class Report:
    """What was found so far."""

    subject: Subject
    thresholds: Thresholds
    graphs: list[Deviation] = field(default_factory=list)
    cases: list[TrackCheck] = field(default_factory=list)
    detections: Mapping[int, DetectorDeviation] = field(default_factory=dict)
    """By the frame's number."""
    drifts: list[ClipDrift] = field(default_factory=list)
    unmeasured: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Graphs that compute in less than SAM 2 needs and were not compared with upstream, each with the dtypes that it may have."""
    notes: list[str] = field(default_factory=list)
    """What was left out, and why."""
    finished: bool = False

    @property
    def verdicts(self) -> list[bool]:
        """Whether each comparison is within its limits."""
        cases = [row.passed for check in self.cases for row in check.rows]
        drifts = [summary.passed for drift in self.drifts for summary in drift.summaries]
        refused = [False for _ in (*self.unmeasured, *(failure for drift in self.drifts for failure in drift.failures))]
        return [*(row.passed for row in self.graphs), *cases, *(row.passed for row in self.detections.values()), *drifts, *refused]

    @property
    def passed(self) -> bool:
        """Whether it is finished, compared anything, and found everything within its limits."""
        return self.finished and bool(self.verdicts) and all(self.verdicts)

    @property
    def conclusion(self) -> str:
        """The verdict in a few words."""
        failed, count = self.verdicts.count(False), len(self.verdicts)
        if failed or not count:
            return f"{failed} of {count} comparisons failed" if failed else "nothing was compared"
        if not self.finished:
            return f"not finished; the {count} comparisons so far are within their limits"
        exact = set(self.subject.description.dtypes.values()) == {"float32"} and "upstream" in self.subject.against
        return "equal to upstream" if exact else f"all {count} comparisons are within the limits of {self.track_table}"

    @property
    def track_table(self) -> str:
        """Name of the limits that tracks are held to."""
        return self.thresholds.track_table(self.subject.description.precision, self.subject.description.dtypes.values())

    @property
    def track_limits(self) -> TrackLimits:
        """The limits that tracks are held to."""
        return self.thresholds.track(self.subject.description.precision, self.subject.description.dtypes.values())

    @property
    def remarks(self) -> list[str]:
        """What was left out or not judged, and why."""
        return [*self.notes, *(f"{drift.title}: {remark}" for drift in self.drifts for remark in drift.remarks)]

    def failures(self) -> Iterator[str]:
        """Say of everything that failed what it is."""
        for graph, allowed in self.unmeasured.items():
            dtype = self.subject.description.dtypes[graph]
            yield (
                f"graph {graph} computes in {dtype}, SAM 2 needs {' or '.join(allowed)} there: compare it with upstream, without "
                f"--no-upstream, or allow {dtype} in judged_as of --thresholds"
            )
        for row in self.graphs:
            if not row.passed:
                where = f"{row.relative:.1e} of the range at {list(row.where)}, the limit is {row.tolerance:g}"
                yield f"graph {row.case}, output {row.output}: {where}"
        for check in self.cases:
            if frames := [row.frame for row in check.rows if not row.passed]:
                shown = ", ".join(map(str, frames[:5]))
                yield f"case {check.case}: {len(frames)} of {len(check.rows)} masks are off, first on frame {shown.split(',')[0]}"
        for frame, found in self.detections.items():
            if not found.passed:
                yield f"frame {frame}: logits {found.logits:.1e}, boxes {found.boxes:.1e}, {found.words} boxes with other words"
        for drift in self.drifts:
            yield from drift.all_failures()

    def _thresholds(self) -> dict[str, Any]:
        file = None if self.thresholds.file is None else str(self.thresholds.file)
        return {"file": file, "track": self.track_table, "drift": asdict(self.track_limits), "tables": self.thresholds.content}

    def to_json(self) -> dict[str, Any]:
        """Return every number as JSON values."""
        cases = [
            {"case": c.case, "seconds": c.seconds, "upstream_seconds": c.upstream_seconds, "rows": as_json(c.rows)} for c in self.cases
        ]
        return {
            "trt_track": own_version(),
            "finished": self.finished,
            "passed": self.passed,
            "conclusion": self.conclusion,
            "failures": list(self.failures()),
            "notes": self.remarks,
            "unmeasured": {graph: list(allowed) for graph, allowed in self.unmeasured.items()},
            "bundle": self.subject.description.to_json(),
            "folder": self.subject.folder,
            "backend": self.subject.backend,
            "against": dict(self.subject.against),
            "thresholds": self._thresholds(),
            "graphs": as_json(self.graphs),
            "tracks": cases,
            "frames": [{"frame": n, **row} for n, row in zip(self.detections, as_json(list(self.detections.values())), strict=True)],
            "drift": [_drift_json(drift) for drift in self.drifts],
        }


def _drift_json(drift: ClipDrift) -> dict[str, Any]:
    return {
        "clip": drift.clip,
        "against": drift.against,
        "damage": drift.damage,
        "failures": list(drift.failures),
        "flips_per_1000": asdict(drift.flips),
        "prompts": drift.prompts,
        "objects": [{**asdict(summary), "passed": summary.passed} for summary in drift.summaries],
        "rows": [asdict(row) for row in drift.rows],
    }
