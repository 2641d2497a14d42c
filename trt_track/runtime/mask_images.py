"""Results out: `masks/00000.png`, one palette image per frame, as DAVIS stores them."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from trt_track.errors import OutputError
from trt_track.runtime.output_file import output_errors, write_whole
from trt_track.runtime.palette import davis_palette
from trt_track.runtime.results import FrameResult

_LARGEST_ID: Final = 255


def check_ids(object_ids: Iterable[int]) -> None:
    """Refuse ids that a palette image cannot hold.

    Raises:
        OutputError: an id is not from 1 to 255.
    """
    strangers = [object_id for object_id in object_ids if not 1 <= object_id <= _LARGEST_ID]
    if strangers:
        raise OutputError(
            f"palette images hold object ids from 1 to {_LARGEST_ID}, not {strangers[0]}: "
            f"number the objects anew, or save jsonl instead of png"
        )


def id_map(result: FrameResult) -> npt.NDArray[np.uint8]:
    """Return (H, W) uint8: the object's id at each pixel, 0 where there is none. Where masks overlap the later object holds.

    Raises:
        OutputError: an id is larger than a palette image can hold.
    """
    check_ids(result.object_ids)
    ids = np.zeros(result.masks.shape[1:], np.uint8)
    for object_id, mask in zip(result.object_ids, result.masks, strict=True):
        np.copyto(ids, np.uint8(object_id), where=mask.astype(bool, copy=False))
    return ids


class MaskImageWriter:
    """Writes one PNG per frame, named by the frame's number."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._palette = davis_palette().tobytes()

    def write(self, result: FrameResult) -> None:
        """Write a frame's image.

        Raises:
            OutputError: an id above 255, or the file cannot be written; no incomplete file is left.
        """
        image = Image.fromarray(id_map(result))
        image.putpalette(self._palette)
        content = io.BytesIO()
        image.save(content, "PNG", compress_level=3)
        path = self._folder / f"{result.frame_index:05d}.png"
        with output_errors(path):
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, content.getvalue())

    def close(self) -> None:
        """Do nothing: every file is complete already."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
