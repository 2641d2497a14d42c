"""Tracking of one clip for a command: a progress bar, results into a folder, and what `run.json` says."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import typer

if TYPE_CHECKING:
    from trt_track.engines.bundle import Bundle
    from trt_track.runtime.prompts import Prompt
    from trt_track.runtime.results import FrameResult
    from trt_track.runtime.run_folder import RunFolder
    from trt_track.runtime.tracker import Video

DAMAGED: Final = 3
"""Exit code when the clip could not be read to its end: everything before is written."""
INTERRUPTED: Final = 130
"""Exit code after Ctrl-C, as shells use it."""


def warn(text: str) -> None:
    """Say on stderr what the user should know."""
    typer.echo(f"warning: {text}", err=True)


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
class RunRecord:
    """What `run.json` says."""

    settings: dict[str, Any]
    bundle: Bundle
    facts: dict[str, Any] = field(default_factory=dict)
    """More keys of the file."""
    started: float = field(default_factory=time.perf_counter)
    started_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def content(self, video: Video, frames: int, seconds: float) -> dict[str, Any]:
        """Return the whole file as JSON values; `seconds` is what tracking took."""
        from trt_track.engines.manifest import own_version

        info, manifest = video.info, self.bundle.manifest
        return {
            "trt_track": own_version(),
            "started_at": self.started_at,
            "settings": self.settings | {"prompts": [describe_prompt(prompt) for prompt in video.prompts]},
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
            **self.facts,
        }


@dataclass(frozen=True, slots=True)
class Passage:
    """How a clip is tracked."""

    max_frames: int | None
    """Frames at most."""
    draw: bool = True
    """Whether results carry the picture."""
    throughput: bool = False
    """Whether each result waits for the next frame to be asked for."""


class ClipRun:
    """Tracking with a progress bar, results into a folder."""

    def __init__(
        self, video: Video, folder: RunFolder, record: RunRecord, *, on_result: Callable[[FrameResult], None] = lambda _: None
    ) -> None:
        """Prepare; `on_result` is called with every result after it went to the folder, and its time is counted."""
        self.video, self.folder, self.record, self.on_result = video, folder, record, on_result
        self.frames = 0
        self.seconds = 0.0

    @property
    def rate(self) -> float:
        """Frames a second so far."""
        return self.frames / self.seconds if self.seconds else 0.0

    def track(self, how: Passage, *, reverse: bool = False) -> int:
        """Track what was prompted to the end and return the exit code."""
        results = self.video.propagate(reverse=reverse, max_frames=how.max_frames, keep_video=how.draw, throughput=how.throughput)
        return self.write(results, self._total(reverse, how.max_frames))

    def write(self, results: Generator[FrameResult, None, None], total: int) -> int:
        """Write results as they come, `total` of them, and return the exit code."""
        try:
            with self.folder:
                self._propagate(results, total)
        except KeyboardInterrupt:
            typer.echo(f"interrupted after {self.frames} frames: complete results up to there are in {self.folder.path}", err=True)
            return INTERRUPTED
        self.folder.finish(self.record.content(self.video, self.frames, self.seconds))
        return DAMAGED if self.video.damage else 0

    def warn_of_damage(self) -> None:
        """Say on stderr why the results end before the clip, if they do; meant to be the last line."""
        if self.video.damage:
            warn(f"{self.video.damage}: results end there")

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
                self.on_result(result)
                self.frames += 1
                self.seconds = time.perf_counter() - started
                advance(self.frames, total, f"{self.rate:.1f} frames a second")
        sys.stderr.flush()
