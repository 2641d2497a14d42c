"""The most memory that a stage took, as the file of the detections and `run.json` state it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from trt_track.engines.host_memory import MemoryState, host_memory

_CPU: Final = "CPU"
"""How a session calls the device that is no GPU."""


@dataclass(frozen=True, slots=True)
class MemoryPeak:
    """In bytes; None for what is not known."""

    resident: int | None = None
    """Of the host's memory, that the process had at most since it was started."""
    gpu: int | None = None
    """In use on the GPU at most, whoever holds it; None, too, where the CPU computes."""

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Read what `to_json` wrote, or None for nothing known; raises TypeError or ValueError for anything else."""
        told = {} if data is None else data
        if not isinstance(told, Mapping) or not all(value is None or type(value) is int for value in told.values()):
            raise ValueError(f"{data!r} are no amounts of memory")
        return cls(**told)

    def to_json(self) -> dict[str, int | None]:
        """Return the peak as JSON values."""
        return asdict(self)


def peak_so_far(device: str, state: MemoryState | None) -> MemoryPeak:
    """Return the most that this process took so far; a session keeps what it took, so that its work's end is the time to ask.

    Args:
        device: what computes: a GPU's name, or `CPU`.
        state: what it says of its memory, None where it does not.
    """
    host = host_memory()
    return MemoryPeak(host.peak if host else None, state.peak if state and device != _CPU else None)
