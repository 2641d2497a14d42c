"""One pass over a clip: what is tracked on each frame, and which prompts are due there."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np

from trt_track.errors import PromptError
from trt_track.runtime.bank import MemoryBank
from trt_track.runtime.frames import Frame
from trt_track.runtime.prompts import Prompt, mask_to_model, model_clicks
from trt_track.runtime.results import FrameResult
from trt_track.runtime.steps import Clicks, Outcome, Steps

if TYPE_CHECKING:
    from trt_track.runtime.tracker import Video


class Propagation:
    """One pass over the clip: the objects that are tracked now, and the prompts that are due."""

    def __init__(self, video: Video, steps: Steps, *, reverse: bool) -> None:
        self.video, self.steps, self.reverse = video, steps, reverse
        tracker, info = video.tracker, video.info
        self.size, self.mask_size = tracker.model.image_size, tracker.model.mask_size
        self.bank = MemoryBank(tracker.model, tracker.limits, info.frame_count, reverse=reverse)
        self.active: list[int] = []
        self.started: dict[int, int] = {}
        self.frame: int | None = None
        self.unseen: np.ndarray | None = None
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
                self.unseen = frame.model_rgb_hwc
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
        outcomes = self._follow([object_id for object_id in self.active if object_id not in prompted], frame)
        outcomes.update(self._prompt(frame, due))
        return outcomes

    def _follow(self, object_ids: list[int], frame: int) -> dict[int, Outcome]:
        if not object_ids:
            return {}
        self._encode()
        return self.steps.follow(object_ids, frame, self.bank)

    def _encode(self) -> None:
        """Encode the frame when the first object needs it; frames that no object is on never are."""
        if self.unseen is not None:
            self.steps.encode(self.unseen)
            self.unseen = None

    def _prompt(self, frame: int, prompts: list[Prompt]) -> dict[int, Outcome]:
        outcomes = {}
        for prompt in prompts:
            if prompt.remove:
                self._remove(prompt.object_id)
                continue
            self._encode()
            if self.started.get(prompt.object_id, frame) == frame:
                outcomes[prompt.object_id] = self._start(frame, prompt)
            else:
                outcomes[prompt.object_id] = self._correct(frame, prompt)
        return outcomes

    def _start(self, frame: int, prompt: Prompt) -> Outcome:
        if prompt.object_id not in self.started:
            self.started[prompt.object_id] = frame
            self.active.append(prompt.object_id)
        return self.steps.start(prompt.object_id, frame, self.bank, self._asked(prompt))

    def _correct(self, frame: int, prompt: Prompt) -> Outcome:
        return self.steps.correct(prompt.object_id, frame, self.bank, self._asked(prompt), conditions=prompt.conditions)

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


def _by_frame(prompts: Sequence[Prompt]) -> dict[int, list[Prompt]]:
    schedule: dict[int, list[Prompt]] = {}
    for prompt in sorted(prompts, key=lambda prompt: not prompt.remove):
        schedule.setdefault(prompt.frame, []).append(prompt)
    return schedule
