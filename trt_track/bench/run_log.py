"""What one run of one side leaves behind: seconds and memory of every frame, its threads' CPU time, its masks."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from trt_track.bench.intervals import Intervals
from trt_track.bench.mask_file import MaskFile
from trt_track.bench.memory_series import MemorySeries
from trt_track.bench.order import RunOrder
from trt_track.bench.thread_times import spent, thread_seconds
from trt_track.bench.worker import Send
from trt_track.errors import VideoError


def no_seconds() -> float:
    """Stand in where nothing is taken off."""
    return 0.0


class RunLog:
    """Follows the results of a run from frame to frame.

    Seconds count from result to result. Packing the masks, a bit a pixel, is part of every side's frame: it is what takes the results here.
    """

    def __init__(self, order: RunOrder, memory: MemorySeries, send: Send, *, off_the_clock: Callable[[], float] = no_seconds) -> None:
        """Prepare.

        Args:
            order: which run.
            memory: takes the samples.
            send: tells the parent how far the run is.
            off_the_clock: seconds of the main thread so far that are taken off.
        """
        self.order, self.memory, self.send, self.off = order, memory, send, off_the_clock
        self.intervals = Intervals(off_the_clock=off_the_clock)
        self.whole_s = 0.0
        self._steady: list[tuple[float, float, dict[int, float]]] = []

    def follow(self, results: Iterable[np.ndarray]) -> None:
        """Take the masks (B, H, W) bool of every frame.

        Raises:
            VideoError: there are fewer frames than were asked for.
        """
        settings = self.order.settings
        gc.collect()
        started, off = time.perf_counter(), self.off()
        with MaskFile(self.order.masks) as masks:
            for frame, found in enumerate(self.intervals.watch(results), start=1):
                masks.write(found)
                if frame == settings.skip:
                    self._look()
                if frame % settings.every == 0:
                    self.memory.sample(frame)
                    self.send("frame", frame)
        if len(self.intervals.wall_s) != settings.frames:
            raise VideoError(f"{settings.clip} ends after {len(self.intervals.wall_s)} frames: choose a smaller --frames")
        self.whole_s = time.perf_counter() - started - (self.off() - off)
        self._look()

    def _look(self) -> None:
        self._steady.append((time.perf_counter(), self.off(), thread_seconds()))

    def figures(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "side": self.order.side,
            "objects": self.order.objects,
            "repeat": self.order.repeat,
            "whole_s": round(self.whole_s, 6),
            "frame_s": [round(seconds, 6) for seconds in self.intervals.wall_s],
            "cpu_s": [round(seconds, 6) for seconds in self.intervals.cpu_s],
            "busiest_thread": self._busiest(),
            "memory": self.memory.figures(),
        }

    def _busiest(self) -> dict[str, float] | None:
        """Return CPU seconds and utilisation of the thread that worked most in the steady frames; None where that is not known."""
        (start, off_start, before), (end, off_end, after) = self._steady
        off = off_end - off_start
        seconds = spent(before, after)
        if not seconds:
            return None
        seconds[os.getpid()] = seconds.get(os.getpid(), 0.0) - off  # the main thread has the number of its process
        busiest = max(seconds.values())
        return {"cpu_s": round(busiest, 6), "utilisation": round(busiest / (end - start - off), 4)}
