"""Seconds from result to result, and what is said of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

Result = TypeVar("Result")


@dataclass
class Intervals:
    """Wall-clock and CPU seconds of every frame of one run."""

    off_the_clock: Callable[[], float] = lambda: 0.0
    """Returns seconds spent so far that are nobody's fault and are taken off."""
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    """Of all threads of the process."""

    def watch(self, results: Iterable[Result]) -> Iterator[Result]:
        """Pass results on; what the receiver does with one counts as part of it."""
        before = self._clocks()
        for result in results:
            yield result
            now = self._clocks()
            self.wall_s.append(now[0] - before[0])
            self.cpu_s.append(now[1] - before[1])
            before = now

    def _clocks(self) -> tuple[float, float]:
        off = self.off_the_clock()
        return time.perf_counter() - off, time.process_time() - off


def steady_figures(runs: Iterable[Intervals], *, skip: int) -> dict[str, float]:
    """Return the figures of all frames of all runs but the first `skip` of each."""
    kept = list(runs)
    wall = np.concatenate([run.wall_s[skip:] for run in kept])
    cpu = np.concatenate([run.cpu_s[skip:] for run in kept])
    return {
        "frames": len(wall),
        "frames_per_s": float(1 / wall.mean()),
        "frame_s_median": float(np.median(wall)),
        "frame_s_p95": float(np.percentile(wall, 95)),
        "frame_cpu_s": float(cpu.mean()),
    }
