"""The tables that `trt-track parity` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trt_track.parity.clip_drift import ClipDrift
    from trt_track.parity.detector_check import DetectorDeviation
    from trt_track.parity.measures import Deviation
    from trt_track.parity.thresholds import TrackLimits
    from trt_track.parity.track_check import TrackCheck


def print_graphs(rows: Sequence[Deviation]) -> None:
    """Print the table of graphs and outputs."""
    table = [
        (
            row.case,
            row.output,
            f"{row.absolute:.2e}",
            f"{row.relative:.2e}",
            f"{row.tolerance:g}",
            "ok" if row.passed else f"FAILED at {row.where}",
        )
        for row in rows
    ]
    _print(("graph", "output", "largest error", "of the range", "limit", ""), table)


def print_tracks(checks: Sequence[TrackCheck]) -> None:
    """Print the table of cases, the worst frame of each."""
    table = []
    for check in checks:
        pixels = [row.pixels for row in check.rows]
        failed = [row.frame for row in check.rows if not row.passed]
        table.append(
            (
                check.case,
                str(len({row.frame for row in check.rows})),
                f"{max(row.logits for row in check.rows):.2e}",
                f"{min(row.iou for row in check.rows):.6f}",
                f"{min(row.filled_iou for row in check.rows):.6f}",
                f"{min(pixels)} to {max(pixels)}",
                f"{check.seconds:.1f}",
                f"{check.upstream_seconds:.1f}",
                f"FAILED on frames {failed[:5]}" if failed else "ok",
            )
        )
    columns = ("case", "frames", "logits, of the range", "least IoU", "holes filled", "mask pixels", "s", "upstream s", "")
    _print(columns, table)


def print_drift(drifts: Sequence[ClipDrift], limits: TrackLimits) -> None:
    """Print the table of a clip's objects, how often trackers decided differently, what was not judged, and which limits are missed."""
    from trt_track.parity.report_markdown import DRIFT_COLUMNS, drift_cells, told_flips

    _print(DRIFT_COLUMNS, list(drift_cells(drifts)))
    for drift in drifts:
        remarks = [f"{drift.title}: {remark}" for remark in drift.remarks]
        for line in (told_flips(drift, limits), *remarks, *drift.all_failures()):
            print_line(f"  {line}")


def print_detections(rows: Mapping[int, DetectorDeviation]) -> None:
    """Print the table of a detector's frames."""
    table = [
        (str(frame), f"{row.cells:.2e}", f"{row.logits:.2e}", f"{row.boxes:.2e}", str(row.words), "ok" if row.passed else "FAILED")
        for frame, row in rows.items()
    ]
    _print(("frame", "choice of cells", "logits", "boxes, of the frame", "boxes with other words", ""), table)


def print_line(text: str) -> None:
    """Print one line on stdout."""
    import typer

    typer.echo(text)


def _print(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    Console(width=170, highlight=False, markup=False).print(table)
