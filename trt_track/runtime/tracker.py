"""`Tracker` and `Video`: prompts in, one result a frame out. The public face of the runtime."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypedDict

import numpy as np

from trt_track.engines.session import Session
from trt_track.errors import BackendError, PromptError
from trt_track.runtime.bank import MemoryBank
from trt_track.runtime.frames import Frame, VideoInfo
from trt_track.runtime.prompts import Prompt, check_prompts, mask_to_model, merge_prompts, model_clicks
from trt_track.runtime.results import FrameResult
from trt_track.runtime.steps import Clicks, Outcome, Steps
from trt_track.runtime.video import open_video
from trt_track.specs import Limits, ModelSpec


class _FrameFacts(TypedDict):
    width: int
    height: int
    frame_count: int


class Source(Protocol):
    """A clip that can be read: `VideoSource`, or frames that a caller holds."""

    @property
    def info(self) -> VideoInfo:
        """What the clip is."""

    @property
    def damage(self) -> str | None:
        """Why the last reading ended early, or None."""

    def frames(
        self, *, size: int, reverse: bool = ..., start: int | None = ..., stop: int | None = ..., keep_video: bool = ...
    ) -> Generator[Frame, None, None]:
        """Yield frames in order; see `VideoSource.frames`."""

    def close(self) -> None:
        """Close the clip."""


class Tracker:
    """A model, compiled and loaded, that tracks objects through videos, one video at a time."""

    def __init__(self, session: Session, model: ModelSpec, *, max_objects: int | None = None) -> None:
        """Use a session that is open already; most users call `Tracker.open`.

        Args:
            session: what computes; the tracker closes it.
            model: what the loop must know of the model.
            max_objects: objects of one video at most, for which memory is set aside; by default what the engines were built for, else 16.

        Raises:
            BackendError: the engines were built for fewer objects.
        """
        built = session.max_objects
        if max_objects is not None and built is not None and max_objects > built:
            raise BackendError(
                f"the engines were built for {built} objects, not {max_objects}: run trt-track build with --max-objects {max_objects}"
            )
        self.session, self.model = session, model
        self.limits = Limits(objects=max_objects or built or Limits().objects)
        self._idle: dict[tuple[tuple[int, int], bool], list[Steps]] = {}

    @classmethod
    def open(cls, model: str | Path, *, backend: str = "auto", precision: str | None = None, **options: Any) -> Self:
        """Load a bundle.

        Args:
            model: a bundle's folder, or the name of a model that was exported into the user's cache.
            backend: `auto`, `onnxruntime-cpu`, `tensorrt-rtx` or `tensorrt`.
            precision: `fp32` or `fp16`, where `model` is a name; by default whichever the cache has, `fp32` first.
            **options: `max_objects` (16, or what the engines were built for), `threads` (CPU backends; all cores), `image_size`
                where `model` is a name.

        Raises:
            BundleError: no such bundle, or it is damaged.
            BackendError: the backend cannot be used here.
        """
        from trt_track.engines.backends import open_session
        from trt_track.engines.bundle import Bundle
        from trt_track.engines.library import find_bundle

        max_objects, threads = options.pop("max_objects", None), options.pop("threads", None)
        bundle = Bundle.open(find_bundle(model, precision=precision, **options))
        return cls(open_session(bundle, backend, threads=threads), bundle.model, max_objects=max_objects)

    def video(self, path: str | Path) -> Video:
        """Open a video file or a folder of frames.

        Raises:
            VideoError: it is missing, unreadable or empty.
        """
        return Video(self, open_video(path))

    @contextmanager
    def steps(self, video_wh: tuple[int, int], *, keep_logits: bool) -> Iterator[Steps]:
        """Lend the buffers of one pass over a video; a later pass over a video of the same size gets the same ones."""
        idle = self._idle.setdefault((video_wh, keep_logits), [])
        steps = idle.pop() if idle else Steps(self.session, self.model, self.limits, video_wh, keep_logits=keep_logits)
        try:
            yield steps
        finally:
            idle.append(steps)

    def close(self) -> None:
        """Free the model."""
        self._idle.clear()
        self.session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Video:
    """A clip and its prompts. `propagate` may be called again after more prompts, and starts afresh each time."""

    def __init__(self, tracker: Tracker, source: Source) -> None:
        """Use a source that is open already; `Tracker.video` opens one."""
        self.tracker, self.source = tracker, source
        self.info = source.info
        self._prompts: list[Prompt] = []
        self._running: _Propagation | None = None

    @property
    def damage(self) -> str | None:
        """Why the last `propagate` ended before the clip's last frame, or None."""
        return self.source.damage

    @property
    def prompts(self) -> list[Prompt]:
        """All prompts so far, those for one object on one frame as one."""
        return merge_prompts(self._prompts)

    def add(  # noqa: PLR0913 - a prompt is one of several things
        self,
        *,
        object_id: int,
        frame: int = 0,
        points: Sequence[Sequence[float]] | np.ndarray | None = None,
        labels: Sequence[int] | np.ndarray | None = None,
        box: Sequence[float] | np.ndarray | None = None,
        mask: np.ndarray | None = None,
    ) -> None:
        """Prompt an object on a frame, with clicks, a box, both, or a mask.

        The first prompt of an id starts the object on that frame; later ones correct it there, with the tracked mask as a prompt beside the
        clicks. While `propagate` runs, a prompt for the frame that it just yielded makes it yield that frame once more.

        Args:
            object_id: 1 or more.
            frame: number of the frame, from 0.
            points: (K, 2) x and y in pixels of the video.
            labels: (K,) 1 inside the object, 0 outside; all 1 by default.
            box: x0, y0, x1, y1 in pixels of the video.
            mask: (H, W), nonzero inside the object.

        Raises:
            PromptError: the prompt makes no sense for this video; nothing was added.
        """
        xy = np.zeros((0, 2), np.float32) if points is None else np.asarray(points, np.float32).reshape(-1, 2)
        marks = np.ones(len(xy), np.int32) if labels is None else np.asarray(labels, np.int32).reshape(-1)
        corners = None if box is None else np.asarray(box, np.float32).reshape(-1)
        self.add_prompts([Prompt(frame, object_id, xy, marks, corners, None if mask is None else np.asarray(mask) != 0, remove=False)])

    def remove(self, *, object_id: int, frame: int) -> None:
        """Stop tracking an object: it is in no result from `frame` on.

        Raises:
            PromptError: no such object, or it starts later.
        """
        nothing = np.zeros((0, 2), np.float32)
        self.add_prompts([Prompt(frame, object_id, nothing, np.zeros(0, np.int32), None, None, remove=True)])

    def add_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Add prompts that were read from a file or the command line.

        Raises:
            PromptError: one makes no sense for this video; none was added.
        """
        together = [*self._prompts, *prompts]
        check_prompts(together, **self._frame_facts(), reverse=self._running.reverse if self._running else None)
        if self._running is not None:
            self._check_count(together, reverse=self._running.reverse)
            self._running.accept(prompts)
        self._prompts = together

    def _check_count(self, prompts: Sequence[Prompt], *, reverse: bool) -> None:
        """Refuse prompts that would have more objects on one frame than the tracker holds memory for."""
        most = self.tracker.limits.objects
        active: set[int] = set()
        for prompt in sorted(merge_prompts(prompts), key=lambda prompt: _turn(prompt, reverse=reverse)):
            active = active - {prompt.object_id} if prompt.remove else active | {prompt.object_id}
            if len(active) > most:
                raise PromptError(f"frame {prompt.frame}: more than {most} objects at once: raise --max-objects (max_objects in Python)")

    def _frame_facts(self) -> _FrameFacts:
        return {"width": self.info.width, "height": self.info.height, "frame_count": self.info.frame_count}

    def propagate(
        self, *, reverse: bool = False, max_frames: int | None = None, keep_video: bool = False, keep_logits: bool = False
    ) -> Generator[FrameResult, None, None]:
        """Track all objects from the first prompted frame on, or with `reverse` from the last prompted one back.

        Args:
            reverse: towards the start of the clip.
            max_frames: results to yield at most.
            keep_video: whether results carry the frame itself, for drawing.
            keep_logits: whether results carry the low-resolution mask logits.

        Yields:
            One result a frame, in order; its arrays are the caller's.

        Raises:
            PromptError: there is no prompt, or the prompts contradict each other.
            VideoError: the clip can be read no more; a clip that merely ends early ends the iteration and sets `damage`.
        """
        check_prompts(self.prompts, **self._frame_facts(), reverse=reverse)
        self._check_count(self.prompts, reverse=reverse)
        with self.tracker.steps((self.info.width, self.info.height), keep_logits=keep_logits) as steps:
            running = self._running = _Propagation(self, steps, reverse=reverse)
            try:
                yield from running.run(max_frames, keep_video=keep_video)
            finally:
                if self._running is running:
                    self._running = None

    def close(self) -> None:
        """Close the clip."""
        self.source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class _Propagation:
    """One pass over the clip: the objects that are tracked now, and the prompts that are due."""

    def __init__(self, video: Video, steps: Steps, *, reverse: bool) -> None:
        self.video, self.steps, self.reverse = video, steps, reverse
        tracker, info = video.tracker, video.info
        self.size, self.mask_size = tracker.model.image_size, tracker.model.mask_size
        self.bank = MemoryBank(tracker.model, tracker.limits, info.frame_count, reverse=reverse)
        self.active: list[int] = []
        self.started: dict[int, int] = {}
        self.frame: int | None = None
        self.late: list[Prompt] = []
        self.schedule = _by_frame(video.prompts)

    def accept(self, prompts: Sequence[Prompt]) -> None:
        """Take prompts in while the pass runs.

        Raises:
            PromptError: one is for a frame that lies behind.
        """
        for prompt in prompts:
            if self.frame is not None and (prompt.frame > self.frame if self.reverse else prompt.frame < self.frame):
                raise PromptError(
                    f"frame {prompt.frame} lies behind: the pass is at frame {self.frame}; "
                    "prompt this frame or one ahead, or call propagate again to start afresh"
                )
        self.late.extend(prompts)

    def run(self, max_frames: int | None, *, keep_video: bool) -> Generator[FrameResult, None, None]:
        """Yield a result per frame."""
        prompted = [prompt.frame for prompt in self.video.prompts if not prompt.remove]
        start = max(prompted) if self.reverse else min(prompted)
        stop = self._stop(start, max_frames)
        frames = self.video.source.frames(size=self.size, reverse=self.reverse, start=start, stop=stop, keep_video=keep_video)
        with closing(frames):
            for frame in frames:
                self.frame = frame.index
                self.steps.encode(frame.model_rgb_hwc)
                outcomes = self._track(frame.index, self.schedule.get(frame.index, []))
                yield self._result(frame, outcomes)
                while again := self._late(frame.index):
                    outcomes.update(self._prompt(frame.index, again))
                    yield self._result(frame, outcomes)

    def _stop(self, start: int, max_frames: int | None) -> int | None:
        """Return the frame before which to stop, in the direction of travel."""
        if max_frames is None:
            return None
        stop = start - max_frames if self.reverse else start + max_frames
        return stop if 0 <= stop < self.video.info.frame_count else None

    def _late(self, frame: int) -> list[Prompt]:
        """Sort in the prompts that came since the last result; return those for this frame, joined with what was asked there before."""
        if not self.late:
            return []
        now = {prompt.object_id for prompt in self.late if prompt.frame == frame}
        self.late.clear()
        self.schedule = _by_frame(self.video.prompts)
        return [prompt for prompt in self.schedule.get(frame, []) if prompt.object_id in now]

    def _track(self, frame: int, due: list[Prompt]) -> dict[int, Outcome]:
        """Track what has no prompt on this frame, start or correct what has one."""
        prompted = {prompt.object_id for prompt in due}
        outcomes = self.steps.follow([object_id for object_id in self.active if object_id not in prompted], frame, self.bank)
        outcomes.update(self._prompt(frame, due))
        return outcomes

    def _prompt(self, frame: int, prompts: list[Prompt]) -> dict[int, Outcome]:
        outcomes = {}
        for prompt in prompts:
            if prompt.remove:
                self._remove(prompt.object_id)
            elif self.started.get(prompt.object_id, frame) == frame:
                outcomes[prompt.object_id] = self._start(frame, prompt)
            else:
                outcomes[prompt.object_id] = self.steps.correct(prompt.object_id, frame, self.bank, self._asked(prompt))
        return outcomes

    def _start(self, frame: int, prompt: Prompt) -> Outcome:
        if prompt.object_id not in self.started:
            self.started[prompt.object_id] = frame
            self.active.append(prompt.object_id)
        return self.steps.start(prompt.object_id, frame, self.bank, self._asked(prompt))

    def _remove(self, object_id: int) -> None:
        if object_id in self.active:
            self.active.remove(object_id)
            self.bank.forget(object_id)

    def _asked(self, prompt: Prompt) -> Clicks | np.ndarray:
        """Bring a prompt into the model's frame."""
        if prompt.mask is not None:
            return mask_to_model(prompt.mask, self.size)
        return Clicks(*model_clicks(prompt, width=self.video.info.width, height=self.video.info.height, size=self.size))

    def _result(self, frame: Frame, outcomes: dict[int, Outcome]) -> FrameResult:
        found = [outcomes[object_id] for object_id in self.active]
        logits = [outcome.logits for outcome in found if outcome.logits is not None]
        return FrameResult(
            frame_index=frame.index,
            time_s=frame.time_s,
            object_ids=tuple(self.active),
            masks=_joined([outcome.mask_hw for outcome in found], (self.video.info.height, self.video.info.width), "bool"),
            ious=np.array([outcome.iou for outcome in found], np.float32),
            presence=np.array([outcome.presence for outcome in found], np.float32),
            logits=_joined(logits, (1, self.mask_size, self.mask_size), "float32") if self.steps.keep_logits else None,
            video_rgb_hwc=frame.video_rgb_hwc,
        )


def _joined(rows: list[np.ndarray], shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Put rows of `shape` into one array; if they are all rows of one array, in its order, it is that array and nothing is copied."""
    if not rows:
        return np.zeros((0, *shape), dtype)
    whole = rows[0].base
    step = rows[0].nbytes
    if whole is not None and whole.shape == (len(rows), *shape):
        first = whole.ctypes.data
        if all(row.base is whole and row.ctypes.data == first + i * step for i, row in enumerate(rows)):
            return whole
    return np.stack(rows)


def _turn(prompt: Prompt, *, reverse: bool) -> tuple[int, bool]:
    """Order prompts as the pass meets them; on one frame removals come first, so that they make room."""
    return -prompt.frame if reverse else prompt.frame, not prompt.remove


def _by_frame(prompts: Sequence[Prompt]) -> dict[int, list[Prompt]]:
    schedule: dict[int, list[Prompt]] = {}
    for prompt in sorted(prompts, key=lambda prompt: not prompt.remove):
        schedule.setdefault(prompt.frame, []).append(prompt)
    return schedule
