"""How long batches of objects take: the step of the loop on one frame, from memory attention to masks on the host, with full memories."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np

from trt_track.engines.host_memory import MemoryState
from trt_track.engines.session import Session
from trt_track.runtime.bank import MemoryBank
from trt_track.runtime.steps import FrameSlot, Steps
from trt_track.specs import Limits, ModelSpec

SIZES: Final = (1, 2, 4, 8, 16)
"""Objects of the batches that are measured; those between are read off a line."""
WARM_UP: Final = 4
"""Runs before the first that counts: a sequence is recorded when it comes up for the third time."""
WORSE: Final = 1.03
"""Times the milliseconds of an object in a smaller batch: above, a larger batch is slower and not merely as fast."""
TOGETHER: Final = 4
"""Frames that are asked for before the first is waited for, so that a GPU is not waited for each time."""


def batch_milliseconds(  # noqa: PLR0913 - what is measured, and how
    session: Session,
    model: ModelSpec,
    *,
    objects: int,
    video_wh: tuple[int, int],
    rounds: int,
    on_round: Callable[[int, int, int], None] = lambda objects, done, total: None,
) -> Iterator[tuple[int, float]]:
    """Yield the objects of a batch and the median milliseconds that it takes: for 1, 2, 4, 8, 16 up to `objects`, that number included.

    Larger batches than there is memory for are left out. So are, on a processor, those beyond the first one that takes longer for an object
    than a smaller one does: from there on it only gets worse, and takes long. Memories are zeros and the frame is noise: no time depends on
    what is in them.

    Args:
        session: open on the model's bundle.
        model: sizes.
        objects: of the largest batch, whatever the session advises, but no more than its engines take.
        video_wh: pixels of the masks that come out.
        rounds: `TOGETHER` frames each, after `WARM_UP` such.
        on_round: called after each with the objects of its batch, the rounds done and those in all.

    Raises:
        DeviceMemoryError: there is no room for a single object.
        EngineRunError: an engine failed.
    """
    most = min(objects, session.max_objects or objects)
    steps, before = Steps(session, model, Limits(objects=most), video_wh, batch=most), session.memory()
    noise = np.random.default_rng(0).integers(0, 256, (model.image_size, model.image_size, 3), dtype=np.uint8)
    # results of one are on their way while the other is used
    slots = [steps.encode([noise])[0] for _ in range(2 if session.overlaps else 1)]
    sizes, each, best = _sizes(min(steps.batch, most)), WARM_UP + rounds, float("inf")
    for place, size in enumerate(sizes):
        if place and not _has_room(before, session.memory(), size / sizes[place - 1]):
            return
        taken = []
        for number, milliseconds in enumerate(_rounds(steps, slots, size, each), start=1):
            taken.append(milliseconds)
            on_round(size, place * each + number, len(sizes) * each)
        if steps.batch < size:  # memory ran short on the way: this was no batch of that size, and no larger one can be had
            return
        median = statistics.median(taken[WARM_UP:])
        yield size, median
        if median / size > WORSE * best and not session.overlaps:
            return
        best = min(best, median / size)


def _rounds(steps: Steps, slots: Sequence[FrameSlot], size: int, rounds: int) -> Iterator[float]:
    """Yield the milliseconds of a frame, round by round."""
    bank, tracked = MemoryBank(steps.model, Limits(objects=size), frame_count=1 << 20), range(1, size + 1)
    first = _fill(bank, steps.model, tracked)
    for number in range(rounds):
        start, frames = time.perf_counter(), range(first + number * TOGETHER, first + (number + 1) * TOGETHER)
        asked = [one for frame in frames for one in steps.follow(slots[frame % len(slots)], tracked, frame, bank)]
        for one in asked:
            one.outcomes()
        yield (time.perf_counter() - start) / TOGETHER * 1e3


def _has_room(before: MemoryState | None, now: MemoryState | None, times: float) -> bool:
    """Tell whether a batch so many times as large fits, by what those so far took; a machine that runs out of memory ends processes."""
    if before is None or now is None:
        return True
    return (now.peak - before.held) * (times - 1) <= now.available


def _sizes(most: int) -> list[int]:
    return sorted({size for size in SIZES if size < most} | {most})


def _fill(bank: MemoryBank, model: ModelSpec, objects: Sequence[int]) -> int:
    """Write into the books what objects remember that have been tracked for long; return the next frame."""
    frames = max(model.memory_frames, model.pointer_frames) + 1
    for object_id in objects:
        bank.condition(object_id, 0)
        for frame in range(1, frames):
            bank.remember(object_id, frame)
    return frames
