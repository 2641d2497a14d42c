"""`trt-track parity`: every graph and whole tracks, or a detector's boxes, against upstream: as a table, as JSON and as an exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from trt_track.cli.detector_parity import FRAMES as DETECTOR_FRAMES
from trt_track.cli.detector_parity import DetectorParity, detector_report, print_detections
from trt_track.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

    from trt_track.engines.bundle import Bundle
    from trt_track.parity.cases import Case
    from trt_track.parity.measures import Deviation
    from trt_track.parity.track_check import TrackCheck
    from trt_track.runtime.held_clip import HeldClip
    from trt_track.runtime.tracker import Tracker

TRACKED_FRAMES: Final = 26
"""Frames of a clip that a tracker is compared on, where no number is given."""

Folder = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder.")]
Source = Annotated[Path | None, typer.Option("--clip", help="A clip to track end to end, or to detect on; without one only the graphs.")]
Frames = Annotated[
    int | None, typer.Option(min=1, help=f"Frames of the clip to use; default: {TRACKED_FRAMES}, of a detector {DETECTOR_FRAMES}.")
]
Report = Annotated[Path | None, typer.Option("--json", help="Write every number to this file.")]
Checkpoint = Annotated[Path | None, typer.Option(help="The weights of the bundle; by default what the manifest names, from the cache.")]
Config = Annotated[Path | None, typer.Option(help="The model's YAML file, for a model that is not in the catalogue.")]
Backend = Annotated[str, typer.Option(help="What runs the graphs: auto, tensorrt-rtx, tensorrt, onnxruntime-cuda or onnxruntime-cpu.")]
Text = Annotated[str | None, typer.Option(help="What a detector looks for; default: things that it has words for.")]
Weights = Annotated[
    Path | None, typer.Option(help="The weights of a detector, a folder in transformers' form; default: what the manifest names.")
]
Only = Annotated[list[str] | None, typer.Option("--case", help="Only cases whose name contains this; repeatable.")]


def parity(  # noqa: PLR0913, PLR0917 - the command's options
    bundle: Folder,
    clip: Source = None,
    frames: Frames = None,
    report: Report = None,
    checkpoint: Checkpoint = None,
    config: Config = None,
    backend: Backend = "auto",
    case: Only = None,
    text: Text = None,
    weights: Weights = None,
) -> None:
    """Compare a bundle with upstream: graph by graph and, with --clip, end to end; a detector frame by frame. Exit code 1: it is off."""
    from trt_track.cli.export_command import export_extra

    with export_extra():
        import torch  # noqa: F401

    from trt_track.detector_specs import DetectorSpec
    from trt_track.engines.backends import choose_backend
    from trt_track.engines.bundle import Bundle
    from trt_track.parity.weights import UpstreamModel

    opened = Bundle.open(bundle)
    detects = isinstance(opened.manifest.description.model, DetectorSpec)
    foreign = {"--checkpoint": checkpoint, "--config": config, "--case": case} if detects else {"--text": text, "--weights": weights}
    if given := [option for option, value in foreign.items() if value is not None]:
        raise ModelError(f"{bundle} holds a {'detector' if detects else 'tracker'}, for which {given[0]} says nothing: leave it out")
    if report is not None:
        _prepare(report)  # rather now than after all the work
    name, why = choose_backend(backend, opened)
    typer.echo(f"backend: {why}", err=True)
    if detects:
        passed, content = _compare_detector(opened, name, DetectorParity(text, weights, clip, frames or DETECTOR_FRAMES))
    else:
        plan = None if clip is None else _plan(clip, opened.model.image_size, frames or TRACKED_FRAMES, case)
        passed, content = _compare_tracker(
            opened, name, UpstreamModel.of_bundle(opened, checkpoint=checkpoint, config=config).build(), plan
        )
    if report is not None:
        report.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    failed = passed.count(False)
    typer.echo(f"{failed} of {len(passed)} comparisons failed" if failed else "equal to upstream")
    raise typer.Exit(1 if failed else 0)


def _compare_detector(bundle: Bundle, backend: str, asked: DetectorParity) -> tuple[list[bool], dict[str, Any]]:
    """Print the rows of a detector; return which passed, and the report."""
    rows = asked.compare(bundle, backend)
    print_detections(rows)
    return [row.passed for row in rows.values()], detector_report(bundle, backend, rows)


def _compare_tracker(
    bundle: Bundle, backend: str, predictor: nn.Module, plan: tuple[HeldClip, list[Case]] | None
) -> tuple[list[bool], dict[str, Any]]:
    """Print the rows of a tracker; return which passed, and the report."""
    from trt_track.engines.backends import open_chosen
    from trt_track.parity.graph_check import check_session
    from trt_track.runtime.tracker import Tracker

    precision = bundle.manifest.description.precision
    with Tracker(open_chosen(bundle, backend), bundle.model) as tracker:
        graphs = check_session(
            tracker.session, predictor, precision=precision, on_graph=lambda graph: typer.echo(f"graph: {graph}", err=True)
        )
        print_graphs(graphs)
        tracks = [] if plan is None else _tracks(tracker, predictor, plan, precision)
    passed = [row.passed for row in graphs] + [row.passed for check in tracks for row in check.rows]
    return passed, _json(bundle, backend, graphs, tracks)


def _prepare(report: Path) -> None:
    """Make sure that the report can be written.

    Raises:
        OutputError: it cannot.
    """
    from trt_track.runtime.output_file import output_errors

    with output_errors(report):
        report.parent.mkdir(parents=True, exist_ok=True)
        report.open("a").close()


def _plan(clip: Path, size: int, frames: int, only: list[str] | None) -> tuple[HeldClip, list[Case]]:
    """Read the clip and choose the cases, before anything that takes long."""
    from trt_track.parity.cases import MIN_FRAMES, all_cases
    from trt_track.runtime.held_clip import HeldClip

    held = HeldClip.read(clip, size=size, frames=frames)
    if held.info.frame_count < MIN_FRAMES:
        raise ModelError(f"{clip} has {held.info.frame_count} frames: parity needs at least {MIN_FRAMES}")
    cases = all_cases(held.info.frame_count, held.info.width, held.info.height)
    chosen = [one for one in cases if not only or any(word in one.name for word in only)]
    if not chosen:
        raise ModelError(f"no such case: choose from {', '.join(one.name for one in cases)}")
    return held, chosen


def _tracks(tracker: Tracker, predictor: nn.Module, plan: tuple[HeldClip, list[Case]], precision: str) -> list[TrackCheck]:
    from trt_track.parity.track_check import check_cases

    checks = check_cases(tracker, predictor, *plan, precision=precision, on_case=lambda name: typer.echo(f"case: {name}", err=True))
    print_tracks(checks)
    return checks


def print_graphs(rows: list[Deviation]) -> None:
    """Print the table of graphs and outputs."""
    from rich.console import Console
    from rich.table import Table

    table = Table("graph", "output", "largest error", "of the range", "tolerance", "", box=None, pad_edge=False)
    for row in rows:
        verdict = "ok" if row.passed else f"FAILED at {row.where}"
        table.add_row(row.case, row.output, f"{row.absolute:.2e}", f"{row.relative:.2e}", f"{row.tolerance:.0e}", verdict)
    Console(width=120, highlight=False, markup=False).print(table)


def print_tracks(checks: list[TrackCheck]) -> None:
    """Print the table of cases, the worst frame of each."""
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "case",
        "frames",
        "logits, of the range",
        "least IoU",
        "holes filled",
        "mask pixels",
        "s",
        "upstream s",
        "",
        box=None,
        pad_edge=False,
    )
    for check in checks:
        pixels = [row.pixels for row in check.rows]
        failed = [row.frame for row in check.rows if not row.passed]
        table.add_row(
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
    Console(width=140, highlight=False, markup=False).print(table)


def _json(bundle: Bundle, backend: str, graphs: list[Deviation], tracks: list[TrackCheck]) -> dict[str, Any]:
    from trt_track.parity.measures import as_json

    description = bundle.manifest.description.to_json()
    cases = [{"case": c.case, "seconds": c.seconds, "upstream_seconds": c.upstream_seconds, "rows": as_json(c.rows)} for c in tracks]
    return {"bundle": description, "backend": backend, "graphs": as_json(graphs), "tracks": cases}
