"""How many frames a detector gets at once: as many as the memory that is free has room for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from trt_track.engines.host_memory import MemoryState

MOST_FRAMES: Final = 16
"""Frames of one call, however much memory there is."""
SHARE: Final = 0.5
"""Of the available memory that a batch may take. The other half is for what runs beside it, and for ONNX Runtime, whose arena grows in
powers of two, to twice of what is needed at worst."""
_LEAST_GROWTH: Final = 1 << 20
"""Bytes of a frame at least: below, a measurement is noise."""


class BatchSize:
    """Sizes the batches of one pass: a first small one whose memory is measured, then those that fit."""

    def __init__(self, fewest: int, most: int, memory: Callable[[], MemoryState | None]) -> None:
        """Begin small.

        Args:
            fewest: frames of the first batch: one, or what a model's file fixes.
            most: frames of any batch, at least `fewest`.
            memory: tells the memory that batches take from; None where it is not known, then all batches stay small.
        """
        self.frames = fewest
        self._fewest, self._most, self._memory = fewest, most, memory
        self._measured = fewest == most

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Surround the work on one batch; after the first one `frames` is what fits."""
        before = None if self._measured else self._memory()
        yield
        after = None if before is None else self._memory()
        if before is not None and after is not None:
            self.frames = fitting_frames(before, after, self._fewest, self._most)
        self._measured = True

    def step_down(self, frames: int) -> bool:
        """Make batches smaller for good, after one of `frames` that there was no memory for; False where they cannot be."""
        if frames <= self._fewest:
            return False
        self.frames = self._most = max(self._fewest, (frames + 1) // 2)
        return True


def fitting_frames(before: MemoryState, after: MemoryState, fewest: int, most: int) -> int:
    """Return how many frames fit.

    The work's memory is taken as its peak less what was held before it. That is exact if it made the peak; a higher peak from before, of
    the loading, makes it too large, which is safe.

    Args:
        before: memory before a batch of `fewest` frames.
        after: memory after it.
        fewest: returned at least.
        most: returned at most.
    """
    of_each = max(after.peak - before.held, _LEAST_GROWTH) / fewest
    return max(fewest, min(most, int(SHARE * after.available / of_each)))
