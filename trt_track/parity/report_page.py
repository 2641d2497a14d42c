"""The report as one HTML page that needs nothing else: verdict, drift curves, worst frames, tables."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Final

from trt_track.engines.manifest import own_version
from trt_track.parity.clip_drift import ClipDrift
from trt_track.parity.curves import Curve, Limit, Marks, draw_curves, draw_marks
from trt_track.parity.drift import DriftRow
from trt_track.parity.drift_summary import presence_flips
from trt_track.parity.report import Report
from trt_track.parity.report_markdown import DRIFT_COLUMNS, case_cells, detection_cells, graph_cells, summary_cells, told_flips, verdict
from trt_track.parity.thresholds import TrackLimits
from trt_track.parity.worst_frames import WorstFrame

_STYLE: Final = Path(__file__).with_suffix(".css")
_COLORS: Final = ("a", "b")
"""Of the references, in their order."""
_FLIPS: Final = {"presence": "only one of both sees the object", "choice": "another of the decoder's masks is taken"}
_MOST_FAILURES: Final = 20


def write_page(report: Report) -> str:
    """Return the page."""
    title = f"trt-track parity: {report.subject.description.model.name}, {report.subject.description.precision}"
    parts = [_verdict(report), _facts(report), *_drifts(report), *_tables(report)]
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_STYLE.read_text(encoding='utf-8')}</style>\n<main>\n"
        + "\n".join(parts)
        + "\n</main>\n</html>\n"
    )


def _verdict(report: Report) -> str:
    word, state = ("PASSED", "passed") if report.passed else ("FAILED" if False in report.verdicts else "NOT FINISHED", "failed")
    failures = list(report.failures())
    more = [f"… and {len(failures) - _MOST_FAILURES} more"] if len(failures) > _MOST_FAILURES else []
    listed = "".join(f"<li>{escape(failure)}</li>" for failure in failures[:_MOST_FAILURES] + more)
    name, recipe = report.subject.description.model.name, report.subject.description.precision
    return (
        f'<div class="verdict {state}"><div class="word">{word}</div><h1>{escape(name)}, {escape(recipe)}: {escape(report.conclusion)}</h1>'
        f"{f'<ul>{listed}</ul>' if listed else ''}</div>"
    )


def _facts(report: Report) -> str:
    subject, description = report.subject, report.subject.description
    by_dtype: dict[str, list[str]] = {}
    for graph, dtype in description.dtypes.items():
        by_dtype.setdefault(dtype, []).append(graph)
    sha = f", SHA-256 {description.source_sha256[:16]}…" if description.source_sha256 else ""
    facts = {
        "Bundle": subject.folder,
        "Precision": "; ".join(f"{dtype}: {', '.join(graphs)}" for dtype, graphs in by_dtype.items()),
        "Weights": f"{description.source}{sha}",
        "Runs on": subject.backend,
        **{f"Reference: {name}": what for name, what in subject.against.items()},
        "Limits": f"those of {report.track_table}{f', changed by {report.thresholds.file}' if report.thresholds.file else ''}",
        **({"Of drift": report.track_limits.of_drift} if report.drifts else {}),
        "Versions": ", ".join(f"{name} {version}" for name, version in {"trt-track": own_version(), **description.tools}.items()),
        **({"Notes": "; ".join(report.remarks)} if report.remarks else {}),
    }
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(fact)}</dd>' for name, fact in facts.items())}</dl>"


def _drifts(report: Report) -> list[str]:
    if not report.drifts:
        return []
    limits = report.track_limits
    parts = ["<h2>Drift</h2>"]
    for clip in dict.fromkeys(drift.clip for drift in report.drifts):
        beside = [drift for drift in report.drifts if drift.clip == clip]
        parts.append(f"<h3>{escape(clip)}</h3>")
        rows = [(drift.against, *summary_cells(summary)) for drift in beside for summary in drift.summaries]
        parts.append(table(DRIFT_COLUMNS[1:], rows))
        parts.extend(f'<p class="soft">{escape(told_flips(drift, limits))}</p>' for drift in beside)
        ids = dict.fromkeys(summary.object_id for drift in beside for summary in drift.summaries)
        parts.extend(_object_curves(beside, object_id, limits) for object_id in ids)
        parts.extend(_pictures(drift) for drift in beside if drift.worst)
    return parts


def _object_curves(beside: Sequence[ClipDrift], object_id: int, limits: TrackLimits) -> str:
    """Draw one object of a clip beside each reference: IoU, flips, boundary F."""
    rows = {drift.against: [row for row in drift.rows if row.object_id == object_id] for drift in beside}
    judged = {name: [row for row in found if not limits.too_small(row.pixels)] for name, found in rows.items()}
    frames = [row.frame for found in rows.values() for row in found]
    overlap = [Curve(name, color, *_points(judged[name], "iou")) for name, color in zip(rows, _COLORS, strict=False) if judged[name]]
    outline = [
        Curve(name, color, *_points(judged[name], "boundary_f"))
        for name, color in zip(rows, _COLORS, strict=False)
        if any(row.boundary_f is not None for row in judged[name])
    ]
    if not overlap:
        return f"<p>Object {object_id}: nothing to judge, no mask of the reference has {limits.small_pixels} pixels.</p>"
    keys = "".join(f'<span class="key {curve.color}"></span>{escape(curve.name)}' for curve in overlap)
    marks = _marks(rows, limits)
    keys += "".join(f'<span class="key {mark.color}"></span>{_FLIPS[mark.name]}' for mark in marks if mark.frames)
    drawn = draw_curves("IoU", overlap, [Limit("least", limits.least_iou), Limit("mean", limits.mean_iou)])
    of_outlines = [] if limits.mean_f is None else [Limit("mean", limits.mean_f)]
    second = f'<div class="panel-name">Boundary F</div>{draw_curves("boundary F", outline, of_outlines)}' if outline else ""
    return (
        f'<figure><div class="panel-name">Object {object_id}: IoU over frames</div>{drawn}'
        f"{draw_marks(marks, min(frames), max(frames))}{second}<figcaption>{keys}</figcaption></figure>"
    )


def _points(rows: Sequence[DriftRow], what: str) -> tuple[list[int], list[float]]:
    told = [(row.frame, float(getattr(row, what))) for row in rows if getattr(row, what) is not None]
    return [frame for frame, _ in told], [value for _, value in told]


def _marks(rows: dict[str, list[DriftRow]], limits: TrackLimits) -> list[Marks]:
    every = [row for found in rows.values() for row in found]
    presence = sorted({row.frame for row in every if presence_flips(row, limits)})
    choice = sorted({row.frame for row in every if row.choice_differs})
    return [Marks("presence", "c", presence), Marks("choice", "d", choice)]


def _pictures(drift: ClipDrift) -> str:
    key = f'<span class="key wanted"></span>{escape(drift.against)}<span class="key found"></span>this bundle'
    shown = "".join(_picture(worst) for worst in drift.worst)
    return (
        f'<h3>Worst frames against {escape(drift.against)}</h3><p class="soft">{key}; what only one of them covers is tinted.</p>'
        f'<div class="pictures">{shown}</div>'
    )


def _picture(worst: WorstFrame) -> str:
    data, row = base64.b64encode(worst.png()).decode("ascii"), worst.row
    told = f"Frame {row.frame}, object {row.object_id}: IoU {row.iou:.4f}, {row.pixels} against {row.found_pixels} pixels"
    return f'<figure><img alt="{escape(told)}" src="data:image/png;base64,{data}"><figcaption>{escape(told)}</figcaption></figure>'


def _tables(report: Report) -> list[str]:
    columns = ("graph", "computes in", "output", "error, of the range", "limit", "")
    case_columns = ("case", "masks", "logits, of the range", "least IoU", "limit", "")
    frame_columns = ("frame", "choice of cells", "logits", "boxes, of the frame", "boxes with other words", "")
    every = ("graph", "output", "largest error", "of the range", "limit", "")
    rows = [(r.case, r.output, f"{r.absolute:.2e}", f"{r.relative:.2e}", f"{r.tolerance:g}", verdict(r.passed)) for r in report.graphs]
    return [
        *_section("Graphs, the worst output of each", columns, graph_cells(report)),
        *([f"<details><summary>Every output</summary>{table(every, rows)}</details>"] if rows else []),
        *_section("Cases, the worst frame of each", case_columns, case_cells(report)),
        *_section("Frames", frame_columns, detection_cells(report)),
    ]


def _section(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    held = list(rows)
    return [f"<h2>{escape(title)}</h2>", table(columns, held)] if held else []


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; a last cell of "ok" or "FAILED" is coloured."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(text: str) -> str:
    state = {"ok": ' class="ok"', "FAILED": ' class="off"'}.get(text, "")
    return f"<td{state}>{escape(text)}</td>"
