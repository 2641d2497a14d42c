"""What is measured: the settings of one bench, and the order for one run of it in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trt_track.engines.recordings import TURNS
from trt_track.parity.weights import UpstreamModel
from trt_track.runtime.memory_plan import SLOTS

OURS: Final = "ours"
UPSTREAM: Final = "upstream"
COMPILED: Final = "upstream-compiled"
SIDES: Final = (OURS, UPSTREAM, COMPILED)
"""trt-track; `SAM2VideoPredictor` in eager PyTorch; the same with `vos_optimized=True`."""
CPU: Final = "cpu"
CUDA: Final = "cuda"
FULL: Final = 16
"""Frames until an object that came on the first one has all its memories and pointers."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What all runs of one bench share."""

    clip: Path
    frames: int
    """Of the clip that are tracked, from its first one."""
    skip: int
    """Frames at the start of each run that the steady figures leave out."""
    bundle: Path
    backend: str
    threads: int
    """Of every side, where it computes on the CPU."""
    device: str
    """Where upstream computes: `cpu` or `cuda`."""
    precision: str
    """What upstream computes in: `fp32` or `bf16`."""
    flush_denormals: bool
    """Whether PyTorch takes denormal numbers as zero, which it does not by itself."""
    upstream: UpstreamModel | None
    """None where nothing of upstream is measured."""

    @property
    def every(self) -> int:
        """Frames from one sample of the memory to the next."""
        return max(1, self.frames // 25)

    def warm_up(self, side: str, ahead: int = 1) -> int:
        """Return the frames that a side tracks before it is measured, more than `frames` where that is not enough.

        A GPU and a compiler prepare for every number of memories that comes up. Ours on a GPU then records what comes up again and again,
        for every frame in flight by itself: the memories must have been full for as many frames as that takes.

        Args:
            side: one of `SIDES`.
            ahead: frames of one call of the encoder, of ours.
        """
        if side == OURS and self.device == CUDA:
            return max(self.skip, FULL) + TURNS * SLOTS * ahead
        prepares = side == COMPILED or self.device == CUDA
        return min(self.frames, self.skip + 2 if prepares else 2)


@dataclass(frozen=True, slots=True)
class RunOrder:
    """One side with one number of objects, once."""

    settings: Settings
    side: str
    objects: int
    repeat: int
    masks: Path
    """File for the masks that it finds."""

    @property
    def name(self) -> str:
        """How progress calls it."""
        return f"{self.side}, {self.objects} object{'' if self.objects == 1 else 's'}"


@dataclass(frozen=True, slots=True)
class Plan:
    """All runs of a bench."""

    settings: Settings
    sides: tuple[str, ...]
    objects: tuple[int, ...]
    repeats: int

    def orders(self, scratch: Path) -> Iterator[RunOrder]:
        """Yield the runs: all sides in turn, then the next number of objects, then all again, so that noise hits every side."""
        for repeat in range(self.repeats):
            for objects in self.objects:
                for side in self.sides:
                    yield RunOrder(self.settings, side, objects, repeat, scratch / f"{repeat}-{objects}-{side}.masks")

    @property
    def count(self) -> int:
        """Runs in all."""
        return self.repeats * len(self.objects) * len(self.sides)
