"""`trt-track detect`: the first of two stages, boxes on some frames of a clip into `detections.jsonl`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trt_track.cli.clip_run import warn
from trt_track.cli.detector_choice import ChosenDetector, DetectorOptions

if TYPE_CHECKING:
    from trt_track.runtime.detection_stage import DetectionSchedule
    from trt_track.runtime.detections import DetectionFile, Detector
    from trt_track.runtime.video import VideoSource

Source = Annotated[Path, typer.Argument(metavar="SOURCE", help="A video file or a folder of JPEG or PNG frames.")]
Text = Annotated[str | None, typer.Option(help='What to find, a full stop after each thing: "person. red car."')]
DetectorFolder = Annotated[
    str | None,
    typer.Option("--detector", help="A detector's folder or name; default: the best Grounding DINO of the library. Of a YOLO: its folder."),
]
Classes = Annotated[str | None, typer.Option(help="Which classes of a YOLO, with commas between; default: all.")]
Every = Annotated[int | None, typer.Option("--detect-every", min=1, help="Look at every N-th frame; default: at the first one only.")]
Cuts = Annotated[bool, typer.Option("--scene-cuts", help="Look at the first frame of every scene too; this reads the clip once more.")]
BoxThreshold = Annotated[
    float | None, typer.Option(help="Least score of a box; default: what suits the detector, 0.35 for Grounding DINO, 0.25 for a YOLO.")
]
TextThreshold = Annotated[float | None, typer.Option(help="Least probability of a word to be among a box's words; default: 0.25.")]
MaxFrames = Annotated[int | None, typer.Option(min=1, help="Only frames before this one.")]
Out = Annotated[Path | None, typer.Option(help="The file; default: runs/ and the clip's name, .detections.jsonl.")]
Backend = Annotated[str, typer.Option(help="auto, tensorrt-rtx, tensorrt, onnxruntime-cuda or onnxruntime-cpu.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Cores for the CPU backend; default: all that this process may use.")]

Hardware = Annotated[
    bool,
    typer.Option("--hardware-decode", help="Decode a video file with the GPU's own decoder; what it does not take, the CPU decodes."),
]


def detect(  # noqa: PLR0913, PLR0917 - the command's options
    source: Source,
    text: Text = None,
    detector: DetectorFolder = None,
    classes: Classes = None,
    detect_every: Every = None,
    scene_cuts: Cuts = False,
    box_threshold: BoxThreshold = None,
    text_threshold: TextThreshold = None,
    max_frames: MaxFrames = None,
    out: Out = None,
    backend: Backend = "auto",
    threads: Threads = None,
    hardware_decode: Hardware = False,
) -> None:
    """Find what a text names, or what a YOLO knows, on some frames of a clip.

    The file says which clip and which detector made it; a finished one is not made again. `trt-track run --detections FILE` tracks it.
    """
    from trt_track.runtime.detection_stage import DetectionSchedule
    from trt_track.runtime.detections import check_replaceable
    from trt_track.runtime.output_file import output_errors
    from trt_track.runtime.video import open_video

    options = DetectorOptions(text, detector, classes, box_threshold, text_threshold)
    with open_video(source, hardware_decode=hardware_decode) as clip:
        path = out or default_detections(clip.info.name)
        check_replaceable(path)
        with output_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        chosen = options.choose((clip.info.width, clip.info.height))
        schedule = DetectionSchedule(detect_every, scene_cuts, max_frames)
        done, was_there = _detections(clip, chosen, schedule, path, lambda: chosen.open(backend, threads))
        damage = clip.damage
    boxes = sum(len(frame.found) for frame in done.frames)
    made = "were there already" if was_there else "found"
    typer.echo(f"{boxes} boxes on {len(done.frames)} frame{'s' if len(done.frames) != 1 else ''} {made}", err=True)
    typer.echo(path)
    if damage:
        warn(f"{damage}: detection ends there")


def _detections(
    clip: VideoSource, chosen: ChosenDetector, schedule: DetectionSchedule, path: Path, open_detector: Callable[[], Detector]
) -> tuple[DetectionFile, bool]:
    """Return what is found, and whether the file was there already: then the detector is loaded only where its description needs it."""
    from trt_track.cli.progress import progress_bar
    from trt_track.runtime.detection_stage import run_detection_stage, stage_header
    from trt_track.runtime.detections import finished_detections

    for line in chosen.advice((clip.info.width, clip.info.height)):
        warn(line)
    described = chosen.describe()
    if described is not None and (finished := finished_detections(path, stage_header(clip.info, schedule, described))):
        return finished, True
    with closing(open_detector()) as finder, progress_bar(f"{clip.info.name}: detect") as advance:
        return run_detection_stage(clip, finder, schedule, path, on_progress=advance)


def default_detections(clip: str) -> Path:
    """Return where the detections of a clip go."""
    return Path("runs") / f"{clip}.detections.jsonl"
