"""A fragmented mp4 on disk, which stays playable when writing it fails."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO


class FragmentFile(io.FileIO):
    """The file that libavformat writes through; its errors reach Python as they are."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "wb")
        self._path = path

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        """Write all of `data`: a plain file may stop in the middle and report that as success."""
        rest = memoryview(data)
        while rest:
            rest = rest[super().write(rest) :]
        return len(data)

    def abandon(self) -> None:
        """Close the file and cut off a fragment that is not complete."""
        self.close()
        with suppress(OSError):  # a device has no length
            with self._path.open("rb") as file:
                end = complete_bytes(file)
            os.truncate(self._path, end)


def complete_bytes(file: BinaryIO) -> int:
    """Return how many bytes of an mp4 make up its header and complete fragments."""
    end = 0
    for kind, box_end in _boxes(file):
        if kind != b"moof":  # an index without its data
            end = box_end
    return end


def _boxes(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yield (type, offset of its end) of the complete boxes at the top level: 32-bit length, type, content."""
    length = file.seek(0, os.SEEK_END)
    start = 0
    while start + 8 <= length:
        file.seek(start)
        head = file.read(16)
        size = int.from_bytes(head[:4], "big")
        if size == 1:
            size = int.from_bytes(head[8:16], "big")
        if size < 8 or start + size > length:
            return
        start += size
        yield head[4:8], start
