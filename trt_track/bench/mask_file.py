"""Masks of a whole run, a bit a pixel, in a file that is written frame by frame; and how equal two such files are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from trt_track.parity.measures import mask_iou

ROUNDED_PIXELS: Final = 4
"""Pixels that may differ in any mask: on its rim a logit is so near zero that rounding decides, and one pixel of a small mask is a lot."""


class MaskFile:
    """Takes the masks of one run."""

    def __init__(self, path: Path) -> None:
        """Open the file; what was there is replaced."""
        self._file = path.open("wb")

    def write(self, masks: np.ndarray) -> None:
        """Append the masks (B, H, W) bool of one frame."""
        np.packbits(masks.reshape(-1)).tofile(self._file)

    def close(self) -> None:
        """Finish the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def read_masks(path: Path, shape: tuple[int, int, int]) -> Iterator[np.ndarray]:
    """Yield the masks (B, H, W) bool of each frame.

    Args:
        path: a file that `MaskFile` wrote.
        shape: B, H, W.
    """
    bits = int(np.prod(shape))
    with path.open("rb") as file:
        while packed := file.read((bits + 7) // 8):
            yield np.unpackbits(np.frombuffer(packed, np.uint8), count=bits).reshape(shape).view(np.bool_)


def compare_masks(ours: Path, theirs: Path, shape: tuple[int, int, int], *, bound: float) -> dict[str, Any]:
    """Compare every mask of two runs of equally many frames.

    Args:
        ours: the one file.
        theirs: the other file.
        shape: objects, height and width in pixels.
        bound: least IoU that counts as equal; masks with few different pixels do in any case.

    Returns:
        Number of masks, least IoU and where it is, how many are not equal, and how many of `theirs` are empty or full.

    Raises:
        ValueError: one run has more frames.
    """
    ious, off, trivial = [], 0, 0
    for mine, other in zip(read_masks(ours, shape), read_masks(theirs, shape), strict=True):
        ious.append([mask_iou(a, b) for a, b in zip(mine, other, strict=True)])
        different = np.count_nonzero(mine ^ other, axis=(1, 2))
        off += int(np.count_nonzero((np.array(ious[-1]) < bound) & (different > ROUNDED_PIXELS)))
        trivial += sum(bool(mask.all() or not mask.any()) for mask in other)
    table = np.array(ious)
    frame, row = (int(i) for i in np.unravel_index(int(table.argmin()), table.shape))
    return {
        "masks": table.size,
        "least_iou": float(table.min()),
        "worst": {"frame": frame, "object": row + 1},
        "under_bound": off,
        "bound": bound,
        "empty_or_full": trivial,
    }
