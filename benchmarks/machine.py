"""What a benchmark ran on, and the JSON file that carries its figures together with that and the command that made them."""

from __future__ import annotations

import json
import os
import platform
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from trt_track.engines.onnxruntime_session import default_threads
from trt_track.errors import BackendError

RESULTS: Final = Path(__file__).parent / "results"

_QUIET_LOAD: Final = 0.5
"""Load above which a benchmark warns: somebody else is at work."""

_PACKAGES: Final = {
    "trt_track": ("trt-track",),
    "torch": ("torch",),
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime"),
    "sam2": ("sam2",),
    "transformers": ("transformers",),
    "tensorrt_rtx": ("tensorrt-rtx-cu13",),
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


class Report:
    """A result file. Every `write` replaces it as a whole, so that it can be written again as figures come."""

    def __init__(self, name: str, path: Path | None = None) -> None:
        """Look at the machine now, before the benchmark loads it.

        Args:
            name: of the file in `benchmarks/results/`, without suffix.
            path: where to write instead.
        """
        self.path = path or RESULTS / f"{name}.json"
        facts = machine_facts()
        self.head = {"command": _command(), "machine": facts}
        if facts["load_1_min"] > _QUIET_LOAD:
            print(f"warning: the load is {facts['load_1_min']}: these figures are not worth keeping", file=sys.stderr)

    def write(self, figures: dict[str, Any]) -> None:
        """Write the figures behind the command and the machine."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".part")
        draft.write_text(json.dumps({**self.head, **figures}, indent=1) + "\n", encoding="utf-8")
        draft.replace(self.path)


def _command() -> str:
    return " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


def _gpu_name() -> str | None:
    from trt_track.engines.cuda_door import find_gpu

    try:
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
