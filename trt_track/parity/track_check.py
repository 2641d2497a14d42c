"""Whole tracks against upstream's predictor, on the same frames, weights and prompts."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from trt_track.export.reference import Found, Track, track_upstream, upscale
from trt_track.parity.cases import Case
from trt_track.parity.measures import TrackDeviation, compare_tracks
from trt_track.runtime.frames import Frame, VideoInfo
from trt_track.runtime.tracker import Tracker, Video
from trt_track.runtime.video import open_video


@dataclass(frozen=True, slots=True)
class Clip:
    """The first frames of a clip, held in memory: what both runs see. It stands in for a `VideoSource`."""

    info: VideoInfo
    held: tuple[Frame, ...]
    damage: str | None = None

    def frames(
        self, *, size: int, reverse: bool = False, start: int | None = None, stop: int | None = None, keep_video: bool = False
    ) -> Generator[Frame, None, None]:
        """Yield frames as `VideoSource.frames` does; they were read at one size."""
        if any(frame.model_rgb_hwc.shape[0] != size or (keep_video and frame.video_rgb_hwc is None) for frame in self.held):
            raise ValueError("this clip was read for another model")
        last = len(self.held) - 1
        indexes = range(last if start is None else start, -1 if stop is None else stop, -1) if reverse else range(start or 0, last + 1)
        yield from (self.held[i] for i in (indexes if reverse or stop is None else range(start or 0, min(stop, last + 1))))

    def close(self) -> None:
        """Do nothing: there is no file."""


@dataclass(frozen=True, slots=True)
class TrackCheck:
    """What one case came to."""

    case: str
    rows: list[TrackDeviation]
    seconds: float
    """Of trt-track's run."""
    upstream_seconds: float


def read_clip(path: str | Path, *, size: int, frames: int) -> Clip:
    """Read the first frames of a clip.

    Raises:
        VideoError: the clip cannot be read.
    """
    with open_video(path) as source:
        held = tuple(source.frames(size=size, stop=frames))
        return Clip(replace(source.info, frame_count=len(held)), held)


def first_frames(clip: Clip, count: int) -> Clip:
    """Return a clip that ends after `count` frames."""
    held = clip.held[:count]
    return Clip(replace(clip.info, frame_count=len(held)), held)


def track(tracker: Tracker, clip: Clip, case: Case) -> Track:
    """Track a case with trt-track and return what it found of every object on every frame."""
    video = Video(tracker, clip)
    video.add_prompts(case.prompts)
    video_wh = (clip.info.width, clip.info.height)
    track: Track = {}
    for result in video.propagate(reverse=case.reverse, keep_logits=True):
        if result.logits is not None:
            unfilled = [upscale(torch.from_numpy(logits[None]), video_wh) for logits in result.logits]
            found = map(Found, result.logits, unfilled, result.masks.astype(bool))
            track[result.frame_index] = dict(zip(result.object_ids, found, strict=True))
    return track


def check_case(tracker: Tracker, predictor: nn.Module, clip: Clip, case: Case, *, precision: str) -> TrackCheck:
    """Track one case with both and compare every frame."""
    clip = first_frames(clip, case.frames)
    started = time.perf_counter()
    ours = track(tracker, clip, case)
    between = time.perf_counter()
    frames = [frame.model_rgb_hwc for frame in clip.held]
    video_wh = (clip.info.width, clip.info.height)
    theirs = track_upstream(predictor, frames, case.prompts, video_wh=video_wh, reverse=case.reverse)
    ended = time.perf_counter()
    rows = compare_tracks(case.name, ours, theirs, precision=precision)
    return TrackCheck(case.name, rows, between - started, ended - between)


def check_cases(  # noqa: PLR0913 - two trackers and what they are given
    tracker: Tracker,
    predictor: nn.Module,
    clip: Clip,
    cases: Sequence[Case],
    *,
    precision: str,
    on_case: Callable[[str], None] | None = None,
) -> list[TrackCheck]:
    """Check several cases; `on_case` is called with the name of each before it runs."""
    checks = []
    for case in cases:
        if on_case:
            on_case(case.name)
        checks.append(check_case(tracker, predictor, clip, case, precision=precision))
    return checks
