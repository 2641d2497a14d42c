"""What a benchmark ran on: the machine, the versions, the date, and how busy it was."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from trt_track.engines.onnxruntime_session import default_threads
from trt_track.errors import BackendError

_PACKAGES: Final = {
    "trt_track": ("trt-track",),
    "torch": ("torch",),
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime"),
    "sam2": ("sam2",),
    "transformers": ("transformers",),
    "tensorrt_rtx": ("tensorrt-rtx-cu13",),
    "tensorrt": ("tensorrt-cu13",),
    "numpy": ("numpy",),
}
"""Name in the file -> the distributions that may provide it."""


def machine_facts() -> dict[str, Any]:
    """Return the machine, the versions, the date, and how busy the machine was when the benchmark began."""
    return {
        "cpu": _cpu_model(),
        "cores": default_threads(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "gpu": _gpu_name(),
        "load_1_min": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {name: _version(distributions) for name, distributions in _PACKAGES.items()},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


def _gpu_name() -> str | None:
    try:
        from trt_track.engines.cuda_door import find_gpu

        return find_gpu().name
    except BackendError:
        return None


def _version(distributions: tuple[str, ...]) -> str | None:
    for name in distributions:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None
