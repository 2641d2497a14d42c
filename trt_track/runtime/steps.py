"""The steps of one frame, as calls of the graphs: encode the frame, follow objects, start one from a prompt, correct one.

Everything is allocated when the steps are opened. A step moves integers (which page, which age, which object); all arithmetic, from the
bytes of the frame to the bytes of the mask, is inside the graphs.

A frame in flight has a slot of its own: while one is tracked, the next ones are uploaded and encoded, as many in one call as the engine
was built for, and the masks of the one before are on their way to the host. Events order the lanes where they meet in a slot; a session
that does not overlap has one slot.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trt_track.engines.batch_times import BatchTimes, widest_batch
from trt_track.engines.session import Fetched, Lane, Session
from trt_track.errors import DeviceMemoryError
from trt_track.runtime.bank import MemoryBank, Recall
from trt_track.runtime.buffers import DECODED, DRAWN, IMAGE, UPSCALED
from trt_track.runtime.holding import Holding
from trt_track.runtime.memory_plan import TrackingTask, fitting_task, halved
from trt_track.runtime.small_inputs import SmallInputs
from trt_track.specs import Limits, ModelSpec

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Clicks:
    """What the decoder is asked with: points (K, 2) float32 in model pixels and labels (K,) int32, upstream's order."""

    points: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What was found of the objects of one batch on one frame; row i is of object i."""

    masks: np.ndarray
    """(B, H, W) bool, in pixels of the video."""
    ious: np.ndarray
    """(B,) float32, predicted IoU of the mask, 0 to 1."""
    presence: np.ndarray
    """(B,) float32, a logit, > 0 where the object is in the frame."""
    logits: np.ndarray | None
    """(B, 1, S/4, S/4) float32, the decoder's, > 0 inside the object; small holes are filled in the mask only. None if not kept."""
    chosen: np.ndarray | None
    """(B,) int32, which of the decoder's four candidates each mask is. None if logits are not kept."""


class Asked:
    """What was asked for of one batch on one frame, and may still be on its way."""

    def __init__(self, object_ids: Sequence[int], fetched: Fetched) -> None:
        """Keep the promise.

        Args:
            object_ids: of the rows.
            fetched: masks as uint8, predicted IoU, presence, and if they are kept logits and which candidates they are.
        """
        self.object_ids = tuple(object_ids)
        self._fetched = fetched

    def outcomes(self) -> Outcomes:
        """Wait for it. To be called once.

        Raises:
            EngineRunError: something failed on the way.
        """
        masks, ious, presence, *kept = self._fetched.arrays()
        logits, chosen = kept or (None, None)
        return Outcomes(masks.view(np.bool_), ious, presence, logits, chosen)


class EncoderBatch:
    """Arrays and events of the frames that are encoded in one call."""

    def __init__(self, number: int, held: Holding) -> None:
        """Pick the arrays.

        Args:
            number: which batch.
            held: has the arrays, and makes the events.
        """
        self.number = number
        self.frames = held.arrays[f"{number} frames"]
        self.image = {name: held.arrays[f"{number} {name}"] for name in IMAGE}
        self.uploaded, self.encoded = held.event(), held.event()
        self.slots: list[FrameSlot] = []


class ResultArrays:
    """What the decoder and the upscaling write for one frame at a time, and when that has been brought to the host."""

    def __init__(self, number: int, held: Holding) -> None:
        """Pick the arrays; see `EncoderBatch`."""
        self.decoded = {name: held.arrays[f"{number} {name}"] for name in DECODED}
        self.upscaled = {name: held.arrays[f"{number} {name}"] for name in UPSCALED}
        self.fetched = held.event()


class FrameSlot:
    """Arrays and events of one frame in flight: a row of an encoder's batch, and room for results."""

    def __init__(self, number: int, tracked: Any, batch: EncoderBatch, row: int, results: ResultArrays) -> None:
        """Join the two.

        Args:
            number: which slot.
            tracked: a new event.
            batch: that the frame is encoded in.
            row: of the frame in the batch.
            results: that the frame shares with others, which wait for each other.
        """
        self.number = number
        self.image = {name: array[row : row + 1] for name, array in batch.image.items()}
        self.decoded, self.upscaled = results.decoded, results.upscaled
        self.uploaded, self.encoded, self.tracked, self.fetched = batch.uploaded, batch.encoded, tracked, results.fetched


class Steps:
    """Buffers of one video and the graph calls that read and write them."""

    def __init__(  # noqa: PLR0913 - what computes what, and how
        self,
        session: Session,
        model: ModelSpec,
        limits: Limits,
        video_wh: tuple[int, int],
        *,
        keep_logits: bool = False,
        together: bool = True,
        batch_times: BatchTimes | None = None,
        batch: int | None = None,
    ) -> None:
        """Allocate everything.

        Args:
            session: what computes.
            model: sizes.
            limits: capacity of the bank and of a batch; a batch gets smaller where the GPU's memory is short.
            video_wh: size of the masks that come out.
            keep_logits: whether outcomes carry the logits, and which candidates the masks are.
            together: whether several frames are encoded in one call, where the session takes them.
            batch_times: which batches are the quickest; without it they are as large as the session advises.
            batch: objects of the largest one, whatever else was advised or measured.

        Raises:
            DeviceMemoryError: there is no room for a single object.
        """
        self.session, self.model, self.keep_logits, self._times = session, model, keep_logits, batch_times
        most = batch or widest_batch(session, limits.objects, batch_times)
        ahead = (session.max_frames or 1) if session.overlaps and together else 1
        task = fitting_task(session, TrackingTask(session.specs, model, limits, most, video_wh, ahead))
        self._held = Holding(session, task)
        self.batch, self.frames = self._held.task.batch, self._held.task.frames
        self._encoded = 0
        try:
            session.reserve(self._held.task.sizes())
            self._lay_out(video_wh)
        except BaseException:
            self.close()
            raise

    def _lay_out(self, video_wh: tuple[int, int]) -> None:
        """Join arrays and events into slots, and fill what never changes."""
        held, arrays = self._held, self._held.arrays
        results = [ResultArrays(number, held) for number in range(held.slots)]
        self._batches = [EncoderBatch(number, held) for number in range(held.slots)]
        for batch in self._batches:
            numbers = range(batch.number * self.frames, (batch.number + 1) * self.frames)
            batch.slots = [FrameSlot(number, held.event(), batch, row, results[number % held.slots]) for row, number in enumerate(numbers)]
        self.slots = [slot for batch in self._batches for slot in batch.slots]
        self.bank, self.pointer_bank = arrays["bank"], arrays["pointer_bank"]
        self.conditioned, self.memory, self.no_mask = arrays["conditioned"], arrays["memory"], arrays["no_mask"]
        self.drawn = {name: arrays[f"drawn {name}"] for name in DRAWN}
        self.small = SmallInputs(self.session, arrays, video_wh)

    def close(self) -> None:
        """Free the buffers, and forget what was recorded with them.

        Raises:
            EngineRunError: something that was asked for before failed.
        """
        self._held.close()

    @property
    def encodes_ahead(self) -> bool:
        """Whether frames may be encoded before those before them are tracked."""
        return len(self._batches) > 1

    def encode(self, frames_rgb_hwc: Sequence[np.ndarray]) -> list[FrameSlot]:
        """Run the image encoder on frames (S, S, 3) uint8, at most `frames`, and return the slots that the steps about them are told.

        They are good for these frames until as many more calls as there are batches were made.
        """
        session, batch, count = self.session, self._batches[self._encoded % len(self._batches)], len(frames_rgb_hwc)
        self._encoded += 1
        with session.on(Lane.UPLOAD):
            session.after(batch.encoded)  # the encoder has read the frames that lie there
            for row, frame_rgb_hwc in enumerate(frames_rgb_hwc):
                session.upload(batch.frames[row : row + 1], frame_rgb_hwc[None])
            session.record(batch.uploaded)
        with session.on(Lane.ENCODE):
            session.after(batch.uploaded)
            for slot in batch.slots:
                session.after(slot.tracked)  # and nothing reads its features any more
            outputs = {name: array[:count] for name, array in batch.image.items()}
            session.recorded(
                (self._held, "encode", batch.number, count),
                lambda: session.run("image_encoder", {"frames": batch.frames[:count]}, outputs),
            )
            session.record(batch.encoded)
        return batch.slots[:count]

    def follow(self, slot: FrameSlot, object_ids: Sequence[int], frame: int, bank: MemoryBank) -> Iterator[Asked]:
        """Track objects from their memories, those with equally many memories in one batch; yield each batch as it has been asked for.

        Raises:
            DeviceMemoryError: there is no memory for a single object.
            EngineRunError: an engine failed.
        """
        groups: dict[tuple[int, int], list[tuple[int, Recall]]] = {}
        for object_id in object_ids:
            recall = bank.recall(object_id, frame)
            groups.setdefault(recall.key, []).append((object_id, recall))
        for waiting in groups.values():
            while waiting:
                batch = waiting[: self._next_batch(len(waiting))]
                try:
                    asked = self._follow_batch(slot, batch, frame, bank)
                except DeviceMemoryError as error:
                    self._step_down(len(batch), error)
                else:
                    del waiting[: len(batch)]
                    yield asked

    def _next_batch(self, objects: int) -> int:
        """Return how many of so many objects to track together first."""
        return self.batch if self._times is None else self._times.split(objects, self.batch)[0]

    def _step_down(self, objects: int, error: DeviceMemoryError) -> None:
        """Make batches smaller after one that there was no memory for: done again, it writes to the pages that it had before.

        Raises:
            DeviceMemoryError: it was a single object.
        """
        if objects == 1:
            raise error
        self.batch = halved(objects)
        _log.warning("objects are tracked in batches of %d from here on, memory for %d is short: %s", self.batch, objects, error)

    def _follow_batch(self, slot: FrameSlot, group: list[tuple[int, Recall]], frame: int, bank: MemoryBank) -> Asked:
        object_ids, recalls = [object_id for object_id, _ in group], [recall for _, recall in group]
        slots = [bank.remember(object_id, frame) for object_id in object_ids]
        self._begin(slot)
        given = self.small.recalled(recalls, slots, bank.pointer_span)
        objects = len(group)

        def body() -> None:
            conditioned = self._condition(slot, given)
            multimask = self.model.multimask_tracking and self.model.multimask_clicks[0] == 0
            self._decode(slot, conditioned, self.small.no_clicks(objects), self._no_mask(objects), multimask=multimask)
            self._memorise(slot, given, slot.decoded["mask_logits"], from_prompt=False)
            self._upscale(slot, objects)

        self.session.recorded((self._held, "follow", slot.number, objects, recalls[0].key), body)
        return self._ask(slot, object_ids)

    def start(self, slot: FrameSlot, object_id: int, frame: int, bank: MemoryBank, prompt: Clicks | np.ndarray) -> Asked:
        """Make this frame a conditioning frame of the object, from clicks and box or from a drawn mask (S, S) uint8."""
        self._begin(slot)
        given = self.small.slots([bank.condition(object_id, frame)])
        if isinstance(prompt, Clicks):
            fewest, most = self.model.multimask_clicks
            multimask = fewest <= len(prompt.labels) <= most
            clicks = self.small.clicks(prompt.points, prompt.labels)
            self._decode(slot, slot.image["embed_no_memory"], clicks, self._no_mask(1), multimask=multimask)
        else:
            self._draw(slot, prompt)
        return self._settle(slot, object_id, given)

    def correct(  # noqa: PLR0913 - what is corrected, and how
        self, slot: FrameSlot, object_id: int, frame: int, bank: MemoryBank, prompt: Clicks | np.ndarray, *, conditions: bool = False
    ) -> Asked:
        """Track one object and put it right on this frame, with the tracked mask as a prompt beside the clicks.

        It is remembered as a tracked frame, or as a conditioning frame where the model or `conditions` says so.
        """
        recall = bank.recall(object_id, frame)
        page = bank.condition(object_id, frame) if conditions or self.model.corrections_condition else bank.remember(object_id, frame)
        self._begin(slot)
        given = self.small.recalled([recall], [page], bank.pointer_span)
        if isinstance(prompt, Clicks):
            self._correct_clicked(slot, given, prompt)
        else:
            self._draw(slot, prompt)
        return self._settle(slot, object_id, given)

    def _correct_clicked(self, slot: FrameSlot, given: Mapping[str, Any], prompt: Clicks) -> None:
        conditioned = self._condition(slot, given)
        tracking = self.model.multimask_tracking
        fewest, most = self.model.multimask_clicks
        self._decode(slot, conditioned, self.small.no_clicks(1), self._no_mask(1), multimask=tracking and fewest == 0)
        self._upscale(slot, 1)
        tracked = (slot.upscaled["prompt_logits"][:1], self.small.flag("has_mask", 1, value=True))
        clicks = self.small.clicks(prompt.points, prompt.labels)
        self._decode(slot, conditioned, clicks, tracked, multimask=tracking and fewest <= len(prompt.labels) <= most)

    def _begin(self, slot: FrameSlot) -> None:
        """Let the next step wait for the frame's features, and for the results that lie where its own will."""
        self.session.after(slot.encoded)
        self.session.after(slot.fetched)

    def _draw(self, slot: FrameSlot, mask: np.ndarray) -> None:
        """Take a drawn mask as the answer; the decoder only makes its pointer."""
        self.session.upload(self.drawn["mask"], mask[None])
        self.session.run("mask_prompt", {"mask": self.drawn["mask"]}, {k: v for k, v in self.drawn.items() if k != "mask"})
        prompt = (self.drawn["mask_prompt"], self.small.flag("has_mask", 1, value=True))
        self._decode(slot, slot.image["embed"], self.small.no_clicks(1), prompt, multimask=False)
        self.session.copy(slot.decoded["mask_logits"][:1], self.drawn["mask_logits"])
        self.session.copy(slot.decoded["object_score"][:1], self.drawn["object_score"])
        self.session.copy(slot.decoded["iou"][:1], self.small.sure)

    def _settle(self, slot: FrameSlot, object_id: int, given: Mapping[str, Any]) -> Asked:
        """Turn what the decoder holds for one prompted object into a memory and an outcome."""
        self._upscale(slot, 1)
        self._memorise(slot, given, slot.upscaled["filled_logits"], from_prompt=True)
        return self._ask(slot, [object_id])

    def _condition(self, slot: FrameSlot, given: Mapping[str, Any]) -> Any:
        """Run the memory attention for objects with equally many memories; return (B, C, G, G)."""
        conditioned = self.conditioned[: given["page"].shape[0]]
        recalled = {name: given[name] for name in ("page", "age", "pointer", "pointer_age", "pointer_span")}
        inputs = {"embed": slot.image["embed"], "bank": self.bank, "pointer_bank": self.pointer_bank, **recalled}
        self.session.run("memory_attention", inputs, {"conditioned": conditioned})
        return conditioned

    def _decode(self, slot: FrameSlot, conditioned: Any, clicks: tuple[Any, Any], mask: tuple[Any, Any], *, multimask: bool) -> None:
        """Run the mask decoder on (B, C, G, G) features."""
        objects = conditioned.shape[0]
        inputs = {
            "conditioned": conditioned,
            "high_res_0": slot.image["high_res_0"],
            "high_res_1": slot.image["high_res_1"],
            "points": clicks[0],
            "labels": clicks[1],
            "mask_prompt": mask[0],
            "has_mask": mask[1],
            "multimask": self.small.flag("multimask", objects, value=multimask),
        }
        self.session.run("mask_decoder", inputs, {name: array[:objects] for name, array in slot.decoded.items()})

    def _memorise(self, slot: FrameSlot, given: Mapping[str, Any], mask_logits: Any, *, from_prompt: bool) -> None:
        """Run the memory encoder and put memories and pointers into their slots of the bank."""
        objects = given["to_page"].shape[0]
        memory = self.memory[:objects]
        inputs = {
            "embed": slot.image["embed"],
            "mask_logits": mask_logits[:objects],
            "object_score": slot.decoded["object_score"][:objects],
            "from_prompt": self.small.flag("from_prompt", objects, value=from_prompt),
        }
        self.session.run("memory_encoder", inputs, {"memory": memory})
        self.session.scatter(self.bank, given["to_page"], memory)
        self.session.scatter(self.pointer_bank, given["to_pointer"], slot.decoded["pointer"][:objects])

    def _upscale(self, slot: FrameSlot, objects: int) -> None:
        """Run the upscaling to the video's size, holes filled."""
        inputs = {"mask_logits": slot.decoded["mask_logits"][:objects], **self.small.video_size}
        self.session.run("mask_upscale", inputs, {name: array[:objects] for name, array in slot.upscaled.items()})

    def _ask(self, slot: FrameSlot, object_ids: Sequence[int]) -> Asked:
        """Have what the batch found brought to the host."""
        session, objects = self.session, len(object_ids)
        session.record(slot.tracked)
        found = [slot.upscaled["mask"], slot.decoded["iou"], slot.decoded["object_score"]]
        kept = [slot.decoded["mask_logits"], slot.decoded["chosen"]] if self.keep_logits else []
        with session.on(Lane.RESULTS):
            session.after(slot.tracked)
            fetched = session.fetch([array[:objects] for array in (*found, *kept)])
            session.record(slot.fetched)
        return Asked(object_ids, fetched)

    def _no_mask(self, objects: int) -> tuple[Any, Any]:
        return self.no_mask[:objects], self.small.flag("has_mask", objects, value=False)
