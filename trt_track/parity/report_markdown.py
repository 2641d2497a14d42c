"""The report as Markdown: for a comment on a pull request, or the summary of a CI job."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from trt_track.parity.clip_drift import ClipDrift
from trt_track.parity.drift_summary import DriftSummary
from trt_track.parity.report import Report
from trt_track.parity.thresholds import TrackLimits

_MOST_FAILURES = 12
DRIFT_COLUMNS = (
    *("clip", "against", "object", "frames", "mean IoU", "least IoU", "slope", "boundary F", "logits"),
    *("presence flips", "choice flips", "lost on", ""),
)


def write_markdown(report: Report) -> str:
    """Return the verdict, what failed, and a table for each kind of comparison."""
    description = report.subject.description
    lines = [
        f"## {'✅' if report.passed else '❌'} trt-track parity: {report.conclusion}",
        "",
        f"`{description.model.name}`, recipe `{description.precision}`, on `{report.subject.backend}`, from {description.source}.",
        *(f"Reference `{name}`: {what}." for name, what in report.subject.against.items()),
        *_listed(list(report.failures()), "Off"),
        *_listed(report.remarks, "Notes"),
        *_section("Drift", DRIFT_COLUMNS, drift_cells(report.drifts)),
        *_listed(
            [told_flips(drift, report.track_limits) for drift in report.drifts],
            f"Limits of {report.track_table}: {report.track_limits.of_drift}",
        ),
        *_section(
            "Graphs, the worst output of each", ("graph", "dtype", "output", "error, of the range", "limit", ""), graph_cells(report)
        ),
        *_section(
            "Cases, the worst frame of each", ("case", "masks", "logits, of the range", "least IoU", "limit", ""), case_cells(report)
        ),
        *_section("Frames", ("frame", "cells", "logits", "boxes, of the frame", "other words", ""), detection_cells(report)),
    ]
    return "\n".join(lines) + "\n"


def drift_cells(drifts: Iterable[ClipDrift]) -> Iterator[Sequence[str]]:
    """Yield a row of `DRIFT_COLUMNS` for each object of each clip and reference."""
    for drift in drifts:
        for summary in drift.summaries:
            yield drift.clip, drift.against, *summary_cells(summary)


def summary_cells(one: DriftSummary) -> Sequence[str]:
    """Return the row of one object, from its number on."""
    least = "–" if one.least_iou is None else f"{one.least_iou:.4f} at {one.least_frame}"
    return (
        str(one.object_id),
        f"{one.judged} of {one.frames}" if one.judged < one.frames else str(one.frames),
        _number(one.mean_iou, ".4f"),
        least,
        _number(one.slope, "+.1e") if one.slope_judged else f"{_number(one.slope, '+.1e')} not judged",
        _number(one.mean_f, ".4f"),
        _number(one.logits, ".1e"),
        flips(one.presence),
        flips(one.choice),
        "–" if one.lost_frame is None else str(one.lost_frame),
        verdict(one.passed),
    )


def told_flips(drift: ClipDrift, limits: TrackLimits) -> str:
    """Say how often a clip's trackers decided differently, and how often they may."""
    rates = {"presence": (drift.flips.presence, limits.presence_flips), "choice": (drift.flips.choice, limits.choice_flips)}
    told = [f"{kind} {_number(rate, '.1f')}{'' if most is None else f' (limit {most:g})'}" for kind, (rate, most) in rates.items()]
    return f"{drift.title}: flips per 1,000 object-frames: {', '.join(told)}"


def graph_cells(report: Report) -> Iterator[Sequence[str]]:
    """Yield for each graph and size the output that comes nearest to its limit, or furthest over it."""
    for case in dict.fromkeys(row.case for row in report.graphs):
        worst = max((row for row in report.graphs if row.case == case), key=lambda row: row.relative / row.tolerance)
        dtype = report.subject.description.dtypes.get(case.split()[0], "–")
        yield case, dtype, worst.output, f"{worst.relative:.1e}", f"{worst.tolerance:g}", verdict(worst.passed)


def case_cells(report: Report) -> Iterator[Sequence[str]]:
    """Yield a row for each case."""
    limit = report.track_limits.least_iou
    for check in report.cases:
        logits, iou = max(row.logits for row in check.rows), min(row.iou for row in check.rows)
        passed = all(row.passed for row in check.rows)
        yield check.case, str(len(check.rows)), f"{logits:.1e}", f"{iou:.5f}", f"{limit:g}", verdict(passed)


def detection_cells(report: Report) -> Iterator[Sequence[str]]:
    """Yield a row for each frame of a detector."""
    for frame, row in report.detections.items():
        yield str(frame), f"{row.cells:.1e}", f"{row.logits:.1e}", f"{row.boxes:.1e}", str(row.words), verdict(row.passed)


def flips(frames: Sequence[int] | None) -> str:
    """Return how many frames, and the first ones."""
    if frames is None:
        return "–"
    return f"{len(frames)}: {', '.join(map(str, frames[:2]))}{' …' if len(frames) > 2 else ''}" if frames else "0"


def verdict(passed: bool) -> str:
    """Return the last cell of a row."""
    return "ok" if passed else "FAILED"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _listed(items: Sequence[str], title: str) -> list[str]:
    if not items:
        return []
    more = [f"- … and {len(items) - _MOST_FAILURES} more"] if len(items) > _MOST_FAILURES else []
    return ["", f"**{title}**", "", *(f"- {item}" for item in items[:_MOST_FAILURES]), *more]


def _section(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    if not cells:
        return []
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return ["", f"### {title}", "", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}", *lines]
