"""Results out: `tracks.jsonl`, one line of JSON per frame, masks as COCO run lengths."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from pycocotools import mask as coco_mask

from trt_track.runtime.output_file import output_errors
from trt_track.runtime.results import FrameResult, mask_boxes


def frame_record(result: FrameResult) -> dict[str, Any]:
    """Return the JSON value of one frame.

    `{"frame": 0, "time_s": 0.0, "objects": [{"id": 1, "score": 0.97, "box": [x0, y0, x1, y1], "segmentation": {"size": [h, w],
    "counts": "..."}}]}`. A box is tight around its mask, in pixels, x1 and y1 exclusive: x1 - x0 is its width. An object whose mask is
    empty is left out of `objects`, so a frame where nothing is seen has an empty list. An object that a detector found has its `label`.
    `segmentation` is what `pycocotools.mask.decode`
    takes.
    """
    boxes = mask_boxes(result.masks)
    scores = result.scores
    objects = [
        {
            "id": int(object_id),
            **({"label": result.labels[position]} if result.labels else {}),
            "score": round(float(scores[position]), 4),
            "box": boxes[position].tolist(),
            "segmentation": _run_lengths(result.masks[position]),
        }
        for position, object_id in enumerate(result.object_ids)
        if boxes[position, 2] > 0
    ]
    return {"frame": result.frame_index, "time_s": round(result.time_s, 6), "objects": objects}


def _run_lengths(mask_hw: np.ndarray) -> dict[str, Any]:
    encoded = coco_mask.encode(np.asfortranarray(mask_hw, np.uint8))
    return {"size": [int(size) for size in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


class JsonlWriter:
    """Appends one complete line per frame as it comes. A frame that is tracked anew gets a new line: the last one holds."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._good_bytes = 0

    def write(self, result: FrameResult) -> None:
        """Write a frame's line.

        Raises:
            OutputError: the file cannot be written; it ends with the last complete line.
        """
        line = json.dumps(frame_record(result), separators=(",", ":")).encode() + b"\n"
        with output_errors(self._path):
            self._append(line)

    def _append(self, line: bytes) -> None:
        if self._file is None:
            self._file = self._path.open("wb", buffering=0)
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            with suppress(OSError):  # a device has no length
                self._file.truncate(self._good_bytes)
            raise
        self._good_bytes += len(line)

    def close(self) -> None:
        """Close the file; without any result there is none."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
