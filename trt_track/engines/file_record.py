"""A file's seal: where it lies in its folder, how large it is and its SHA-256; nothing is read from disk without it."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file inside a folder, as a manifest lists it."""

    file: str
    """Path relative to the folder, with forward slashes, never leading out of it."""
    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        parts = PurePosixPath(self.file).parts
        if not parts or self.file.startswith("/") or ".." in parts or "\\" in self.file or ":" in self.file:
            raise ValueError(f"file {self.file!r} leads out of its folder")

    @classmethod
    def of(cls, root: Path, path: Path) -> Self:
        """Seal the file `path`, which lies below `root`."""
        return cls(path.relative_to(root).as_posix(), file_sha256(path), path.stat().st_size)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote; raises KeyError, TypeError or ValueError for anything else."""
        return cls(str(data["file"]), str(data["sha256"]), int(data["bytes"]))

    def to_json(self) -> dict[str, Any]:
        """Return the seal as JSON values."""
        return {"file": self.file, "sha256": self.sha256, "bytes": self.bytes}

    def path(self, root: Path) -> Path:
        """Return where the file lies when its folder is `root`."""
        return root / self.file

    def presence_problem(self, root: Path) -> str | None:
        """Say what is wrong with the file without reading it: missing, a link out of the folder, another size."""
        path = self.path(root)
        if not path.is_file():
            return f"{path} is missing"
        if not path.resolve().is_relative_to(root.resolve()):
            return f"{path} is a link that leads out of its folder"
        if (size := path.stat().st_size) != self.bytes:
            return f"{path} has {size} bytes instead of {self.bytes}"
        return None

    def problem(self, root: Path) -> str | None:
        """Say what is wrong with the file, its content included; None when it is the sealed one."""
        if problem := self.presence_problem(root):
            return problem
        if file_sha256(self.path(root)) != self.sha256:
            return f"{self.path(root)} was changed after it was written (SHA-256 differs)"
        return None


def file_sha256(path: Path) -> str:
    """Return a file's SHA-256 as 64 hex digits, reading it in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Write a whole file or nothing: into a neighbour first, then renamed."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with draft.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
