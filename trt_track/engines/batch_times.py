"""`batch_times.json`: how long a batch of tracked objects takes on a device, and which batches are quickest for it.

Whether one large batch or several small ones are faster differs from GPU to GPU, so it is measured (`trt-track tune`) where the bundle
lies, and tracking splits its objects as the table says. Masks do not depend on it beyond the last bits.
"""

from __future__ import annotations

import json
import os
import platform
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Self

from trt_track.engines.file_record import write_atomically
from trt_track.engines.manifest import read_json
from trt_track.engines.session import Session
from trt_track.errors import BundleError, OutputError

FORMAT: Final = 1
BATCH_TIMES: Final = "batch_times.json"
_WORTH: Final = 0.97
"""Share of the time of as few batches as possible that more batches may take at most: below, the difference may be noise."""


@dataclass(frozen=True, slots=True)
class BatchTimes:
    """Milliseconds of one tracked batch, measured on one device."""

    backend: str
    version: str
    """Of the library that computes."""
    device: str
    """See `device_of`."""
    milliseconds: Mapping[int, float]
    """By objects of the batch, at least for one object, rising."""

    def __post_init__(self) -> None:
        sizes = list(self.milliseconds)
        if not sizes or sizes[0] != 1 or sizes != sorted(set(sizes)) or min(self.milliseconds.values()) <= 0:
            raise ValueError(f"batch times must begin with one object, rise in objects and be positive, not {dict(self.milliseconds)}")

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote; raises KeyError, TypeError or ValueError for anything else."""
        times = {int(objects): float(value) for objects, value in data["milliseconds"].items()}
        return cls(str(data["backend"]), str(data["version"]), str(data["device"]), times)

    def to_json(self) -> dict[str, Any]:
        """Return the table as JSON values."""
        times = {str(objects): round(value, 4) for objects, value in self.milliseconds.items()}
        return {"backend": self.backend, "version": self.version, "device": self.device, "milliseconds": times}

    def belongs_to(self, session: Session) -> bool:
        """Tell whether it was measured with what a session computes with."""
        return (self.backend, self.version, self.device) == (session.backend, session.version, device_of(session))

    def split(self, objects: int, most: int) -> tuple[int, ...]:
        """Return the batches that take the least time together, the largest first.

        Sizes between measured ones count as on a line between them, larger ones as on the line through the two largest. As few batches as
        possible are taken unless more save 3 %.

        Args:
            objects: to be tracked, 1 or more.
            most: objects of one batch at most, 1 or more.
        """
        return _split(tuple(self.milliseconds.items()), objects, most)

    def widest(self, objects: int, most: int) -> int:
        """Return the largest batch of any split of up to so many objects: what buffers are to be made for."""
        return max(self.split(count, most)[0] for count in range(1, objects + 1))


def widest_batch(session: Session, objects: int, times: BatchTimes | None) -> int:
    """Return the objects of the largest batch for up to so many objects: as a session advises, or as was measured.

    What a session advises is a rule; a measurement overrules it as far as it went. What engines were built for is a bound.
    """
    built = min(objects, session.max_objects or objects)
    if times is None:
        return min(built, session.max_batch)
    return times.widest(objects, min(built, max(session.max_batch, *times.milliseconds)))


def device_of(session: Session) -> str:
    """Return the GPU's name, or how many threads of which processor compute."""
    threads = getattr(session, "threads", None)
    return session.device if threads is None else f"{session.device}, {threads} threads, {platform.processor() or platform.machine()}"


@lru_cache(maxsize=4096)
def _split(measured: tuple[tuple[int, float], ...], objects: int, most: int) -> tuple[int, ...]:
    largest = min(most, objects)
    costs = [0.0, *(_estimate(measured, size) for size in range(1, largest + 1))]
    best: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    for count in range(1, objects + 1):
        choices = ((costs[size] + best[count - size][0], -size) for size in range(1, min(largest, count) + 1))
        cost, negative = min(choices)
        best.append((cost, tuple(sorted((*best[count + negative][1], -negative), reverse=True))))
    fewest = tuple(_fewest(objects, largest))
    return best[objects][1] if best[objects][0] < _WORTH * sum(costs[size] for size in fewest) else fewest


def _estimate(measured: tuple[tuple[int, float], ...], objects: int) -> float:
    """Return the milliseconds of a batch, read off the line through its measured neighbours; no objects take no time."""
    known = ((0, 0.0), *measured)
    right = min(max(bisect_left(known, (objects, 0.0)), 1), len(known) - 1)
    (before, earlier), (after, later) = known[right - 1], known[right]
    estimate = earlier + (later - earlier) * (objects - before) / (after - before)
    return estimate if objects <= after else max(estimate, later)


def _fewest(objects: int, largest: int) -> Iterator[int]:
    """Fill batches one after the other."""
    while objects:
        yield min(objects, largest)
        objects -= min(objects, largest)


def find_batch_times(folder: Path, session: Session) -> BatchTimes | None:
    """Return what was measured for a bundle with what a session computes with; None where nothing was.

    Args:
        folder: the bundle's.
        session: open on that bundle.

    Raises:
        BundleError: `batch_times.json` is damaged.
    """
    return next((times for times in _read(folder / BATCH_TIMES) if times.belongs_to(session)), None)


def check_batch_times(folder: Path) -> None:
    """Look whether a table can be kept, before anything is measured.

    Raises:
        BundleError: the file that is there is damaged.
        OutputError: the folder cannot be written.
    """
    _read(folder / BATCH_TIMES)
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{folder} cannot be written: copy the bundle to where it can and measure it there")


def keep_batch_times(folder: Path, times: BatchTimes) -> Path:
    """Put a table beside those of other devices, in the place of an older one of the same device; return the file.

    Raises:
        BundleError: the file that is there is damaged.
        OutputError: it cannot be written.
    """
    path = folder / BATCH_TIMES
    others = [known for known in _read(path) if (known.backend, known.device) != (times.backend, times.device)]
    data = {"format": FORMAT, "measured": [known.to_json() for known in (*others, times)]}
    try:
        write_atomically(path, (json.dumps(data, indent=1) + "\n").encode())
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error}): copy the bundle to where it can and measure it there") from error
    return path


def _read(path: Path) -> list[BatchTimes]:
    if not path.exists():
        return []
    remedy = f"delete {path} and run trt-track tune again"
    data = read_json(path, otherwise=remedy)
    if data.get("format") != FORMAT:
        raise BundleError(f"{path} has format {data.get('format')!r} instead of {FORMAT}: {remedy}")
    try:
        return [BatchTimes.from_json(item) for item in data["measured"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"{path} is malformed ({type(error).__name__}: {error}): {remedy}") from error
