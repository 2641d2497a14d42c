"""`Tracker` and `Video`: prompts in, one result a frame out. The public face of the runtime."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypedDict

import numpy as np

from trt_track.engines.batch_times import BatchTimes, find_batch_times
from trt_track.engines.session import Session
from trt_track.errors import BackendError, PromptError, VideoError
from trt_track.runtime.bank import conditioning_limits, most_conditioning
from trt_track.runtime.frames import Frame, VideoInfo
from trt_track.runtime.prompts import Prompt, check_prompts, merge_prompts
from trt_track.runtime.propagation import Propagation
from trt_track.runtime.results import FrameResult
from trt_track.runtime.schedule import Schedule
from trt_track.runtime.steps import Steps
from trt_track.runtime.video import open_video
from trt_track.specs import Limits, ModelSpec

if TYPE_CHECKING:
    from trt_track.engines.bundle import Bundle


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

    def frames(  # noqa: PLR0913 - which frames, and how
        self,
        *,
        size: int,
        reverse: bool = ...,
        start: int | None = ...,
        stop: int | None = ...,
        only: Collection[int] | None = ...,
        keep_video: bool = ...,
    ) -> Generator[Frame, None, None]:
        """Yield frames in order; see `VideoSource.frames`."""

    def close(self) -> None:
        """Close the clip."""


class Tracker:
    """A model, compiled and loaded, that tracks objects through videos, one video at a time."""

    def __init__(
        self,
        session: Session,
        model: ModelSpec,
        *,
        max_objects: int | None = None,
        max_conditioning: int | None = None,
        batch_times: BatchTimes | None = None,
    ) -> None:
        """Use a session that is open already; most users call `Tracker.open`.

        Args:
            session: what computes; the tracker closes it.
            model: what the loop must know of the model.
            max_objects: objects of one video at most, for which memory is set aside; by default what the engines were built for, else 16.
            max_conditioning: prompted frames that an object keeps in memory, the nearest ones; by default all that there is room for, 4 of
                the published models (upstream's `max_cond_frames_in_attn`).
            batch_times: which batches of objects are the quickest; by default they are as large as they can be.

        Raises:
            BackendError: the engines were built for fewer objects.
            ModelError: there is no room for so many prompted frames.
        """
        built = session.max_objects
        if max_objects is not None and built is not None and max_objects > built:
            raise BackendError(
                f"the engines were built for {built} objects, not {max_objects}: run trt-track build with --max-objects {max_objects}"
            )
        self.session, self.model, self.batch_times = session, model, batch_times
        self.limits = conditioning_limits(model, max_objects or built or Limits().objects, max_conditioning)
        self._idle: dict[tuple[tuple[int, int], bool, bool], list[Steps]] = {}
        self._closed = False

    @property
    def max_conditioning(self) -> int:
        """Prompted frames that an object keeps in memory."""
        return most_conditioning(self.model, self.limits)

    @classmethod
    def open(cls, model: str | Path, *, backend: str = "auto", precision: str | None = None, **options: Any) -> Self:
        """Load a bundle.

        Args:
            model: a bundle's folder, or the name of a model that was exported into the user's cache, or `pico`, which is embedded.
            backend: `auto`, `tensorrt-rtx`, `tensorrt`, `onnxruntime-cuda` or `onnxruntime-cpu`.
            precision: `fp32` or `fp16`, where `model` is a name; by default what has engines that can be used here, else `fp32` first.
            **options: `max_objects` (16, or what the engines were built for) and `max_conditioning` as in `__init__`, `threads` (CPU
                backends; all cores), `image_size` where `model` is a name.

        Raises:
            BundleError: no such bundle, or it is damaged.
            BackendError: the backend cannot be used here.
            ModelError: see `__init__`.
        """
        from trt_track.engines.backends import choose_backend, inspect_machine
        from trt_track.engines.bundle import Bundle
        from trt_track.engines.library import find_bundle

        limits = {name: options.pop(name, None) for name in ("max_objects", "max_conditioning")}
        threads = options.pop("threads", None)
        machine = inspect_machine()
        bundle = Bundle.open(find_bundle(model, precision=precision, backend=backend, machine=machine, **options))
        name, _ = choose_backend(backend, bundle, machine)
        return cls.of_bundle(bundle, name, threads, **limits)

    @classmethod
    def of_bundle(cls, bundle: Bundle, backend: str, threads: int | None = None, **limits: int | None) -> Self:
        """Load an opened bundle on the backend that `choose_backend` named, with what `trt-track tune` measured for it.

        Args:
            bundle: a tracker's.
            backend: `tensorrt-rtx`, `tensorrt`, `onnxruntime-cuda` or `onnxruntime-cpu`.
            threads: CPU backends; all cores by default.
            **limits: `max_objects` and `max_conditioning` as in `__init__`.

        Raises:
            BundleError: it is damaged.
            EngineError: an engine could not be loaded.
            ModelError, BackendError: see `__init__`.
        """
        from trt_track.engines.backends import open_chosen

        session = open_chosen(bundle, backend, threads)
        try:
            return cls(session, bundle.model, batch_times=find_batch_times(bundle.folder, session), **limits)
        except BaseException:
            session.close()
            raise

    def video(self, path: str | Path, *, hardware_decode: bool = False) -> Video:
        """Open a video file or a folder of frames.

        Args:
            path: a local file or folder.
            hardware_decode: whether NVIDIA's video decoder decodes a file, and the CPU only what it does not take.

        Raises:
            VideoError: it is missing, unreadable or empty, or larger than the engines were built for.
        """
        source = open_video(path, hardware_decode=hardware_decode)
        try:
            return Video(self, source)
        except BaseException:
            source.close()
            raise

    @contextmanager
    def steps(self, video_wh: tuple[int, int], *, keep_logits: bool, together: bool) -> Iterator[Steps]:
        """Lend the buffers of one pass over a video; a later pass over a video of the same size, of the same kind, gets the same ones.

        Those that lie idle for videos of other sizes are freed before new ones are made.
        """
        kind = (video_wh, keep_logits, together)
        steps = self._idle[kind].pop() if self._idle.get(kind) else self._new_steps(*kind)
        try:
            yield steps
        finally:
            if not self._closed:
                self._idle.setdefault(kind, []).append(steps)

    def _new_steps(self, video_wh: tuple[int, int], keep_logits: bool, together: bool) -> Steps:
        for kind in [kind for kind in self._idle if kind[0] != video_wh]:
            for idle in self._idle.pop(kind):
                idle.close()
        options = {"keep_logits": keep_logits, "together": together}
        return Steps(self.session, self.model, self.limits, video_wh, batch_times=self.batch_times, **options)

    def close(self) -> None:
        """Free the model."""
        self._closed = True
        self._idle.clear()
        self.session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Video:
    """A clip and its prompts. `propagate` may be called again after more prompts, and starts afresh each time."""

    def __init__(self, tracker: Tracker, source: Source) -> None:
        """Use a source that is open already; `Tracker.video` opens one.

        Raises:
            VideoError: it is larger than the engines were built for.
        """
        _check_size(source.info, tracker.session)
        self.tracker, self.source = tracker, source
        self.info = source.info
        self._prompts: dict[tuple[int, int], Prompt] = {}
        self._running: Propagation | None = None

    @property
    def damage(self) -> str | None:
        """Why the last `propagate` ended before the clip's last frame, or None."""
        return self.source.damage

    @property
    def prompts(self) -> list[Prompt]:
        """All prompts so far, those for one object on one frame as one."""
        return list(self._prompts.values())

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
        merged = merge_prompts(prompts, self._prompts)
        if merged or not self._prompts:
            check_prompts(merged, **self._frame_facts(), reverse=None)
        if self._running is not None:
            self._running.accept(merged)
        self._prompts |= {(prompt.frame, prompt.object_id): prompt for prompt in merged}

    def _frame_facts(self) -> _FrameFacts:
        return {"width": self.info.width, "height": self.info.height, "frame_count": self.info.frame_count}

    def propagate(  # noqa: PLR0913 - which frames, and what of them
        self,
        *,
        reverse: bool = False,
        max_frames: int | None = None,
        keep_video: bool = False,
        keep_logits: bool = False,
        throughput: bool = False,
        settled: Collection[int] = (),
    ) -> Generator[FrameResult, None, None]:
        """Track all objects from the first prompted frame on, or with `reverse` from the last prompted one back.

        Args:
            reverse: towards the start of the clip.
            max_frames: results to yield at most.
            keep_video: whether results carry the frame itself, for drawing.
            keep_logits: whether results carry the low-resolution mask logits, and which of the decoder's candidates each mask is.
            throughput: yield each result when the next frame has been asked for, so that a GPU is never idle; the frame that was yielded
                can then be corrected no more. By default it is yielded as soon as it is there.
            settled: with `throughput`, frames that are yielded as soon as they are there all the same, because they may be corrected.

        Yields:
            One result a frame, in order; its arrays are the caller's.

        Raises:
            PromptError: there is no prompt, or the prompts contradict each other.
            VideoError: the clip can be read no more; a clip that merely ends early ends the iteration and sets `damage`.
        """
        check_prompts(self.prompts, **self._frame_facts(), reverse=None)
        schedule = Schedule(self.prompts, most=self.tracker.limits.objects, reverse=reverse)
        with self.tracker.steps((self.info.width, self.info.height), keep_logits=keep_logits, together=throughput) as steps:
            running = self._running = Propagation(self, steps, schedule, late=throughput, settled=settled)
            try:
                yield from running.run(max_frames, keep_video=keep_video)
            finally:
                if self._running is running:
                    self._running = None

    @property
    def first_open(self) -> int:
        """The first frame that prompts are still taken for, while `propagate` runs.

        Raises:
            PromptError: it does not run.
        """
        if self._running is None:
            raise PromptError("propagate does not run: every frame can be prompted")
        return self._running.first_open

    def close(self) -> None:
        """Close the clip."""
        self.source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _check_size(info: VideoInfo, session: Session) -> None:
    most = session.max_video_side
    if most is not None and max(info.width, info.height) > most:
        raise VideoError(
            f"{info.name} has {info.width}x{info.height} pixels, the engines were built for up to {most} a side: "
            f"scale it down (ffmpeg -vf scale) or use --backend onnxruntime-cpu"
        )
