"""`trt-track parity`: every graph and whole tracks against upstream, as a table, as JSON and as an exit code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trt_track.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

    from trt_track.engines.bundle import Bundle
    from trt_track.parity.cases import Case
    from trt_track.parity.measures import Deviation
    from trt_track.parity.track_check import TrackCheck
    from trt_track.runtime.held_clip import HeldClip
    from trt_track.runtime.tracker import Tracker

Folder = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder.")]
Source = Annotated[Path | None, typer.Option("--clip", help="A clip to track end to end; without one only the graphs are compared.")]
Frames = Annotated[int, typer.Option(min=12, help="Frames of the clip to use.")]
Report = Annotated[Path | None, typer.Option("--json", help="Write every number to this file.")]
Checkpoint = Annotated[Path | None, typer.Option(help="The weights of the bundle; by default what the manifest names, from the cache.")]
Config = Annotated[Path | None, typer.Option(help="The model's YAML file, for a model that is not in the catalogue.")]
Backend = Annotated[str, typer.Option(help="What runs the graphs: auto, onnxruntime-cpu, tensorrt-rtx, tensorrt.")]
Only = Annotated[list[str] | None, typer.Option("--case", help="Only cases whose name contains this; repeatable.")]


def parity(  # noqa: PLR0913, PLR0917 - the command's options
    bundle: Folder,
    clip: Source = None,
    frames: Frames = 26,
    report: Report = None,
    checkpoint: Checkpoint = None,
    config: Config = None,
    backend: Backend = "auto",
    case: Only = None,
) -> None:
    """Compare a bundle with upstream, graph by graph and, with --clip, end to end; exit code 1 when it differs too much."""
    from trt_track.cli.export_command import export_extra

    with export_extra():
        import torch  # noqa: F401

    from trt_track.engines.backends import choose_backend, open_chosen
    from trt_track.engines.bundle import Bundle
    from trt_track.parity.graph_check import check_session
    from trt_track.runtime.tracker import Tracker

    opened = Bundle.open(bundle)
    if report is not None:
        _prepare(report)  # rather now than after all the work
    plan = None if clip is None else _plan(clip, opened.model.image_size, frames, case)
    predictor = _predictor(opened, checkpoint, config)
    name, why = choose_backend(backend, opened)
    typer.echo(f"backend: {why}", err=True)
    precision = opened.manifest.description.precision
    with Tracker(open_chosen(opened, name), opened.model) as tracker:
        graphs = check_session(
            tracker.session, predictor, precision=precision, on_graph=lambda graph: typer.echo(f"graph: {graph}", err=True)
        )
        print_graphs(graphs)
        tracks = [] if plan is None else _tracks(tracker, predictor, plan, precision)
    if report is not None:
        report.write_text(json.dumps(_json(opened, name, graphs, tracks), indent=1) + "\n", encoding="utf-8")
    failed = sum(not row.passed for row in graphs) + sum(not row.passed for check in tracks for row in check.rows)
    typer.echo(
        f"{failed} of {len(graphs) + sum(len(check.rows) for check in tracks)} comparisons failed" if failed else "equal to upstream"
    )
    raise typer.Exit(1 if failed else 0)


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


def _predictor(bundle: Bundle, checkpoint: Path | None, config: Path | None) -> nn.Module:
    """Build upstream's predictor with the weights that the bundle was made of."""
    from trt_track.cli.export_command import load_weights
    from trt_track.export.local_models import config_of, weights_of
    from trt_track.export.upstream import build_model

    description = bundle.manifest.description
    name = bundle.model.name
    predictor = build_model(config_of(name) if config is None else config, bundle.model.image_size)
    seed = re.fullmatch(r"random weights, seed (\d+)", description.source)
    if seed:
        load_weights(predictor, None, int(seed[1]))
        return predictor
    path = checkpoint or weights_of(name)
    _, sha256 = load_weights(predictor, path, None)
    if sha256 != description.source_sha256:
        raise ModelError(
            f"{path} is not what the bundle was exported from: its SHA-256 is {sha256}, the manifest says {description.source_sha256}"
        )
    return predictor


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
