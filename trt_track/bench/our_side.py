"""One run of trt-track: a pass whose speed and memory count, then one whose stages are timed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, cast

import numpy as np

from trt_track.bench.looped_clip import LoopedClip
from trt_track.bench.memory_series import MemorySeries, UsedBytes, device_meter, nothing_used
from trt_track.bench.order import CUDA, RunOrder
from trt_track.bench.prompts import box_prompts
from trt_track.bench.run_log import RunLog
from trt_track.bench.timed_session import StageClock, TimedSession, TimedSource
from trt_track.bench.worker import Send
from trt_track.engines.backends import open_chosen
from trt_track.engines.batch_times import find_batch_times
from trt_track.engines.bundle import Bundle
from trt_track.engines.session import Session
from trt_track.runtime.tracker import Source, Tracker, Video

if TYPE_CHECKING:
    from trt_track.runtime.results import FrameResult

STAGED_FRAMES: Final = 40
"""Frames that the timing of the stages takes after the skipped ones, at most."""


def track_ours(order: RunOrder, send: Send) -> None:
    """Track the clip as `trt-track run` does, decoded by a thread meanwhile, and send "run"; then track again and send "stages"."""
    settings = order.settings
    bundle = Bundle.open(settings.bundle)
    with device_meter(nothing_used) as used:
        before = used() or 0
        tracker = Tracker.of_bundle(bundle, settings.backend, settings.threads, max_objects=order.objects)
        session = tracker.session
        meter = _meter(session, used) if settings.device == CUDA else nothing_used
        with tracker, LoopedClip(settings.clip, settings.frames) as source:
            _warm_up(tracker, order)
            log = RunLog(order, MemorySeries(meter, before), send)
            log.follow(result.masks for result in _results(tracker, source, order, settings.frames))
            facts = {"backend": session.backend, "backend_version": session.version, "device": session.device}
            send("run", log.figures() | facts)
    send("stages", _stages(bundle, order))


def _results(tracker: Tracker, source: Source, order: RunOrder, frames: int) -> Iterator[FrameResult]:
    video = Video(tracker, source)
    video.add_prompts(box_prompts(order.objects, width=video.info.width, height=video.info.height))
    return video.propagate(max_frames=frames, throughput=tracker.session.overlaps)


def _warm_up(tracker: Tracker, order: RunOrder) -> None:
    """Track the clip, as often as it takes, until whatever comes up again and again is prepared."""
    session, settings = tracker.session, order.settings
    frames = settings.warm_up(order.side, (session.max_frames or 1) if session.overlaps else 1)
    with LoopedClip(settings.clip, max(frames, settings.frames)) as source:
        for _ in _results(tracker, source, order, frames):
            pass


def _meter(session: Session, used: UsedBytes) -> UsedBytes:
    """Return what tells the memory in use: the driver's library, or what the session knows of the device."""
    if used is not nothing_used:
        return used

    def held() -> int | None:
        state = session.memory()
        return None if state is None else state.held

    return held


def _stages(bundle: Bundle, order: RunOrder) -> list[dict[str, float]]:
    """Track with a session that times every graph; return seconds of each stage, frame by frame."""
    settings, clock = order.settings, StageClock()
    frames = min(settings.frames, settings.skip + STAGED_FRAMES)
    session = cast("Session", TimedSession(open_chosen(bundle, settings.backend, settings.threads), clock))
    times = find_batch_times(bundle.folder, session)
    with (
        Tracker(session, bundle.model, max_objects=order.objects, batch_times=times) as tracker,
        LoopedClip(settings.clip, settings.frames) as source,
    ):
        _warm_up(tracker, order)
        results = _results(tracker, cast("Source", TimedSource(source, clock)), order, frames)
        clock.restart()
        for result in results:
            np.packbits(result.masks.reshape(-1))
            clock.end_frame()
    return [{stage: round(seconds, 7) for stage, seconds in frame.items()} for frame in clock.frames]
