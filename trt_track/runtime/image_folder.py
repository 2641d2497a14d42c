"""Clips in: a folder of JPEG or PNG frames, read as upstream SAM 2 reads one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from trt_track.errors import VideoError
from trt_track.runtime.frames import Frame, FrameRequest, VideoInfo, frame_of

FOLDER_FRAME_RATE: Final = Fraction(30)
"""A folder says nothing about time; this is assumed."""

_SUFFIXES: Final = (".jpg", ".jpeg", ".png")
_UNREADABLE: Final = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what Pillow raises for a damaged image


class ImageFolder:
    """The frames of a folder in the order of the numbers in their names; names that are no images are left out.

    An EXIF orientation is ignored, as upstream ignores it.
    """

    def __init__(self, folder: Path) -> None:
        """Check that there are frames and that all have one size.

        Raises:
            VideoError: no image, an unreadable one, or one of another size.
        """
        self.damage: str | None = None
        self._files = frame_files(folder)
        if not self._files:
            raise VideoError(f"{folder}: the folder holds no frames; expected files like 00000.jpg or 00000.png")
        width, height = _shared_size(self._files)
        self.info = VideoInfo(
            name=folder.resolve().name,
            width=width,
            height=height,
            frame_count=len(self._files),
            frame_rate=FOLDER_FRAME_RATE,
            rotation_deg=0,
            path=folder,
        )

    def read(self, request: FrameRequest) -> Iterator[Frame]:
        """Yield the frames asked for; see `FrameReader.read`."""
        self.damage = None
        for index in filter(request.wants, request.indexes):
            try:
                frame = self._frame(index, request)
            except _UNREADABLE as error:
                reason = f"frame {index} of {self.info.frame_count} cannot be read ({self._files[index].name}: {error})"
                if request.indexes.step < 0:
                    raise VideoError(f"{self.info.name}: {reason}") from error
                self.damage = f"the clip ends early: {reason}"
                return
            yield frame

    def _frame(self, index: int, request: FrameRequest) -> Frame:
        # Pixel for pixel what upstream computes: https://github.com/facebookresearch/sam2/blob/2b90b9f5ceec907a1c18123530e92e794ad901a4/sam2/utils/misc.py#L94
        with Image.open(self._files[index]) as image:
            rgb = image.convert("RGB")
        model = np.array(rgb.resize((request.size, request.size)))
        return frame_of(index, float(index / self.info.frame_rate), model, np.array(rgb) if request.keep_video else None)


def frame_files(folder: Path) -> list[Path]:
    """Return the frames of a folder in their order.

    Raises:
        VideoError: it cannot be read.
    """
    return sorted((file for file in _entries(folder) if _is_frame(file)), key=_natural_order)


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise VideoError(f"{folder}: the folder cannot be read ({error.strerror})") from error


def _is_frame(file: Path) -> bool:
    return file.suffix.lower() in _SUFFIXES and not file.name.startswith(".") and file.is_file()


def _natural_order(file: Path) -> tuple[tuple[int, str], ...]:
    """Order names by the numbers in them: `f2` before `f10`."""
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", file.stem))


def _shared_size(files: list[Path]) -> tuple[int, int]:
    """Return the (width, height) that all images share, from their headers."""
    shared = _image_size(files[0])
    for file in files[1:]:
        size = _image_size(file)
        if size != shared:
            raise VideoError(
                f"{file.parent}: all frames must have one size, but {files[0].name} is {shared[0]}x{shared[1]} "
                f"and {file.name} is {size[0]}x{size[1]}"
            )
    return shared


def _image_size(file: Path) -> tuple[int, int]:
    try:
        with Image.open(file) as image:
            return image.size
    except _UNREADABLE as error:
        raise VideoError(f"{file}: not an image that can be read") from error
