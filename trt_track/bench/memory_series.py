"""Memory of the host and of the device against the number of frames that were tracked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from trt_track.engines.host_memory import host_memory
from trt_track.engines.nvml_door import first_gpu
from trt_track.errors import BackendError

UsedBytes = Callable[[], int | None]
"""Tells what is in use of a device's memory, by whomever; None where that is not known."""
_MB: Final = 1e6
_STATM: Final = Path("/proc/self/statm")


def nothing_used() -> None:
    """Stand in for a device that has no memory of its own."""


def resident_bytes() -> int | None:
    """Return the resident memory of this process, None where the system does not say; quicker than `host_memory`."""
    try:
        return int(_STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


@contextmanager
def device_meter(fallback: UsedBytes) -> Iterator[UsedBytes]:
    """Yield what tells the memory in use of the first GPU: the driver's library where nvidia-ml-py is installed, else `fallback`."""
    try:
        import pynvml
    except ModuleNotFoundError:
        yield fallback
        return
    with ExitStack() as stack:
        try:
            pynvml.nvmlInit()
            stack.callback(pynvml.nvmlShutdown)
            handle = first_gpu(pynvml)
            pynvml.nvmlDeviceGetMemoryInfo(handle)
        except (pynvml.NVMLError, BackendError):  # no driver, or one that does not tell of a part of a GPU, or of which of several
            yield fallback
            return
        yield lambda: int(pynvml.nvmlDeviceGetMemoryInfo(handle).used)


@dataclass
class MemorySeries:
    """Samples of one run; MB are 10^6 bytes."""

    used: UsedBytes
    before: int = 0
    """Bytes of the device that were in use before the side came."""
    samples: list[tuple[int, float | None, float | None]] = field(default_factory=list)
    """Frames tracked, resident MB of the process, MB of the device."""

    def sample(self, frame: int) -> None:
        """Look now, when so many frames are tracked."""
        device = self.used()
        self.samples.append((frame, _mb(resident_bytes()), _mb(None if device is None else device - self.before)))

    def figures(self) -> dict[str, Any]:
        """Return the samples and the peaks, as JSON values."""
        host = host_memory()
        device = [sample[2] for sample in self.samples if sample[2] is not None]
        return {
            "host_peak_mb": _mb(host.peak if host else None),
            "device_peak_mb": max(device, default=None),
            "samples": {
                "frame": [sample[0] for sample in self.samples],
                "host_mb": [sample[1] for sample in self.samples],
                "device_mb": [sample[2] for sample in self.samples],
            },
        }


def growth_mb_per_frame(samples: dict[str, list[Any]], key: str, *, skip: int) -> float | None:
    """Return the slope of a series by least squares, from frame `skip` on; None where fewer than two samples have a value."""
    kept = [(frame, value) for frame, value in zip(samples["frame"], samples[key], strict=True) if frame >= skip and value is not None]
    if len(kept) < 2:
        return None
    frames, values = zip(*kept, strict=True)
    return float(np.polyfit(frames, values, 1)[0])


def _mb(count: int | None) -> float | None:
    return None if count is None else round(count / _MB, 3)
