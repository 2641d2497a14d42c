"""Kernels that TensorRT for RTX compiled on this machine, kept from one process to the next in the user's cache."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Self

from trt_track.engines.engine_record import EngineFolder
from trt_track.engines.file_record import write_atomically
from trt_track.engines.library import cache_folder

_log = logging.getLogger(__name__)


class KernelFile:
    """The file of one bundle's engines on one kind of GPU. Nothing depends on it but the time until the first frame."""

    def __init__(self, path: Path) -> None:
        """Name the file; it need not be there."""
        self.path = path
        self._content: bytes | None = None

    @classmethod
    def of(cls, engines: EngineFolder, gpu: str) -> Self:
        """Return the file that belongs to engines on a GPU, by their SHA-256 and its name."""
        told = [engines.flavour, engines.version, gpu, *sorted(record.engine.sha256 for record in engines.records.values())]
        return cls(cache_folder() / "kernels" / f"{hashlib.sha256(chr(10).join(told).encode()).hexdigest()[:32]}.bin")

    def read(self) -> bytes | None:
        """Return what an earlier process kept, None where nothing is there or it cannot be read."""
        try:
            self._content = self.path.read_bytes()
        except OSError:
            return None
        return self._content

    def write(self, content: bytes) -> None:
        """Keep kernels, unless they are those that were read; where that is not possible it is logged."""
        if content == self._content:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, content)
        except OSError as error:
            _log.info("compiled kernels cannot be kept in %s: %s", self.path, error)
        else:
            self._content = content
