"""`trt-track sensitivity`: which layers must stay out of INT8 for masks that `trt-track parity` lets pass, as a table and as a recipe."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trt_track.cli.calibration_data import CalibrationData
from trt_track.cli.export_command import Calibrate, Method, Pictures, export_extra
from trt_track.cli.parity_clips import DRIFT_FRAMES, ClipOptions, PromptFiles, read_prompts_of_clips
from trt_track.cli.run_command import Box, Mask, Point
from trt_track.errors import VideoError

if TYPE_CHECKING:
    from trt_track.engines.bundle import Bundle
    from trt_track.export.quantization import Ranges
    from trt_track.parity.clip_drift import ClipDrift
    from trt_track.parity.sensitivity import Candidate, EncoderStudy, KeptTrack, LayerError
    from trt_track.parity.thresholds import TrackLimits
    from trt_track.runtime.tracker import Tracker, Video

Folder = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder, fp16 or fp32.")]
Clips = Annotated[list[Path], typer.Option("--clip", help="A clip to track; repeatable.")]
Frames = Annotated[int, typer.Option(min=2, help="Frames of each to use.")]
ReferenceFolder = Annotated[
    Path | None,
    typer.Option("--reference", metavar="BUNDLE", help="The FP32 bundle of the same weights to compare with; default: BUNDLE itself."),
]
Iou = Annotated[
    float | None, typer.Option("--iou", min=0, max=1, help="The mean mask IoU that every object must have; default: see below.")
]
Least = Annotated[float | None, typer.Option("--least-iou", min=0, max=1, help="The mask IoU that every frame must have.")]
Limits = Annotated[
    Path | None, typer.Option("--thresholds", help="A TOML file with limits of your own, as `parity` takes it; default: those of int8.")
]
Out = Annotated[Path | None, typer.Option(help="Write the recipe to this .toml file.")]
Name = Annotated[str, typer.Option(help="What the recipe is called.")]
Report = Annotated[Path | None, typer.Option("--json", help="Write every number to this file, as they come.")]


def sensitivity(  # noqa: PLR0913, PLR0917 - the command's options
    bundle: Folder,
    clip: Clips,
    frames: Frames = DRIFT_FRAMES,
    reference: ReferenceFolder = None,
    box: Box = None,
    point: Point = None,
    mask: Mask = None,
    prompts: PromptFiles = None,
    iou: Iou = None,
    least_iou: Least = None,
    thresholds: Limits = None,
    calibrate: Calibrate = None,
    calibration: Method = "percentile",
    calibration_frames: Pictures = 32,
    out: Out = None,
    name: Name = "int8_found",
    report: Report = None,
) -> None:
    """Find the layers of the image encoder that cost masks most in INT8, and the fewest that must be left out.

    Clips are judged as `trt-track parity --reference` judges them: by the limits of int8, where no others are given. Exit code 1: no number
    of layers is enough, and no recipe is written.
    """
    with export_extra():
        import onnx  # noqa: F401
    from trt_track.engines.bundle import Bundle
    from trt_track.parity.bundle_reference import open_reference
    from trt_track.parity.sensitivity import EncoderStudy
    from trt_track.parity.thresholds import Thresholds
    from trt_track.recipe import Recipe

    Recipe(name)  # refuses a bad name before the work
    opened = Bundle.open(bundle)
    typer.echo(f"model: {opened.model.name}, {opened.model.image_size} px", err=True)
    exact = opened if reference is None else open_reference(reference, opened)
    shipped = Thresholds.read(thresholds).track(name, ["int8"])
    limits = replace(
        shipped,
        mean_iou=shipped.mean_iou if iou is None else iou,
        least_iou=shipped.least_iou if least_iou is None else least_iou,
    )
    asked = read_prompts_of_clips((box, point, mask), prompts, clips=len(clip))
    options = ClipOptions(tuple(clip), frames, asked, cases=False, only=())
    options.check()
    typer.echo(f"limits: {limits.of_drift}", err=True)
    with tempfile.TemporaryDirectory() as folder:
        study = EncoderStudy(opened, Path(folder))
        search = _Search(study, exact, options, limits, CalibrationData(calibrate, calibration, calibration_frames), _Log(report))
        chosen = search.run()
    if chosen is None:
        typer.echo("the limits were not reached with all layers left out but one: no recipe was written")
        raise typer.Exit(1)
    typer.echo(_told(chosen, len(study.layers)))
    if out is not None:
        _save(out, study.recipe(name, search.errors[: chosen.kept]).to_toml())
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


@dataclass
class _Search:
    """The whole of it."""

    study: EncoderStudy
    exact: Bundle
    """What masks are compared with."""
    clips: ClipOptions
    limits: TrackLimits
    data: CalibrationData
    log: _Log

    def run(self) -> Candidate | None:
        """Find how many layers must be left out; None if no number is enough. Every candidate is told on stderr as it comes."""
        from trt_track.parity.sensitivity import fewest_kept

        _print_layers(self.errors)
        return fewest_kept(len(self.errors) - 1, self._measure)[0]

    @cached_property
    def ranges(self) -> Ranges:
        """Of what the encoder's products read."""
        from trt_track.cli.progress import progress_bar

        size = self.study.bundle.model.image_size
        with progress_bar("calibration") as advance:
            return self.data.of_frames((size, size)).ranges(self.study.source, self.study.activations(), on_progress=advance)

    @cached_property
    def errors(self) -> list[LayerError]:
        """What each layer costs, in the order in which they are left out, tried on the first and the last frame of each clip."""
        from trt_track.cli.progress import progress_bar

        errors = []
        feeds = [feed for clip in self.clips.clips for feed in self._feeds(clip)]
        with progress_bar("layers") as advance:
            for one in self.study.layer_errors(self.ranges, feeds):
                errors.append(one)
                self.log.add("layers", one)
                advance(len(errors), len(self.study.layers), one.layer)
        return sorted(errors, key=lambda one: -one.per_weight)

    @cached_property
    def references(self) -> dict[Path, KeptTrack]:
        """What the exact bundle sees, by clip."""
        from trt_track.cli.progress import progress_bar
        from trt_track.parity.sensitivity import KeptTrack
        from trt_track.runtime.tracker import Tracker

        kept = {}
        with Tracker.of_bundle(self.exact, "onnxruntime-cpu") as tracker, progress_bar("reference") as advance:
            for done, clip in enumerate(self.clips.clips):
                advance(done, len(self.clips.clips), self.clips.title(clip))
                with closing(self._video(clip, tracker)) as video:
                    kept[clip] = KeptTrack(video.propagate(keep_logits=True))
                    if video.damage:
                        raise VideoError(f"{clip}: {video.damage}; give a sound clip, or fewer --frames")
        return kept

    def _measure(self, kept: int) -> Candidate:
        from trt_track.parity.sensitivity import Candidate

        references, left_out = self.references, [one.layer for one in self.errors[:kept]]
        drifts: list[ClipDrift] = []
        with self.study.tracker(self.study.quantized(self.ranges, left_out)) as tracker:
            for clip in self.clips.clips:
                drifts.append(self._compare(clip, tracker, references[clip]))
                if not drifts[-1].passed:
                    break
        found = Candidate.of_clips(kept, drifts)
        self.log.add("tried", found)
        typer.echo(f"{_told(found, len(self.errors))}{''.join(f'; {failure}' for failure in found.failures[:1])}", err=True)
        return found

    def _compare(self, clip: Path, tracker: Tracker, reference: KeptTrack) -> ClipDrift:
        from trt_track.parity.drift import boundary_measure
        from trt_track.parity.sensitivity import compare_clip

        measure = None if self.limits.mean_f is None else boundary_measure()
        with closing(self._video(clip, tracker)) as video:
            return compare_clip(video, self.clips.title(clip), reference, self.limits, measure=measure)

    def _video(self, clip: Path, tracker: Tracker) -> Video:
        from trt_track.runtime.tracker import Video

        source = self.clips.open(clip)
        video = Video(tracker, source)
        video.add_prompts(self.clips.prompts_for(clip, source))
        return video

    def _feeds(self, clip: Path) -> list[dict[str, Any]]:
        with closing(self.clips.open(clip)) as source:
            only = {0, source.info.frame_count - 1}
            return [{"frames": frame.model_rgb_hwc[None]} for frame in source.frames(size=self.study.bundle.model.image_size, only=only)]


def _told(found: Candidate, layers: int) -> str:
    mean, least = ("–" if value is None else f"{value:.4f}" for value in (found.mean_iou, found.least_iou))
    return f"{found.kept} of {layers} layers left out: mean IoU {mean}, least {least}"


def _print_layers(errors: Sequence[LayerError]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("layer", "error", "of", "weights", box=None, pad_edge=False)
    for one in errors:
        table.add_row(one.layer, f"{one.error:.4f}", one.output, f"{one.weights:.1%}")
    Console(width=120, highlight=False, markup=False).print(table)
