"""What tracking takes of a GPU's memory, summed up before anything is allocated: engines, work space, buffers, and an allowance."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from trt_track.engines.device_memory import MOST_LENT, STAGING_BYTES
from trt_track.engines.session import Session
from trt_track.runtime.buffers import Buffer, track_buffers
from trt_track.runtime.engine_memory import EngineFigures
from trt_track.specs import GraphSpec, Limits, ModelSpec

_log = logging.getLogger(__name__)

CONTEXT_BYTES: Final = 512 << 20
"""Allowed for CUDA's context, the driver's own memory, and the kernels of all engines; it cannot be computed."""
RECORDINGS_BYTES: Final = 64 << 20
"""Allowed for the nodes of up to 32 CUDA graphs, for each frame of one call of the encoder; contexts hold no GPU memory of their own."""
SLOTS: Final = 2
"""Frames in flight on a GPU."""
_ALIGNMENT: Final = 64
"""Bytes between the beginnings of results that come back together."""
_REASONS: Final = {
    "frames": "pixels of the frames in flight",
    "features": "of the frames in flight, and of one batch of objects",
    "results": "logits and masks of one batch, for each frame in flight",
    "bank": "what the objects remember",
    "prompts": "a drawn mask and what it becomes",
    "small inputs": "indices, clicks, flags",
}


@dataclass(frozen=True, slots=True)
class Part:
    """One line of a plan."""

    name: str
    nbytes: int
    reason: str
    pinned: bool = False
    """Whether it is memory of the host, locked for the GPU's copies."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Everything that a tracker holds at its peak."""

    parts: tuple[Part, ...]

    @property
    def total_bytes(self) -> int:
        """GPU memory."""
        return sum(part.nbytes for part in self.parts if not part.pinned)

    @property
    def pinned_bytes(self) -> int:
        """Memory of the host that is locked for the GPU's copies, at most."""
        return sum(part.nbytes for part in self.parts if part.pinned)


@dataclass(frozen=True, slots=True)
class TrackingTask:
    """What is tracked, by what."""

    specs: Mapping[str, GraphSpec]
    model: ModelSpec
    limits: Limits
    """Objects that the bank has room for, and what each remembers."""
    batch: int
    """Objects of one batch at most."""
    video_wh: tuple[int, int]
    """Pixels."""
    frames: int = 1
    """Frames of one call of the image encoder."""

    def buffers(self, slots: int = SLOTS) -> dict[str, Buffer]:
        """Return the arrays that `Steps` allocates, by name."""
        sizes = {"batch": self.batch, "slots": slots, "frames": self.frames}
        return track_buffers(self.specs, self.model, self.limits, video_wh=self.video_wh, **sizes)

    def buffer_bytes(self, slots: int = SLOTS) -> Counter[str]:
        """Return the bytes that `Steps` allocates, by part."""
        found: Counter[str] = Counter()
        for buffer in self.buffers(slots).values():
            found[buffer.part] += buffer.nbytes
        return found

    def sizes(self) -> dict[str, int]:
        """Return the named sizes of the largest runs, as `Session.work_space` takes them."""
        limits, (width, height) = self.limits, self.video_wh
        banks = {"pages": limits.pages, "pointers": limits.pointers, "N": limits.memories, "P": limits.pointers_attended}
        return {"F": self.frames, "B": self.batch, "K": limits.clicks, **banks, "video_height": height, "video_width": width}


def plan_memory(task: TrackingTask, engines: Mapping[str, EngineFigures]) -> MemoryPlan:
    """Add up what tracking takes.

    Args:
        task: what is tracked.
        engines: what the engine of each graph takes, with work space for `task.batch` objects.
    """
    weights = [Part(f"weights of {name}", figures.weights, "loaded once") for name, figures in engines.items()]
    others = {name: figures.activation for name, figures in engines.items() if name != "image_encoder"}
    largest = max(others, key=lambda name: others[name])
    spaces = [
        Part("work space of image_encoder", engines["image_encoder"].activation, "its own, as it runs beside the others"),
        Part("work space of the others", others[largest], f"one for all, as they run one after the other; {largest} needs most"),
    ]
    buffers = [Part(name, nbytes, _REASONS[name]) for name, nbytes in task.buffer_bytes().items()]
    allowed = [
        Part("CUDA", CONTEXT_BYTES, "an allowance: context, driver, kernels"),
        Part("recordings", RECORDINGS_BYTES * task.frames, "an allowance: CUDA graphs"),
    ]
    return MemoryPlan((*weights, *spaces, *buffers, *allowed, *_pinned(task)))


def _pinned(task: TrackingTask) -> tuple[Part, Part]:
    """Return the host's share: what uploads go through on two lanes, and results that somebody holds or that are on their way.

    Results come back by the batch, and on frames with prompts by the object. Batches of yet other sizes, where objects come and go, have
    pieces of their own, which are not counted.
    """
    pieces = {task.batch: SLOTS * -(-task.limits.objects // task.batch)} | {1: SLOTS * task.limits.objects}
    results = sum((MOST_LENT + on_their_way) * _result_bytes(batch, task.video_wh) for batch, on_their_way in pieces.items())
    return (
        Part("uploads", 2 * 2 * STAGING_BYTES, "frames and indices on their way to the GPU, two halves each", pinned=True),
        Part("downloads", results, "masks on their way, and those that are held", pinned=True),
    )


def _result_bytes(batch: int, video_wh: tuple[int, int]) -> int:
    """Return the bytes of what comes back of a batch: masks, predicted IoU, presence."""
    arrays = (batch * video_wh[0] * video_wh[1], 4 * batch, 4 * batch)
    return sum(nbytes + -nbytes % _ALIGNMENT for nbytes in arrays)


def fitting_task(session: Session, task: TrackingTask) -> TrackingTask:
    """Return the task with as few frames in one call of the encoder, then as few objects in a batch, as fit into the memory that is free.

    A warning is logged where either is fewer.

    Args:
        session: open, its weights loaded.
        task: what is tracked, with the largest batches; nothing of it is allocated yet.
    """
    needed, memory = _still_needed(session, task), session.memory()
    if needed is None or memory is None:
        return task
    fitting = task
    while (_still_needed(session, fitting) or 0) > memory.available and smaller_task(fitting) != fitting:
        fitting = smaller_task(fitting)
    need, free = told_bytes(needed), told_bytes(memory.available)
    for what, fewer, wanted in (("frames are encoded", fitting.frames, task.frames), ("objects are tracked", fitting.batch, task.batch)):
        if fewer < wanted:
            _log.warning("%s in batches of %d instead of %d, which need %s of GPU memory: %s are free", what, fewer, wanted, need, free)
    return fitting


def _still_needed(session: Session, task: TrackingTask) -> int | None:
    """Return what will be allocated once the engines are loaded; None where the session does not know."""
    space = session.work_space(task.sizes())
    slots = SLOTS if session.overlaps else 1
    return None if space is None else space + sum(task.buffer_bytes(slots).values()) + RECORDINGS_BYTES * task.frames


def smaller_task(task: TrackingTask) -> TrackingTask:
    """Return the task with half of the frames in one call of the encoder, or where that is one with half of the objects in a batch."""
    return replace(task, frames=halved(task.frames)) if task.frames > 1 else replace(task, batch=halved(task.batch))


def halved(batch: int) -> int:
    """Return the next smaller batch to try: a half, rounded up."""
    return (batch + 1) // 2


def told_bytes(nbytes: int) -> str:
    """Return bytes as people read them: `7.4 GiB`, or `120 MiB` below one GiB."""
    return f"{nbytes / 2**30:.1f} GiB" if nbytes >= 2**30 else f"{nbytes / 2**20:.0f} MiB"
