"""Memory of a command while it runs, watched from outside through /proc: its own and that of the processes it starts."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import psutil

_POLL_S: Final = 0.02
_CURVE: Final = 20
"""Samples of the resident memory that are kept of each run."""


def watch(command: list[str]) -> dict[str, Any]:
    """Run a command to its end and return what its memory was.

    The peak is the largest sum of VmRSS over the command and its children, or the largest VmHWM of one of them, which is exact where only
    one runs. Pages that several share count for each.

    Raises:
        SystemExit: the command failed.
    """
    started, samples, peak = time.perf_counter(), [], 0
    with TemporaryDirectory() as folder, (Path(folder) / "log").open("w+", encoding="utf-8") as log:
        process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
        while process.poll() is None:
            family = [status for pid in _family(process) if "VmRSS" in (status := _status_bytes(pid))]
            if family:
                samples.append(sum(status["VmRSS"] for status in family))
                peak = max(peak, samples[-1], *(status["VmHWM"] for status in family))
            time.sleep(_POLL_S)
        log.seek(0)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} ended with exit code {process.returncode}:\n{log.read()[-2000:]}")
    curve = [samples[i] / 1e6 for i in np.linspace(0, len(samples) - 1, _CURVE, dtype=int)]
    # Over the last tenth, since the very last samples are of a process that frees everything.
    late = float(np.median(samples[-max(len(samples) // 10, 1) :])) / 1e6
    return {"peak_mb": peak / 1e6, "resident_late_mb": late, "seconds": time.perf_counter() - started, "resident_mb": curve}


def _family(process: psutil.Process) -> Iterator[int]:
    """Yield the process and all that it started, as far as they still run."""
    yield process.pid
    try:
        yield from (child.pid for child in process.children(recursive=True))
    except psutil.NoSuchProcess:
        return


def _status_bytes(pid: int) -> dict[str, int]:
    """Return VmHWM and VmRSS; nothing when the process has gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    values = dict(line.split(":", 1) for line in lines if line.startswith(("VmHWM", "VmRSS")))
    return {name: int(value.split()[0]) * 1024 for name, value in values.items()}
