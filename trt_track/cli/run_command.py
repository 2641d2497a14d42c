"""`trt-track run`: a clip and prompts in, an overlay video, masks and a line of JSON a frame out."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trt_track.errors import BundleError, OutputError, PromptError

if TYPE_CHECKING:
    from trt_track.engines.bundle import Bundle
    from trt_track.runtime.prompts import Prompt
    from trt_track.runtime.results import FrameResult
    from trt_track.runtime.run_folder import RunFolder
    from trt_track.runtime.tracker import Video

Source = Annotated[Path, typer.Argument(metavar="SOURCE", help="A video file or a folder of JPEG or PNG frames.")]
BundleFolder = Annotated[Path | None, typer.Option("--bundle", help="A bundle's folder, as `trt-track export` makes it.")]
Model = Annotated[str | None, typer.Option(help="A model that was exported into the library, by name.")]
Size = Annotated[int | None, typer.Option(help="Which size of --model, where the library has several.")]
Precision = Annotated[str | None, typer.Option(help="Which precision of --model: fp32 or fp16.")]
Box = Annotated[
    list[str] | None,
    typer.Option(metavar="[FRAME@]ID:X0,Y0,X1,Y1", help="Prompt an object with a box, in pixels of the video; repeatable."),
]
Point = Annotated[
    list[str] | None, typer.Option(metavar="[FRAME@]ID:X,Y[,0|1]", help="Prompt with a click, 0 for outside the object; repeatable.")
]
Mask = Annotated[list[str] | None, typer.Option(metavar="[FRAME@]ID:FILE.png", help="Prompt with a mask of the video's size; repeatable.")]
PromptFile = Annotated[Path | None, typer.Option("--prompts", help="Prompts, and removals, from a JSON file.")]
Out = Annotated[Path | None, typer.Option(help="Folder of the results; default: runs/ and the clip's name.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a finished run.")]
Save = Annotated[str, typer.Option(help="What to write: any of video, jsonl, png, with commas between.")]
Reverse = Annotated[bool, typer.Option("--reverse", help="Track from the last prompted frame back to the start of the clip.")]
MaxFrames = Annotated[int | None, typer.Option(min=1, help="Stop after this many frames.")]
MaxObjects = Annotated[
    int | None, typer.Option(min=1, max=64, help="Objects at once at most; default: 16, or what the engines were built for.")
]
Backend = Annotated[str, typer.Option(help="auto, onnxruntime-cpu, tensorrt-rtx or tensorrt.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Cores for the CPU backend; default: all that this process may use.")]

DAMAGED = 3
"""Exit code when the clip could not be read to its end: everything before is written."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells use it."""


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
    out: Out = None,
    overwrite: Overwrite = False,
    save: Save = "video,jsonl,png",
    reverse: Reverse = False,
    max_frames: MaxFrames = None,
    max_objects: MaxObjects = None,
    backend: Backend = "auto",
    threads: Threads = None,
) -> None:
    """Track the prompted objects through a clip.

    An object starts on the frame of its first prompt; a later prompt of the same id corrects it there. Results are written as they come.
    """
    from trt_track.engines.backends import choose_backend, open_chosen
    from trt_track.engines.bundle import Bundle
    from trt_track.engines.library import find_bundle
    from trt_track.runtime.mask_images import check_ids
    from trt_track.runtime.prompts import check_prompts, merge_prompts
    from trt_track.runtime.run_folder import RunFolder
    from trt_track.runtime.tracker import Tracker, Video
    from trt_track.runtime.video import open_video

    if (bundle is None) == (model is None):
        raise BundleError("name the model: either --bundle FOLDER or --model NAME (see trt-track models list and trt-track export)")
    kinds = {kind.strip() for kind in save.split(",") if kind.strip()}
    if not kinds:
        raise OutputError("--save names nothing to write: choose from video, jsonl, png")
    with ExitStack() as stack:
        clip = stack.enter_context(open_video(source))
        asked = list(read_all_prompts(box, point, mask, prompts))
        check_prompts(
            merge_prompts(asked), width=clip.info.width, height=clip.info.height, frame_count=clip.info.frame_count, reverse=reverse
        )
        folder = RunFolder(out or Path("runs") / clip.info.name, frame_rate=clip.info.frame_rate, save=kinds, overwrite=overwrite)
        if "png" in kinds:
            check_ids(prompt.object_id for prompt in asked)
        opened = Bundle.open(bundle if bundle is not None else find_bundle(str(model), image_size=size, precision=precision))
        name, why = choose_backend(backend, opened)
        typer.echo(f"backend: {why}", err=True)
        tracker = stack.enter_context(Tracker(open_chosen(opened, name, threads), opened.model, max_objects=max_objects))
        video = Video(tracker, clip)
        video.add_prompts(asked)
        settings = {"source": str(source), "reverse": reverse, "max_frames": max_frames, "save": sorted(kinds)}
        settings |= {"max_objects": tracker.limits.objects, "backend": name}
        record = _RunRecord({**settings, "prompts": [describe_prompt(prompt) for prompt in video.prompts]}, opened)
        code = _Run(video, folder, record).track(reverse=reverse, max_frames=max_frames, draw="video" in kinds)
    raise typer.Exit(code)


def read_all_prompts(box: list[str] | None, point: list[str] | None, mask: list[str] | None, file: Path | None) -> Iterator[Prompt]:
    """Read every prompt of the command line, and those of the file.

    Raises:
        PromptError: one cannot be read, or there is none.
    """
    from trt_track.runtime.prompts import parse_box, parse_mask, parse_point, read_prompts

    if not (box or point or mask or file):
        raise PromptError("nothing to track: prompt with --box ID:X0,Y0,X1,Y1, --point ID:X,Y, --mask ID:FILE.png or --prompts FILE.json")
    yield from (parse_box(text) for text in box or [])
    yield from (parse_point(text) for text in point or [])
    yield from (parse_mask(text) for text in mask or [])
    if file is not None:
        yield from read_prompts(file)


def describe_prompt(prompt: Prompt) -> dict[str, Any]:
    """Return a prompt as JSON values, the way that a prompt file states it; of a mask its size in pixels."""
    told: dict[str, Any] = {"frame": prompt.frame, "object": prompt.object_id}
    if prompt.remove:
        told["remove"] = True
    if prompt.box_xyxy_px is not None:
        told["box"] = prompt.box_xyxy_px.tolist()
    if len(prompt.labels):
        told |= {"points": prompt.points_xy_px.tolist(), "labels": prompt.labels.tolist()}
    if prompt.mask is not None:
        told["mask_pixels"] = int(prompt.mask.sum())
    return told


@dataclass
class _RunRecord:
    """What `run.json` says."""

    settings: dict[str, Any]
    bundle: Bundle
    started: float = field(default_factory=time.perf_counter)
    started_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def content(self, video: Video, frames: int, seconds: float) -> dict[str, Any]:
        from trt_track.engines.manifest import own_version

        info, manifest = video.info, self.bundle.manifest
        return {
            "trt_track": own_version(),
            "started_at": self.started_at,
            "settings": self.settings,
            "clip": {
                "width": info.width,
                "height": info.height,
                "frames": info.frame_count,
                "frame_rate": float(info.frame_rate),
                "rotation_deg": info.rotation_deg,
                "damage": video.damage,
            },
            "bundle": {
                "folder": str(self.bundle.folder),
                **manifest.description.to_json(),
                "sha256": {name: record.onnx.sha256 for name, record in manifest.graphs.items()},
            },
            "timings": {
                "frames": frames,
                "tracking_s": round(seconds, 3),
                "frames_per_second": round(frames / seconds, 3) if seconds else None,
                "total_s": round(time.perf_counter() - self.started, 3),
            },
        }


class _Run:
    """Tracking with a progress bar, results into a folder."""

    def __init__(self, video: Video, folder: RunFolder, record: _RunRecord) -> None:
        self.video, self.folder, self.record = video, folder, record
        self.frames = 0
        self.seconds = 0.0

    def track(self, *, reverse: bool, max_frames: int | None, draw: bool) -> int:
        """Track to the end and return the exit code."""
        try:
            with self.folder:
                self._propagate(
                    self.video.propagate(reverse=reverse, max_frames=max_frames, keep_video=draw), self._total(reverse, max_frames)
                )
        except KeyboardInterrupt:
            typer.echo(f"interrupted after {self.frames} frames: complete results up to there are in {self.folder.path}", err=True)
            return INTERRUPTED
        self.folder.finish(self.record.content(self.video, self.frames, self.seconds))
        rate = f"{self.frames / self.seconds:.1f} frames a second" if self.seconds else ""
        typer.echo(f"{self.frames} frames, {rate}", err=True)
        typer.echo(self.folder.path)
        if self.video.damage:
            typer.echo(f"warning: {self.video.damage}: results end there", err=True)
            return DAMAGED
        return 0

    def _total(self, reverse: bool, max_frames: int | None) -> int:
        """Return how many frames there are to track."""
        prompted = [prompt.frame for prompt in self.video.prompts if not prompt.remove]
        ahead = max(prompted) + 1 if reverse else self.video.info.frame_count - min(prompted)
        return ahead if max_frames is None else min(ahead, max_frames)

    def _propagate(self, results: Generator[FrameResult, None, None], total: int) -> None:
        from trt_track.cli.progress import progress_bar

        with closing(results), progress_bar(self.video.info.name) as advance:
            started = time.perf_counter()
            for result in results:
                self.folder.write(result)
                self.frames += 1
                self.seconds = time.perf_counter() - started
                advance(self.frames, total, f"{self.frames / self.seconds:.1f} frames a second")
        sys.stderr.flush()
