"""How much memory a computation holds and how much is free: of this process on Linux, as the kernel and its control groups tell it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_KIB: Final = 1024
_PROC: Final = Path("/proc")
_GROUPS: Final = Path("/sys/fs/cgroup")
_GROUP_FILES: Final = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""Of the second and the first version of control groups, by controller: limit, use, and what of the use the kernel can drop."""


@dataclass(frozen=True, slots=True)
class MemoryState:
    """Memory at one moment, in bytes: the host's, or that of a GPU."""

    held: int
    """What the computation holds now."""
    peak: int
    """The most it held so far."""
    available: int
    """What it may take in addition."""


def host_memory(proc: Path = _PROC, groups: Path = _GROUPS) -> MemoryState | None:
    """Return resident and available memory of this process, None where the system does not say (it is not Linux).

    Args:
        proc: where the kernel tells of processes.
        groups: where it tells of control groups, whose limits containers have.
    """
    try:
        own, machine = _table(proc / "self" / "status"), _table(proc / "meminfo")
        rooms = list(_group_rooms(proc, groups))
        return MemoryState(held=own["VmRSS"], peak=own["VmHWM"], available=max(0, min([machine["MemAvailable"], *rooms])))
    except (OSError, KeyError, ValueError):
        return None


def _table(path: Path) -> dict[str, int]:
    """Read lines like `VmRSS:  123 kB`, in bytes."""
    lines = (line.split() for line in path.read_text(encoding="utf-8").splitlines())
    return {words[0].rstrip(":"): int(words[1]) * _KIB for words in lines if len(words) == 3 and words[2] == "kB"}


def _group_rooms(proc: Path, groups: Path) -> Iterator[int]:
    """Yield what each limit on the groups that this process is in leaves, in bytes."""
    for line in (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in _GROUP_FILES:
            mount = groups / controllers
            own = mount / path.lstrip("/")  # inside a container there may be no such folder: its own group is the mount then
            for folder in (own, *own.parents):
                if folder.is_relative_to(mount):
                    yield from _room(folder, *_GROUP_FILES[controllers])


def _room(folder: Path, limit: str, use: str, droppable: str) -> Iterator[int]:
    """Yield what the limit of one group leaves; nothing where it has none."""
    try:
        most = (folder / limit).read_text(encoding="utf-8").strip()
    except OSError:
        return
    if most != "max":
        facts = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines())
        yield int(most) - int((folder / use).read_text(encoding="utf-8")) + int(facts.get(droppable, 0))
