"""`trt-track sensitivity`: which layers must stay out of INT8 for a wanted mask IoU, as a table and as a recipe."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from trt_track.cli.calibration_data import CalibrationData
from trt_track.cli.export_command import Calibrate, Method, Pictures, export_extra
from trt_track.cli.parity_clips import ClipOptions, read_prompts_of_clips
from trt_track.cli.run_command import Box, Mask, Point, PromptFile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trt_track.export.quantization import Ranges
    from trt_track.parity.sensitivity import Candidate, EncoderStudy, LayerError
    from trt_track.runtime.held_clip import HeldClip
    from trt_track.runtime.prompts import Prompt

_COMPARED: Final = 2
"""Frames of the clip, its first and its last, that each layer is tried on alone."""

Folder = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder, fp16 or fp32.")]
Clip = Annotated[Path, typer.Option("--clip", help="A clip to track.")]
Frames = Annotated[int, typer.Option(min=2, help="Frames of it to use.")]
Iou = Annotated[float, typer.Option("--iou", min=0, max=1, help="The mean mask IoU that is wanted, with the bundle that is not quantised.")]
Out = Annotated[Path | None, typer.Option(help="Write the recipe to this .toml file.")]
Name = Annotated[str, typer.Option(help="What the recipe is called.")]
Report = Annotated[Path | None, typer.Option("--json", help="Write every number to this file, as they come.")]


def sensitivity(  # noqa: PLR0913, PLR0917 - the command's options
    bundle: Folder,
    clip: Clip,
    frames: Frames = 60,
    box: Box = None,
    point: Point = None,
    mask: Mask = None,
    prompts: PromptFile = None,
    iou: Iou = 0.97,
    calibrate: Calibrate = None,
    calibration: Method = "percentile",
    calibration_frames: Pictures = 32,
    out: Out = None,
    name: Name = "int8_found",
    report: Report = None,
) -> None:
    """Find the layers of the image encoder that cost masks most in INT8, and the fewest that must be left out for a mask IoU."""
    with export_extra():
        import onnx  # noqa: F401
    from trt_track.engines.bundle import Bundle
    from trt_track.parity.sensitivity import EncoderStudy
    from trt_track.recipe import Recipe
    from trt_track.runtime.held_clip import HeldClip

    Recipe(name)  # refuses a bad name before the work
    opened = Bundle.open(bundle)
    options = ClipOptions((clip,), frames, read_prompts_of_clips(box, point, mask, prompts, clips=True), cases=False, only=())
    options.check()
    held = HeldClip.read(clip, size=opened.model.image_size, frames=frames)
    with tempfile.TemporaryDirectory() as folder:
        study = EncoderStudy(opened, Path(folder))
        ranges = _ranges(study, CalibrationData(calibrate, calibration, calibration_frames))
        log = _Log(report)
        errors = _layer_errors(study, ranges, held, log)
        _print_layers(errors)
        chosen = _search(study, ranges, held, options.prompts_for(held), iou, errors, log)
    recipe = study.recipe(name, errors[: chosen.kept])
    reached = f"{chosen.kept} of {len(errors)} layers left out: mean IoU {chosen.mean_iou:.4f}, least {chosen.least_iou:.4f}"
    typer.echo(reached if chosen.mean_iou >= iou else f"{iou} was not reached; the best was {reached}")
    if out is not None:
        _save(out, recipe.to_toml())
        typer.echo(out)


class _Log:
    """Every number so far, written whenever one comes."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.content: dict[str, list[dict[str, Any]]] = {"layers": [], "tried": []}

    def add(self, kind: str, row: LayerError | Candidate) -> None:
        self.content[kind].append(asdict(row))
        if self.path is not None:
            _save(self.path, json.dumps(self.content, indent=1) + "\n")


def _save(path: Path, text: str) -> None:
    from trt_track.runtime.output_file import output_errors, write_whole

    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode())


def _ranges(study: EncoderStudy, data: CalibrationData) -> Ranges:
    from trt_track.cli.progress import progress_bar

    size = study.bundle.model.image_size
    with progress_bar("calibration") as advance:
        return data.of_frames((size, size)).ranges(study.source, study.activations(), on_progress=advance)


def _layer_errors(study: EncoderStudy, ranges: Ranges, held: HeldClip, log: _Log) -> list[LayerError]:
    """Return what each layer costs, the worst first."""
    from trt_track.cli.progress import progress_bar

    shown = [held.held[index] for index in (0, len(held.held) - 1)][:_COMPARED]
    feeds = [{"frames": frame.model_rgb_hwc[None]} for frame in shown]
    errors = []
    with progress_bar("layers") as advance:
        for one in study.layer_errors(ranges, feeds):
            errors.append(one)
            log.add("layers", one)
            advance(len(errors), len(study.layers), one.layer)
    return sorted(errors, key=lambda one: -one.error)


def _search(  # noqa: PLR0913, PLR0917 - a study, a prompted clip, a wish
    study: EncoderStudy,
    ranges: Ranges,
    held: HeldClip,
    prompts: Sequence[Prompt],
    iou: float,
    errors: Sequence[LayerError],
    log: _Log,
) -> Candidate:
    """Find how many layers must be left out; tell every candidate on stderr as it comes."""
    from trt_track.parity.sensitivity import compare_masks, fewest_kept, track_masks

    with study.tracker() as tracker:
        wanted = track_masks(tracker, held, prompts)

    def measure(kept: int) -> Candidate:
        with study.tracker(study.quantized(ranges, [one.layer for one in errors[:kept]])) as tracker:
            found = compare_masks(kept, track_masks(tracker, held, prompts), wanted)
        log.add("tried", found)
        typer.echo(f"{kept} of {len(errors)} layers left out: mean IoU {found.mean_iou:.4f}, least {found.least_iou:.4f}", err=True)
        return found

    return fewest_kept(len(errors) - 1, iou, measure)[0]


def _print_layers(errors: Sequence[LayerError]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("layer", "error", "of", "weights", box=None, pad_edge=False)
    for one in errors:
        table.add_row(one.layer, f"{one.error:.4f}", one.output, f"{one.weights:.1%}")
    Console(width=120, highlight=False, markup=False).print(table)
