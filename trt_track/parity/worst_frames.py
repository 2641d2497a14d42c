"""The frames on which masks differ most, as pictures: the reference's outline and the found one over the frame, cropped."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from trt_track.parity.drift import DriftRow, FrameDrift
from trt_track.parity.drift_summary import presence_flips
from trt_track.parity.thresholds import TrackLimits

ImageU8 = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

REFERENCE_RGB: Final = (40, 190, 255)
FOUND_RGB: Final = (255, 138, 0)
_WINDOW: Final = 10
"""Frames of which one is shown at most: neighbours look alike."""
_MARGIN: Final = 0.3
"""Of the masks' size, around them."""
_LEAST_PX: Final = 72
"""Side of a crop at least."""
_WIDTH_PX: Final = 360
_MOST_SCALE: Final = 6
_TINT: Final = 0.45


@dataclass(frozen=True, slots=True, eq=False)
class WorstFrame:
    """One object on one frame, cropped around it."""

    row: DriftRow
    crop_rgb_hwc: ImageU8
    found_hw: Mask
    wanted_hw: Mask

    def png(self) -> bytes:
        """Return the picture as a PNG."""
        file = io.BytesIO()
        Image.fromarray(self.picture()).save(file, "PNG", optimize=True)
        return file.getvalue()

    def picture(self) -> ImageU8:
        """Draw both outlines; what only one of them covers is tinted in its colour. Small crops are enlarged."""
        height, width = self.found_hw.shape
        scale = min(max(_WIDTH_PX / width, 0.25), _MOST_SCALE)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        image = np.array(Image.fromarray(self.crop_rgb_hwc).resize(size, Image.Resampling.BICUBIC))
        found, wanted = (np.array(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)) for mask in (self.found_hw, self.wanted_hw))
        for only, color in ((wanted & ~found, REFERENCE_RGB), (found & ~wanted, FOUND_RGB)):
            image[only] = ((1 - _TINT) * image[only] + _TINT * np.array(color)).astype(np.uint8)
        image[_outline(wanted, 3)] = REFERENCE_RGB
        image[_outline(found, 1)] = FOUND_RGB
        return image


class WorstFrames:
    """The worst frames so far, a few; all others are forgotten."""

    def __init__(self, most: int, limits: TrackLimits) -> None:
        """Keep `most` frames at most; masks that are too small to be judged are not looked at."""
        self._most, self._limits = most, limits
        self._kept: dict[tuple[int, int], WorstFrame] = {}

    def offer(self, drift: FrameDrift, reference: str) -> None:
        """Look at one frame, whose result has its picture."""
        for row in drift.rows[reference]:
            place = (row.object_id, row.frame // _WINDOW)
            beaten = self._kept.get(place)
            unjudged = self._limits.too_small(row.pixels) and not presence_flips(row, self._limits)
            if row.iou == 1 or unjudged or (beaten and beaten.row.iou <= row.iou):
                continue
            if (worst := _cropped(drift, reference, row)) is not None:
                self._kept[place] = worst
            if len(self._kept) > self._most:
                del self._kept[max(self._kept, key=lambda one: self._kept[one].row.iou)]

    @property
    def frames(self) -> list[WorstFrame]:
        """What is kept, the worst first."""
        return sorted(self._kept.values(), key=lambda worst: worst.row.iou)


def _cropped(drift: FrameDrift, reference: str, row: DriftRow) -> WorstFrame | None:
    """Cut an object out of a frame; None where the result has no picture."""
    picture = drift.result.video_rgb_hwc
    if picture is None:
        return None
    pair = [seen.get(row.object_id) for seen in (drift.seen, drift.references[reference])]
    found, wanted = (np.zeros(picture.shape[:2], bool) if seen is None else seen.mask_hw for seen in pair)
    window = _window(found | wanted)
    return WorstFrame(row, picture[window].copy(), found[window].copy(), wanted[window].copy())


def _window(mask_hw: Mask) -> tuple[slice, slice]:
    """Return rows and columns around a mask that has pixels."""
    slices = []
    for axis in (0, 1):
        held = np.flatnonzero(mask_hw.any(axis=1 - axis))
        first, last, size = int(held[0]), int(held[-1]) + 1, mask_hw.shape[axis]
        pad = max(round(_MARGIN * (last - first)), (_LEAST_PX - (last - first)) // 2, 0)
        slices.append(slice(max(first - pad, 0), min(last + pad, size)))
    return slices[0], slices[1]


def _outline(mask_hw: Mask, line_px: int) -> Mask:
    """Return a mask's pixels that are at most `line_px` from its edge; the picture's border is no edge."""
    inner = mask_hw
    for _ in range(line_px):
        padded = np.pad(inner, 1, mode="edge")
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    edge: Mask = mask_hw & ~inner
    return edge
