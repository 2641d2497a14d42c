"""How long batches of objects take: the step of the loop on one frame, from memory attention to masks on the host, with full memories."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np

from trt_track.engines.session import Session
from trt_track.runtime.bank import MemoryBank
from trt_track.runtime.steps import Steps
from trt_track.specs import Limits, ModelSpec

SIZES: Final = (1, 2, 4, 8, 16)
"""Objects of the batches that are measured; those between are read off a line."""
WARM_UP: Final = 4
"""Runs before the first that counts: a sequence is recorded when it comes up for the third time."""
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

    Larger batches than the device has memory for are left out. Memories are zeros and the frame is noise: no time depends on what is in
    them.

    Args:
        session: open on the model's bundle.
        model: sizes.
        objects: of the largest batch.
        video_wh: pixels of the masks that come out.
        rounds: `TOGETHER` frames each, after `WARM_UP` such.
        on_round: called after each with the objects of its batch, the rounds done and those in all.

    Raises:
        DeviceMemoryError: there is no room for a single object.
        EngineRunError: an engine failed.
    """
    limits = Limits(objects=objects)
    steps = Steps(session, model, limits, video_wh)
    noise = np.random.default_rng(0).integers(0, 256, (model.image_size, model.image_size, 3), dtype=np.uint8)
    slots = [
        steps.encode([noise])[0] for _ in range(2 if session.overlaps else 1)
    ]  # results of one are on their way while the other is used
    sizes = _sizes(min(steps.batch, objects))
    for place, size in enumerate(sizes):
        bank, tracked, taken = MemoryBank(model, limits, frame_count=1 << 20), range(1, size + 1), []
        first = _fill(bank, model, tracked)
        for number in range(WARM_UP + rounds):
            start, frames = time.perf_counter(), range(first + number * TOGETHER, first + (number + 1) * TOGETHER)
            asked = [one for frame in frames for one in steps.follow(slots[frame % len(slots)], tracked, frame, bank)]
            for one in asked:
                one.outcomes()
            taken.append((time.perf_counter() - start) / TOGETHER * 1e3)
            on_round(size, place * (WARM_UP + rounds) + number + 1, len(sizes) * (WARM_UP + rounds))
        if steps.batch < size:  # memory ran short on the way: this was no batch of that size, and no larger one can be had
            return
        yield size, statistics.median(taken[WARM_UP:])


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
