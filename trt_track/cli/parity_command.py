"""`trt-track parity`: every graph and whole tracks, or a detector's boxes, against upstream: as tables, as a report and as an exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trt_track.cli.detector_parity import FRAMES as DETECTOR_FRAMES
from trt_track.cli.detector_parity import DetectorParity
from trt_track.cli.parity_clips import CASE_FRAMES, DRIFT_FRAMES, PromptFiles
from trt_track.cli.run_command import Box, Mask, Point
from trt_track.cli.tracker_parity import FP32, UPSTREAM
from trt_track.errors import ModelError, PromptError

if TYPE_CHECKING:
    from trt_track.cli.tracker_parity import TrackerParity
    from trt_track.engines.bundle import Bundle
    from trt_track.parity.report import Report
    from trt_track.parity.report_folder import ReportFolder

Folder = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder.")]
Clips = Annotated[
    list[Path] | None,
    typer.Option("--clip", help="A clip to track beside the references, or to detect on; repeatable. Without one only the graphs."),
]
Frames = Annotated[
    int | None,
    typer.Option(
        min=1,
        help=f"Frames of each clip to use; default: {DRIFT_FRAMES}, of the cases {CASE_FRAMES}, of a detector {DETECTOR_FRAMES}.",
    ),
]
ReferenceFolder = Annotated[
    Path | None, typer.Option("--reference", metavar="BUNDLE", help="The FP32 bundle of the same weights, to be compared with too.")
]
NoUpstream = Annotated[bool, typer.Option("--no-upstream", help="Compare with --reference alone: needs no PyTorch.")]
NoCases = Annotated[bool, typer.Option("--no-cases", help="Leave the ten ways of prompting out that are tried on the first clip.")]
Only = Annotated[list[str] | None, typer.Option("--case", help="Only cases whose name contains this; repeatable.")]
Limits = Annotated[Path | None, typer.Option("--thresholds", help="A TOML file with limits of your own; what it does not name stays.")]
ReportPath = Annotated[Path | None, typer.Option("--report", metavar="DIR", help="Write report.json, .md and .html and the worst frames.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write every number to this file.")]
Checkpoint = Annotated[Path | None, typer.Option(help="The weights of the bundle; by default what the manifest names, from the cache.")]
Config = Annotated[Path | None, typer.Option(help="The model's YAML file, for a model that is not in the catalogue.")]
Backend = Annotated[str, typer.Option(help="What runs the graphs: auto, tensorrt-rtx, tensorrt, onnxruntime-cuda or onnxruntime-cpu.")]
Text = Annotated[str | None, typer.Option(help="What a detector looks for; default: things that it has words for.")]
Weights = Annotated[
    Path | None, typer.Option(help="The weights of a detector, a folder in transformers' form; default: what the manifest names.")
]


def parity(  # noqa: PLR0913, PLR0917 - the command's options
    bundle: Folder,
    clip: Clips = None,
    frames: Frames = None,
    reference: ReferenceFolder = None,
    no_upstream: NoUpstream = False,
    box: Box = None,
    point: Point = None,
    mask: Mask = None,
    prompts: PromptFiles = None,
    no_cases: NoCases = False,
    case: Only = None,
    thresholds: Limits = None,
    report: ReportPath = None,
    json_file: Json = None,
    checkpoint: Checkpoint = None,
    config: Config = None,
    backend: Backend = "auto",
    text: Text = None,
    weights: Weights = None,
) -> None:
    """Compare a bundle with upstream: graph by graph and, with --clip, in whole tracks; a detector frame by frame.

    With --clip, ten ways of prompting are tried on the first clip, then every clip is tracked from one prompt, frame by frame beside
    upstream and the bundle of --reference. Exit code 1: something is over its limit.
    """
    from trt_track.engines.backends import choose_backend
    from trt_track.engines.bundle import Bundle
    from trt_track.parity.report import Report, Subject
    from trt_track.parity.report_folder import ReportFolder
    from trt_track.parity.thresholds import Thresholds

    opened, limits = Bundle.open(bundle), Thresholds.read(thresholds)
    description = opened.manifest.description
    of_tracker: dict[str, Any] = {
        "--reference": reference,
        "--box": box,
        "--point": point,
        "--mask": mask,
        "--prompts": prompts,
        "--case": case,
    }
    of_tracker |= {"--no-upstream": no_upstream, "--no-cases": no_cases, "--checkpoint": checkpoint, "--config": config}
    detects = _refuse_foreign(opened, of_tracker, {"--text": text, "--weights": weights})
    if json_file is not None:
        _prepare(json_file)  # rather now than after all the work
    name, why = choose_backend(backend, opened)
    typer.echo(f"backend: {why}", err=True)
    found = Report(Subject(description, str(bundle), name, {}), limits)
    if detects:
        if len(clip or ()) > 1:
            raise ModelError(f"{bundle} holds a detector, which is compared on one clip: give --clip once")
        folder = None if report is None else ReportFolder(report)
        _compare_detector(opened, DetectorParity(text, weights, clip[0] if clip else None, frames or DETECTOR_FRAMES), found, folder)
    else:
        from trt_track.cli.parity_clips import ClipOptions, read_prompts_of_clips
        from trt_track.cli.tracker_parity import TrackerParity

        asked = read_prompts_of_clips((box, point, mask), prompts, clips=len(clip or ()))
        options = ClipOptions(tuple(clip or ()), frames, asked, not no_cases, tuple(case or ()))
        run = TrackerParity(opened, name, options, found)
        _add_references(run, reference, None if no_upstream else (checkpoint, config))
        run.prepare()
        run.folder = None if report is None else ReportFolder(report)
        run.compare()
    _conclude(found, json_file, report)


def _refuse_foreign(bundle: Bundle, of_tracker: dict[str, Any], of_detector: dict[str, Any]) -> bool:
    """Return whether a bundle is a detector's.

    Raises:
        ModelError: an option is given that says nothing for it.
    """
    from trt_track.detector_specs import DetectorSpec

    detects = isinstance(bundle.manifest.description.model, DetectorSpec)
    if given := [option for option, value in (of_tracker if detects else of_detector).items() if value]:
        raise ModelError(f"{bundle.folder} holds a {'detector' if detects else 'tracker'}, for which {given[0]} says nothing: leave it out")
    return detects


def _prepare(file: Path) -> None:
    """Make sure that a file can be written.

    Raises:
        OutputError: it cannot.
    """
    from trt_track.runtime.output_file import output_errors

    with output_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.open("a").close()


def _compare_detector(bundle: Bundle, asked: DetectorParity, report: Report, folder: ReportFolder | None) -> None:
    """Compare a detector's frames and print them."""
    from trt_track.cli.export_command import export_extra
    from trt_track.cli.parity_tables import print_detections

    with export_extra():
        import torch  # noqa: F401
    report.subject.against[UPSTREAM] = "transformers in PyTorch, FP32"
    report.detections = asked.compare(bundle, report.subject.backend, report.thresholds)
    report.finished = True
    print_detections(report.detections)
    if folder is not None:
        folder.write(report)


def _add_references(run: TrackerParity, reference: Path | None, upstream: tuple[Path | None, Path | None] | None) -> None:
    """Open what a tracker is compared with; `upstream` is its checkpoint and its configuration, None leaves it out.

    Raises:
        ModelError: there is nothing to compare with, or it does not fit.
    """
    from trt_track.cli.export_command import export_extra
    from trt_track.parity.bundle_reference import open_reference
    from trt_track.parity.drift import boundary_measure

    against = run.report.subject.against
    if reference is not None:
        if not run.clips.clips:
            raise PromptError("--reference is for tracks: give a clip with --clip FILE")
        run.reference = open_reference(reference, run.bundle)
        against[FP32] = f"the bundle {reference}"
    if upstream is not None:
        with export_extra():
            from trt_track.parity.weights import UpstreamModel
        against[UPSTREAM] = "SAM2VideoPredictor in PyTorch, FP32"
        run.predictor = UpstreamModel.of_bundle(run.bundle, checkpoint=upstream[0], config=upstream[1]).build()
    elif reference is None:
        raise ModelError("--no-upstream leaves nothing to compare with: give an FP32 bundle with --reference")
    else:
        run.report.unmeasured = run.report.thresholds.less_than_allowed(run.bundle.manifest.description.dtypes)
        run.report.notes.append("upstream, the graphs and the cases were left out (--no-upstream)")
    if run.clips.clips and boundary_measure() is None:
        run.report.notes.append("the F of outlines was left out: it needs trackeval (pip install 'trt-track[eval]')")
        typer.echo(run.report.notes[-1], err=True)


def _conclude(report: Report, json_file: Path | None, folder: Path | None) -> None:
    """Write the JSON file, say the verdict and leave."""
    if json_file is not None:
        json_file.write_text(json.dumps(report.to_json(), indent=1) + "\n", encoding="utf-8")
    if folder is not None:
        typer.echo(f"report: {folder / 'report.html'}", err=True)
    typer.echo(report.conclusion)
    raise typer.Exit(0 if report.passed else 1)
