"""CPU seconds of each thread of this process, as the Linux kernel counts them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_TASKS: Final = Path("/proc/self/task")


def thread_seconds(tasks: Path = _TASKS) -> dict[int, float]:
    """Return CPU seconds by the thread's number; nothing where the system does not say (it is not Linux).

    Args:
        tasks: the folder in which each thread has one.
    """
    found = {}
    for task in tasks.iterdir() if tasks.is_dir() else ():
        try:
            found[int(task.name)] = _seconds(task)
        except (OSError, ValueError, IndexError):  # the thread has just ended
            continue
    return found


def _seconds(task: Path) -> float:
    """Read nanoseconds where the kernel keeps them, else clock ticks, of which there are a hundred in a second."""
    try:
        return int((task / "schedstat").read_text(encoding="ascii").split()[0]) / 1e9
    except OSError:
        fields = (task / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def spent(before: dict[int, float], after: dict[int, float]) -> dict[int, float]:
    """Return the seconds of each thread between two looks; a thread that ended meanwhile is missing."""
    return {thread: seconds - before.get(thread, 0.0) for thread, seconds in after.items()}
