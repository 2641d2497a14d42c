"""One pass over a clip: what is tracked on each frame, and which prompts are due there."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from trt_track.errors import PromptError, VideoError
from trt_track.runtime.bank import MemoryBank
from trt_track.runtime.frames import Frame
from trt_track.runtime.prompts import Prompt, mask_to_model, model_clicks
from trt_track.runtime.results import FrameResult
from trt_track.runtime.schedule import Schedule
from trt_track.runtime.steps import Asked, Clicks, FrameSlot, Outcomes, Steps

if TYPE_CHECKING:
    from trt_track.runtime.tracker import Video


Waiting: TypeAlias = deque[tuple[Frame, list[int], list[Asked]]]
"""Frames that were asked for and not yielded yet, with the objects that are tracked on each."""


class Propagation:
    """One pass over the clip: the objects that are tracked now, and the prompts that are due."""

    def __init__(self, video: Video, steps: Steps, schedule: Schedule, *, late: bool = False, settled: Collection[int] = ()) -> None:
        """Prepare; nothing is read yet.

        Args:
            video: what is tracked.
            steps: buffers for it.
            schedule: its prompts, in the direction of the pass.
            late: yield each result when the next frame has been asked for, instead of at once.
            settled: frames whose results are yielded at once all the same.
        """
        self.video, self.steps, self.schedule = video, steps, schedule
        self.reverse, self.is_late, self.settled = schedule.reverse, late, settled
        tracker, info = video.tracker, video.info
        self.size, self.mask_size = tracker.model.image_size, tracker.model.mask_size
        self.bank = MemoryBank(tracker.model, tracker.limits, info.frame_count, reverse=self.reverse)
        self.active: list[int] = []
        self.started: dict[int, int] = {}
        self.frame: int | None = None
        self.image: Image  # of the frame that is tracked
        self.late: set[int] = set()
        """Objects that were prompted for the frame that is tracked since its last result."""

    @property
    def first_open(self) -> int:
        """The first frame, in the direction of travel, that prompts are still taken for."""
        if self.frame is None:
            raise PromptError("the pass has not begun")
        step = -1 if self.reverse else 1
        return self.frame if self._yields_at_once(self.frame) else self.frame + step

    def accept(self, prompts: Sequence[Prompt]) -> None:
        """Take prompts in while the pass runs.

        Args:
            prompts: merged with those that were there, each checked by itself.

        Raises:
            PromptError: one is for a frame that lies behind, or they contradict others; none was taken.
        """
        for prompt in prompts if self.frame is not None else ():
            first = self.first_open
            if prompt.frame > first if self.reverse else prompt.frame < first:
                this = "this frame or " if first == self.frame else ""
                raise PromptError(
                    f"frame {prompt.frame} lies behind: the pass is at frame {self.frame}; "
                    f"prompt {this}one ahead, or call propagate again to start afresh"
                )
        self.schedule.add(prompts)
        self.late |= {prompt.object_id for prompt in prompts if prompt.frame == self.frame}

    def run(self, max_frames: int | None, *, keep_video: bool) -> Generator[FrameResult, None, None]:
        """Yield a result per frame."""
        prompted = [prompt.frame for prompt in self.video.prompts if not prompt.remove]
        start = max(prompted) if self.reverse else min(prompted)
        stop = self._stop(start, max_frames)
        frames = self.video.source.frames(size=self.size, reverse=self.reverse, start=start, stop=stop, keep_video=keep_video)
        with closing(frames):
            yield from self._run(LookAhead(frames))

    def _run(self, frames: LookAhead) -> Generator[FrameResult, None, None]:
        """Track frame by frame; where results may be late, the next frame is encoded ahead and a result waits for the frame after it."""
        waiting: Waiting = deque()
        try:
            for frame, image in frames:
                self.frame, self.image = frame.index, image
                self.late.clear()
                self.schedule.leave_behind(frame.index)
                due = self.schedule.due(frame.index)
                if self.is_late and self._needs_image(due):
                    self._encode()
                    frames.encode_next(self.steps)
                asked = self._track(frame.index, due)
                waiting.append((frame, list(self.active), asked))
                if len(waiting) > 1:
                    yield self._taken(waiting)
                if self._yields_at_once(frame.index):
                    yield from self._settle(waiting)
            while waiting:
                yield self._taken(waiting)
        finally:
            for _, _, asked in waiting:
                Found(asked)  # what is on its way arrives, so that its memory can be used again
        if frames.fault is not None:
            raise frames.fault

    def _settle(self, waiting: Waiting) -> Generator[FrameResult, None, None]:
        """Yield a frame's result, and again for prompts that come for it."""
        frame, _, asked = waiting.popleft()
        found = Found(asked)
        if early := self._come_late(frame.index):  # they came while results before this one were yielded
            found.add(self._prompt(frame.index, early))
        yield self._result(frame, self.active, found)
        while again := self._come_late(frame.index):
            found.add(self._prompt(frame.index, again))
            yield self._result(frame, self.active, found)

    def _taken(self, waiting: Waiting) -> FrameResult:
        frame, active, asked = waiting.popleft()
        return self._result(frame, active, Found(asked))

    def _yields_at_once(self, frame: int) -> bool:
        return not self.is_late or frame in self.settled

    def _needs_image(self, due: list[Prompt]) -> bool:
        """Tell whether any object is on the frame that these prompts are for."""
        prompted = {prompt.object_id for prompt in due}
        return any(not prompt.remove for prompt in due) or any(object_id not in prompted for object_id in self.active)

    def _stop(self, start: int, max_frames: int | None) -> int | None:
        """Return the frame before which to stop, in the direction of travel."""
        if max_frames is None:
            return None
        stop = start - max_frames if self.reverse else start + max_frames
        return stop if 0 <= stop < self.video.info.frame_count else None

    def _come_late(self, frame: int) -> list[Prompt]:
        """Return the prompts that came for this frame since its last result, joined with what was asked there before."""
        now, self.late = self.late, set()
        return [prompt for prompt in self.schedule.due(frame) if prompt.object_id in now]

    def _track(self, frame: int, due: list[Prompt]) -> list[Asked]:
        """Track what has no prompt on this frame, start or correct what has one."""
        prompted = {prompt.object_id for prompt in due}
        followed = [object_id for object_id in self.active if object_id not in prompted]
        return kept(chain(self._follow(followed, frame), self._prompted(frame, due)))

    def _follow(self, object_ids: list[int], frame: int) -> Iterator[Asked]:
        if object_ids:
            yield from self.steps.follow(self._encode(), object_ids, frame, self.bank)

    def _encode(self) -> FrameSlot:
        """Encode the frame when the first object needs it; frames that no object is on never are."""
        return self.image.encode(self.steps)

    def _prompt(self, frame: int, prompts: list[Prompt]) -> list[Asked]:
        return kept(self._prompted(frame, prompts))

    def _prompted(self, frame: int, prompts: list[Prompt]) -> Iterator[Asked]:
        for prompt in prompts:
            if prompt.remove:
                self._remove(prompt.object_id)
            elif self.started.get(prompt.object_id, frame) == frame:
                yield self._start(frame, prompt)
            else:
                yield self._correct(frame, prompt)

    def _start(self, frame: int, prompt: Prompt) -> Asked:
        if prompt.object_id not in self.started:
            self.started[prompt.object_id] = frame
            self.active.append(prompt.object_id)
        return self.steps.start(self._encode(), prompt.object_id, frame, self.bank, self._asked(prompt))

    def _correct(self, frame: int, prompt: Prompt) -> Asked:
        asked = self._asked(prompt)
        return self.steps.correct(self._encode(), prompt.object_id, frame, self.bank, asked, conditions=prompt.conditions)

    def _remove(self, object_id: int) -> None:
        if object_id in self.active:
            self.active.remove(object_id)
            self.bank.forget(object_id)

    def _asked(self, prompt: Prompt) -> Clicks | np.ndarray:
        """Bring a prompt into the model's frame."""
        if prompt.mask is not None:
            return mask_to_model(prompt.mask, self.size)
        return Clicks(*model_clicks(prompt, width=self.video.info.width, height=self.video.info.height, size=self.size))

    def _result(self, frame: Frame, active: Sequence[int], found: Found) -> FrameResult:
        height, width = self.video.info.height, self.video.info.width
        logits = (1, self.mask_size, self.mask_size)
        return FrameResult(
            frame_index=frame.index,
            time_s=frame.time_s,
            object_ids=tuple(active),
            masks=found.rows("masks", active, (height, width), "bool"),
            ious=found.rows("ious", active, (), "float32"),
            presence=found.rows("presence", active, (), "float32"),
            logits=found.rows("logits", active, logits, "float32") if self.steps.keep_logits else None,
            chosen=found.rows("chosen", active, (), "int32") if self.steps.keep_logits else None,
            video_rgb_hwc=frame.video_rgb_hwc,
        )


class Image:
    """The pixels of one frame, and the slot that they were encoded into, once they were."""

    def __init__(self, model_rgb_hwc: np.ndarray) -> None:
        """Keep the pixels, (S, S, 3) uint8."""
        self._model_rgb_hwc: np.ndarray | None = model_rgb_hwc
        self._slot: FrameSlot

    @property
    def is_encoded(self) -> bool:
        """Whether it was."""
        return self._model_rgb_hwc is None

    def encode(self, steps: Steps) -> FrameSlot:
        """Encode it, the first time, and return its slot."""
        if not self.is_encoded:
            Image.encode_together([self], steps)
        return self._slot

    @staticmethod
    def encode_together(images: Sequence[Image], steps: Steps) -> None:
        """Encode images that were not encoded yet, at most `steps.frames`, in one call."""
        pixels = [image._model_rgb_hwc for image in images if image._model_rgb_hwc is not None]
        for image, slot in zip(images, steps.encode(pixels), strict=True):
            image._slot, image._model_rgb_hwc = slot, None


class LookAhead:
    """The frames of a clip with their images, of which the next ones can be encoded before it is their turn."""

    def __init__(self, frames: Iterator[Frame]) -> None:
        """Take frames in order."""
        self.fault: VideoError | None = None
        """Why there are no more frames, when the iteration has ended; what was asked for before is not lost that way."""
        self._frames = frames
        self._read: deque[tuple[Frame, Image]] = deque()

    def encode_next(self, steps: Steps) -> None:
        """Read on and encode the next frames in one call, once fewer are waiting encoded than one call takes.

        Then all that are waiting were encoded together, and the buffers of the call before them are free.
        """
        waiting = sum(image.is_encoded for _, image in self._read)
        if not steps.encodes_ahead or waiting >= steps.frames:
            return
        while len(self._read) < waiting + steps.frames and self._read_one():
            pass
        if following := [image for _, image in self._read if not image.is_encoded]:
            Image.encode_together(following, steps)

    def _read_one(self) -> bool:
        """Read a frame, and tell whether there was one."""
        try:
            for frame in self._frames:
                self._read.append((frame, Image(frame.model_rgb_hwc)))
                return True
        except VideoError as error:
            self.fault = error
        return False

    def __iter__(self) -> Iterator[tuple[Frame, Image]]:
        while True:
            if not self._read and (self.fault is not None or not self._read_one()):
                return
            yield self._read.popleft()


def kept(asked: Iterable[Asked]) -> list[Asked]:
    """Return what is asked for batch by batch; where one fails, what those before it brought arrives, so that its memory can be used again.

    Raises:
        EngineRunError: one failed.
    """
    found: list[Asked] = []
    try:
        found.extend(asked)
    except BaseException:
        Found(found)
        raise
    return found


class Found:
    """What was found on one frame, by object; what is added later replaces what was there."""

    def __init__(self, asked: Sequence[Asked]) -> None:
        """Wait for it.

        Raises:
            EngineRunError: something failed on the way.
        """
        self._batches: list[tuple[tuple[int, ...], Outcomes]] = []
        self._places: dict[int, tuple[Outcomes, int]] = {}
        self.add(asked)

    def add(self, asked: Sequence[Asked]) -> None:
        """Wait for more of the same frame."""
        for batch in asked:
            outcomes = batch.outcomes()
            self._batches.append((batch.object_ids, outcomes))
            self._places |= {object_id: (outcomes, row) for row, object_id in enumerate(batch.object_ids)}

    def rows(self, name: str, object_ids: Sequence[int], shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """Return one kind of outcome, a row for each object in this order; what one batch found in this order is not copied."""
        if len(self._batches) == 1 and self._batches[0][0] == tuple(object_ids):
            whole: np.ndarray = getattr(self._batches[0][1], name)
            return whole
        if not object_ids:
            return np.zeros((0, *shape), dtype)
        places = (self._places[object_id] for object_id in object_ids)
        return np.stack([getattr(outcomes, name)[row] for outcomes, row in places])
