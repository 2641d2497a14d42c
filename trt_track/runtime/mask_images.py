"""Results out: `masks/00000.png`, one palette image per frame, as DAVIS stores them."""

from __future__ import annotations

import io
import logging
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

_log = logging.getLogger(__name__)
_LARGEST_ID: Final = 255


def check_ids(object_ids: Iterable[int]) -> None:
    """Refuse ids that a palette image cannot hold, where they are known before a run: during one they are left out.

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
    """Return (H, W) uint8: the object's id at each pixel, 0 where there is none or one above 255. Where masks overlap the later holds."""
    ids = np.zeros(result.masks.shape[1:], np.uint8)
    for object_id, mask in zip(result.object_ids, result.masks, strict=True):
        if object_id <= _LARGEST_ID:
            np.copyto(ids, np.uint8(object_id), where=mask.astype(bool, copy=False))
    return ids


class MaskImageWriter:
    """Writes one PNG per frame, named by the frame's number. Objects with ids above 255, for which it has no value, are left out."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._palette = davis_palette().tobytes()
        self._warned = False

    def write(self, result: FrameResult) -> None:
        """Write a frame's image.

        Raises:
            OutputError: the file cannot be written; no incomplete file is left.
        """
        self._warn_once(result)
        image = Image.fromarray(id_map(result))
        image.putpalette(self._palette)
        content = io.BytesIO()
        image.save(content, "PNG", compress_level=3)
        path = self._folder / f"{result.frame_index:05d}.png"
        with output_errors(path):
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, content.getvalue())

    def _warn_once(self, result: FrameResult) -> None:
        largest = max(result.object_ids, default=0)
        if largest > _LARGEST_ID and not self._warned:
            self._warned = True
            _log.warning(
                "frame %d: object %d is left out of the mask images, as all from %d on will be: a palette image has no value for them; "
                "tracks.jsonl and the video hold every object",
                *(result.frame_index, largest, _LARGEST_ID + 1),
            )

    def close(self) -> None:
        """Do nothing: every file is complete already."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
