"""`trt-track run`: a clip and prompts in, an overlay video, masks and a line of JSON a frame out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trt_track.cli import detect_command as detection
from trt_track.cli.clip_run import INTERRUPTED, ClipRun, Passage, RunRecord
from trt_track.cli.detected_run import DetectedRun, told
from trt_track.cli.detector_choice import DetectorOptions
from trt_track.cli.model_choice import ModelOptions
from trt_track.errors import OutputError, PromptError

if TYPE_CHECKING:
    from trt_track.engines.bundle import Bundle
    from trt_track.runtime.prompts import Prompt

Source = Annotated[Path, typer.Argument(metavar="SOURCE", help="A video file or a folder of JPEG or PNG frames.")]
BundleFolder = Annotated[Path | None, typer.Option("--bundle", help="A bundle's folder, as `trt-track export` makes it.")]
Model = Annotated[str | None, typer.Option(help="A model of the library, by name, or pico; default: the best that is there.")]
Size = Annotated[int | None, typer.Option(help="Which size of --model, where the library has several.")]
Precision = Annotated[str | None, typer.Option(help="Which precision of --model: fp32, fp16, bf16, int8, or the name of a recipe.")]
Box = Annotated[
    list[str] | None,
    typer.Option(metavar="[FRAME@]ID:X0,Y0,X1,Y1", help="Prompt an object with a box, in pixels of the video; repeatable."),
]
Point = Annotated[
    list[str] | None, typer.Option(metavar="[FRAME@]ID:X,Y[,0|1]", help="Prompt with a click, 0 for outside the object; repeatable.")
]
Mask = Annotated[list[str] | None, typer.Option(metavar="[FRAME@]ID:FILE.png", help="Prompt with a mask of the video's size; repeatable.")]
PromptFile = Annotated[Path | None, typer.Option("--prompts", help="Prompts, and removals, from a JSON file.")]
Detections = Annotated[Path | None, typer.Option(help="Track what `trt-track detect` found, from its file.")]
MaxLost = Annotated[
    int | None, typer.Option(min=1, help="Frames in a row that a detected object is looked for when it is not seen; default: 30.")
]
LookBack = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Frames before the one on which an object is found through which it is followed back, as it may have come since the detector "
        "last looked. So many are held in memory, with their masks, and results come so much later; 0 for none. Default: twice "
        "--detect-every, 40 at most.",
    ),
]
Out = Annotated[Path | None, typer.Option(help="Folder of the results; default: runs/ and the clip's name.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a finished run.")]
Save = Annotated[str, typer.Option(help="What to write: any of video, jsonl, png, with commas between.")]
Reverse = Annotated[bool, typer.Option("--reverse", help="Track from the last prompted frame back to the start of the clip.")]
MaxFrames = Annotated[int | None, typer.Option(min=1, help="Stop after this many frames.")]
MaxObjects = Annotated[
    int | None, typer.Option(min=1, max=64, help="Objects at once at most; default: 16, or what the engines were built for.")
]
MaxConditioning = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Conditioning frames that each object keeps in memory, the nearest ones: prompted frames, and those on which a detection "
        "confirmed it. Default: 4, the most there are.",
    ),
]
Throughput = Annotated[
    bool | None,
    typer.Option(
        "--throughput/--latency",
        help="Write each result when the next frame has been asked for, so that a GPU is never idle, or as soon as it is there. "
        "Default: --throughput on a GPU; the results are the same.",
    ),
]
Backend = Annotated[str, typer.Option(help="auto, tensorrt-rtx, tensorrt, onnxruntime-cuda or onnxruntime-cpu.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Cores for the CPU backend; default: all that this process may use.")]


def run(  # noqa: PLR0913, PLR0917 - the command's options
    source: Source,
    bundle: BundleFolder = None,
    model: Model = None,
    size: Size = None,
    precision: Precision = None,
    box: Box = None,
    point: Point = None,
    mask: Mask = None,
    prompts: PromptFile = None,
    text: detection.Text = None,
    detector: detection.DetectorFolder = None,
    classes: detection.Classes = None,
    detect_every: detection.Every = None,
    scene_cuts: detection.Cuts = False,
    box_threshold: detection.BoxThreshold = None,
    text_threshold: detection.TextThreshold = None,
    detections: Detections = None,
    max_lost: MaxLost = None,
    look_back: LookBack = None,
    out: Out = None,
    overwrite: Overwrite = False,
    save: Save = "video,jsonl,png",
    reverse: Reverse = False,
    max_frames: MaxFrames = None,
    max_objects: MaxObjects = None,
    max_conditioning: MaxConditioning = None,
    throughput: Throughput = None,
    backend: Backend = "auto",
    threads: Threads = None,
    hardware_decode: detection.Hardware = False,
) -> None:
    """Track objects through a clip: prompted ones, or what a text names.

    An object starts on the frame of its first prompt; a later prompt of the same id corrects it there. With --text or --detector the
    objects are found first, in a process of its own, then tracked, each under one id. Results are written as they come.
    """
    from trt_track.engines.backends import AUTO, CPU
    from trt_track.runtime.mask_images import check_ids
    from trt_track.runtime.prompts import check_prompts, merge_prompts
    from trt_track.runtime.run_folder import RunFolder
    from trt_track.runtime.tracker import Tracker, Video
    from trt_track.runtime.video import open_video

    asked_model = ModelOptions(bundle, model, size, precision)
    asked_model.check()
    finding = DetectedRun(
        DetectorOptions(text, detector, classes, box_threshold, text_threshold), detections, detect_every, scene_cuts, max_lost, look_back
    )
    finding.check((box, point, mask, prompts), reverse=reverse)
    kinds = {kind.strip() for kind in save.split(",") if kind.strip()}
    if not kinds:
        raise OutputError("--save names nothing to write: choose from video, jsonl, png")
    with ExitStack() as stack:
        clip = stack.enter_context(open_video(source, hardware_decode=hardware_decode))
        asked = [] if finding.asked else list(read_all_prompts(box, point, mask, prompts))
        if not finding.asked:
            check_prompts(
                merge_prompts(asked), width=clip.info.width, height=clip.info.height, frame_count=clip.info.frame_count, reverse=reverse
            )
        folder = RunFolder(out or Path("runs") / clip.info.name, frame_rate=clip.info.frame_rate, save=kinds, overwrite=overwrite)
        if "png" in kinds:
            check_ids(prompt.object_id for prompt in asked)
        found = finding.found_before(clip.info)
        detects = finding.asked and found is None
        if detects:
            asked_model.check_there()
        chosen = None if detects and backend in {AUTO, CPU} else choose_tracker(asked_model, backend)
        if detects:
            more = {"--backend": backend, "--threads": threads, "--max-frames": max_frames, "--hardware-decode": hardware_decode}
            found = finding.first_stage(source, folder.path, more)
        opened, name = chosen or choose_tracker(asked_model, backend)
        tracker = stack.enter_context(Tracker.of_bundle(opened, name, threads, max_objects=max_objects, max_conditioning=max_conditioning))
        session = tracker.session
        video = Video(tracker, clip)
        if asked:
            video.add_prompts(asked)
        settings = {
            "source": str(source),
            "hardware_decode": clip.hardware_decode,
            "reverse": reverse,
            "max_frames": max_frames,
            "save": sorted(kinds),
        }
        settings |= {"max_objects": tracker.limits.objects, "max_conditioning": tracker.max_conditioning}
        how = Passage(max_frames, draw="video" in kinds, throughput=session.overlaps if throughput is None else throughput)
        settings |= {"batch_times": tracker.batch_times and tracker.batch_times.to_json()["milliseconds"]}
        settings |= {"throughput": how.throughput, "backend": name, "backend_version": session.version, "device": session.device}
        tracking = ClipRun(video, folder, RunRecord(settings, opened))
        code = tracking.track(how, reverse=reverse) if found is None else finding.track(tracking, found, how)
    if code != INTERRUPTED:
        typer.echo(f"{tracking.frames} frames{f', {tracking.rate:.1f} frames a second' if tracking.rate else ''}", err=True)
        if found is not None:
            typer.echo(told(tracking.record.facts), err=True)
        typer.echo(folder.path)
        tracking.warn_of_damage()
    raise typer.Exit(code)


def choose_tracker(asked: ModelOptions, backend: str) -> tuple[Bundle, str]:
    """Return the bundle to track with and the backend to run it, and say which and why; no weights are loaded.

    This loads the libraries of all backends and starts CUDA, where there is a GPU: what detection does in a process of its own has less
    memory then, so that it comes first where the backend cannot turn out to be missing.

    Raises:
        BundleError: there is no such bundle.
        BackendError: the backend is unknown or cannot be used.
    """
    from trt_track.engines.backends import choose_backend, inspect_machine

    machine = inspect_machine()
    opened = asked.open(backend, machine)
    name, why = choose_backend(backend, opened, machine)
    typer.echo(f"backend: {why}", err=True)
    return opened, name


def read_all_prompts(box: list[str] | None, point: list[str] | None, mask: list[str] | None, file: Path | None) -> Iterator[Prompt]:
    """Read every prompt of the command line, and those of the file.

    Raises:
        PromptError: one cannot be read, or there is none.
    """
    from trt_track.runtime.prompts import parse_box, parse_mask, parse_point, read_prompts

    if not (box or point or mask or file):
        raise PromptError(
            "nothing to track: prompt with --box ID:X0,Y0,X1,Y1, --point ID:X,Y, --mask ID:FILE.png, --prompts FILE.json or --text"
        )
    yield from (parse_box(text) for text in box or [])
    yield from (parse_point(text) for text in point or [])
    yield from (parse_mask(text) for text in mask or [])
    if file is not None:
        yield from read_prompts(file)
