"""Writing files so that what is there can always be read: whole or not at all, and errors in one line."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av

from trt_track.errors import OutputError


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn what the system or libavformat say of a file that cannot be written into one line.

    Raises:
        OutputError: an OSError or FFmpegError happened inside.
    """
    try:
        yield
    except (OSError, av.FFmpegError) as error:
        raise OutputError(f"{path}: {_reason(error)}") from error


def _reason(error: OSError | av.FFmpegError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; what was written before is kept"
    if error.errno == errno.EFBIG:
        return "the file became larger than this system allows; what was written before is kept"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "no permission to write here: choose another folder"
    return f"cannot be written ({error.strerror or error})"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears under its name only when it is complete.

    Raises:
        OSError: it cannot be written; nothing is left of it.
    """
    draft = path.with_name(f".{path.name}.part")
    try:
        draft.write_bytes(content)
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
