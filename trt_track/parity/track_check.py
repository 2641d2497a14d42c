"""Whole tracks against upstream's predictor, on the same frames, weights and prompts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from trt_track.export.reference import Found, Track, track_upstream, upscale
from trt_track.parity.cases import Case
from trt_track.parity.measures import TrackDeviation, compare_tracks
from trt_track.parity.thresholds import TrackLimits
from trt_track.runtime.held_clip import HeldClip
from trt_track.runtime.tracker import Tracker, Video


@dataclass(frozen=True, slots=True)
class TrackCheck:
    """What one case came to."""

    case: str
    rows: list[TrackDeviation]
    seconds: float
    """Of trt-track's run."""
    upstream_seconds: float


def track(tracker: Tracker, clip: HeldClip, case: Case) -> Track:
    """Track a case with trt-track and return what it found of every object on every frame."""
    video = Video(tracker, clip)
    video.add_prompts(case.prompts)
    video_wh = (clip.info.width, clip.info.height)
    track: Track = {}
    for result in video.propagate(reverse=case.reverse, keep_logits=True):
        if result.logits is not None and result.chosen is not None:
            unfilled = [upscale(torch.from_numpy(logits[None]), video_wh) for logits in result.logits]
            found = map(Found, result.logits, unfilled, result.masks.astype(bool), result.chosen.tolist())
            track[result.frame_index] = dict(zip(result.object_ids, found, strict=True))
    return track


def check_case(tracker: Tracker, predictor: nn.Module, clip: HeldClip, case: Case, *, limits: TrackLimits) -> TrackCheck:
    """Track one case with both and compare every frame."""
    clip = clip.first(case.frames)
    started = time.perf_counter()
    ours = track(tracker, clip, case)
    between = time.perf_counter()
    frames = [frame.model_rgb_hwc for frame in clip.held]
    video_wh = (clip.info.width, clip.info.height)
    theirs = track_upstream(predictor, frames, case.prompts, video_wh=video_wh, reverse=case.reverse)
    ended = time.perf_counter()
    rows = compare_tracks(case.name, ours, theirs, limits=limits)
    return TrackCheck(case.name, rows, between - started, ended - between)


def check_cases(  # noqa: PLR0913 - two trackers and what they are given
    tracker: Tracker,
    predictor: nn.Module,
    clip: HeldClip,
    cases: Sequence[Case],
    *,
    limits: TrackLimits,
    on_case: Callable[[str], None] | None = None,
) -> list[TrackCheck]:
    """Check several cases; `on_case` is called with the name of each before it runs."""
    checks = []
    for case in cases:
        if on_case:
            on_case(case.name)
        checks.append(check_case(tracker, predictor, clip, case, limits=limits))
    return checks
