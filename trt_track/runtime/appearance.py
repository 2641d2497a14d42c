"""What an object covers, what it looks like and what is remembered of that: regions, measures of overlap, colour histograms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from trt_track.runtime.frames import ImageU8
from trt_track.runtime.results import FrameResult, mask_boxes

Histogram = npt.NDArray[np.float32]
"""(4096,) float32, 0 or more, adding up to 1."""
Box = Sequence[float] | npt.NDArray[Any]
"""Four numbers x0, y0, x1, y1 in pixels, x1 and y1 exclusive."""

_BINS: Final = 16
"""Per channel: 16 grey levels each."""
_BLUR_ORDER: Final = 8
"""Of the binomial kernel: a standard deviation of 1.4 bins, 23 grey levels, about what light changes within a scene."""
_LEAST_NEWS: Final = 0.1
"""Weight of the newest look in the mean, at least: light changes, and objects turn."""
_MOST_PIXELS: Final = 16384
"""Of one object, about, that are counted: more change nothing, and large objects would cost milliseconds."""


_NEARNESS: Final = 0.2
"""Weight of place beside colours: it decides between objects that look the same, and hardly matters where colours tell."""
_REACH: Final = 0.1
"""By how many of its own sizes a frame an object may stray from where its last movement would have led it."""


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """A mask, cut to a box."""

    box_xyxy_px: tuple[int, int, int, int]
    """Tight around a mask from `regions_of`."""
    mask_hw: npt.NDArray[np.bool_]
    """(y1 - y0, x1 - x0)."""

    @property
    def area_px(self) -> int:
        """Pixels of the mask."""
        return int(np.count_nonzero(self.mask_hw))

    def part(self, box_xyxy_px: tuple[int, int, int, int]) -> npt.NDArray[np.bool_]:
        """Return what of the mask lies in a box, cut to where both boxes overlap; a view."""
        left, top = self.box_xyxy_px[:2]
        x0, y0, x1, y1 = _common(self.box_xyxy_px, box_xyxy_px)
        return self.mask_hw[y0 - top : y1 - top, x0 - left : x1 - left]

    def share_under(self, others: Sequence[Region]) -> float:
        """Return which share of the mask's pixels belongs to at least one of the others, 0 to 1."""
        covered = np.zeros_like(self.mask_hw)
        left, top = self.box_xyxy_px[:2]
        for other in others:
            x0, y0, x1, y1 = _common(self.box_xyxy_px, other.box_xyxy_px)
            covered[y0 - top : y1 - top, x0 - left : x1 - left] |= other.part((x0, y0, x1, y1))
        return int(np.count_nonzero(covered & self.mask_hw)) / max(self.area_px, 1)

    def split(self, box_xyxy_px: Box) -> tuple[Region, Region]:
        """Return what of the mask lies in a box, and what outside."""
        left, top = self.box_xyxy_px[:2]
        x0, y0, x1, y1 = _common(self.box_xyxy_px, _whole_pixels(box_xyxy_px))
        outer = self.mask_hw.copy()
        outer[y0 - top : y1 - top, x0 - left : x1 - left] = False
        return Region(self.box_xyxy_px, self.mask_hw & ~outer), Region(self.box_xyxy_px, outer)

    def iou(self, other: Region) -> float:
        """Return the intersection over the union of two masks, 0 to 1."""
        shared = int(np.count_nonzero(self.part(other.box_xyxy_px) & other.part(self.box_xyxy_px)))
        return shared / (self.area_px + other.area_px - shared)


def regions_of(result: FrameResult) -> dict[int, Region]:
    """Return what each object of a result covers, by its id: those that are in the frame (presence > 0) and whose mask is not empty."""
    regions = {}
    for position, box in enumerate(mask_boxes(result.masks).tolist()):
        x0, y0, x1, y1 = box
        if x1 > x0 and result.presence[position] > 0:
            cut = result.masks[position, y0:y1, x0:x1].astype(bool, copy=False)
            regions[result.object_ids[position]] = Region((x0, y0, x1, y1), cut)
    return regions


def share_inside(box_xyxy_px: Box, region: Region) -> float:
    """Return which share of a mask's pixels lies inside a box, 0 to 1."""
    return int(np.count_nonzero(region.part(_whole_pixels(box_xyxy_px)))) / max(region.area_px, 1)


def span(box_xyxy_px: Box, regions: Sequence[Region]) -> float:
    """Return which share of a box is taken by the tight box around what lies in it of all the masks together, 0 to 1."""
    box = _whole_pixels(box_xyxy_px)
    tight = []
    for region in regions:
        x0, y0 = _common(region.box_xyxy_px, box)[:2]
        inner = mask_boxes(region.part(box)[None])[0]
        if inner[2] > 0:
            tight.append(np.add(inner, (x0, y0, x0, y0)))
    if not tight:
        return 0.0
    low, high = np.min(tight, axis=0)[:2], np.max(tight, axis=0)[2:]
    return float(np.prod(high - low)) / ((box[2] - box[0]) * (box[3] - box[1]))


def affinity(box_xyxy_px: Box, region: Region) -> float:
    """Return how well a box and a mask fit: the share of the mask that lies in the box, times the share of the box that this part spans.

    Both are needed: a small mask in a large box lies inside it wholly, a small box on a large mask is spanned wholly. For a mask m that
    fills its tight box the product is |box and m|^2 / (|box| |m|), close to their IoU. The IoU of the box with the mask's own tight box
    would be the simpler measure, but a few stray pixels of the mask far away halve it; here strays count by their number alone.

    Returns:
        0 where they do not touch, to 1 where the box is the mask's tight box.
    """
    return share_inside(box_xyxy_px, region) * span(box_xyxy_px, [region])


def box_iou(first_xyxy_px: Box, second_xyxy_px: Box) -> float:
    """Return the intersection over the union of two boxes with an area, 0 to 1."""
    one, two = np.asarray(first_xyxy_px, np.float64), np.asarray(second_xyxy_px, np.float64)
    sides = np.minimum(one[2:], two[2:]) - np.maximum(one[:2], two[:2])
    shared = float(np.prod(np.maximum(sides, 0)))
    return shared / float(np.prod(one[2:] - one[:2]) + np.prod(two[2:] - two[:2]) - shared)


def colour_histogram(pixels_rgb: ImageU8) -> Histogram:
    """Count colours in 16 x 16 x 16 bins, and blur the counts over neighbouring bins.

    Without the blur a plain surface whose brightness changes by one grey level could fall from one bin into the next and share nothing
    with itself; with it the similarity stays above 0.8.

    Args:
        pixels_rgb: (..., 3) uint8, at least one pixel.
    """
    coarse = (pixels_rgb.reshape(-1, 3) // (256 // _BINS)).astype(np.intp)
    places = (coarse[:, 0] * _BINS + coarse[:, 1]) * _BINS + coarse[:, 2]
    counts = np.bincount(places, minlength=_BINS**3).reshape(_BINS, _BINS, _BINS).astype(np.float32)
    blurred = np.einsum("ai,bj,ck,ijk->abc", _BLUR, _BLUR, _BLUR, counts, optimize=True).ravel()
    return np.asarray(blurred / blurred.sum(), np.float32)


def similarity(first: Histogram, second: Histogram) -> float:
    """Return the Bhattacharyya coefficient of two histograms: 0 where they share no colour, to 1 where they are the same."""
    return float(np.sqrt(first * second).sum())


def look_of(frame_rgb_hwc: ImageU8, region: Region) -> Histogram:
    """Return the colours of the pixels under a mask; of a large object a regular grid of about 16384 pixels is counted."""
    x0, y0, x1, y1 = region.box_xyxy_px
    step = max(1, math.isqrt(region.area_px // _MOST_PIXELS))
    mask = region.mask_hw[::step, ::step]
    if step == 1 or not mask.any():
        step, mask = 1, region.mask_hw
    return colour_histogram(frame_rgb_hwc[y0:y1:step, x0:x1:step][mask])


@dataclass(frozen=True, slots=True, eq=False)
class Sighting:
    """An object on a frame."""

    frame: int
    box_xyxy_px: Box
    """The detector's where there is one: a mask that spreads to a neighbour moves its own box at once."""
    look: Histogram

    @property
    def centre_xy(self) -> npt.NDArray[np.float64]:
        """Of the box, (2,) in pixels."""
        box = np.asarray(self.box_xyxy_px, np.float64)
        return (box[:2] + box[2:]) / 2


class Appearance:
    """What is remembered of an object: its colours, its place and how it moved."""

    def __init__(self, first: Sighting) -> None:
        self.look, self.seen = first.look, 1
        self._last = first
        self._velocity_xy = np.zeros(2)

    def learn(self, now: Sighting) -> None:
        """Take a sighting in: its look into a running mean, in which the newest counts for a tenth at least."""
        self.seen += 1
        share = np.float32(max(1 / self.seen, _LEAST_NEWS))
        self.look = (1 - share) * self.look + share * now.look
        self._velocity_xy = (now.centre_xy - self._last.centre_xy) / max(now.frame - self._last.frame, 1)
        self._last = now

    def resemblance(self, look: Histogram) -> float:
        """Return how much colours are the object's, 0 to 1."""
        return similarity(self.look, look)

    def likeness(self, now: Sighting) -> float:
        """Return how much a sighting looks like the object, 0 to 1, plus at most 0.2 for being where it would be now."""
        frames = now.frame - self._last.frame
        away = float(np.linalg.norm(now.centre_xy - self._last.centre_xy - self._velocity_xy * frames))
        x0, y0, x1, y1 = self._last.box_xyxy_px
        reach = math.sqrt((x1 - x0) * (y1 - y0)) * (1 + _REACH * frames)
        return self.resemblance(now.look) + _NEARNESS * math.exp(-away / reach)


def _common(first: tuple[int, int, int, int], second: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Return where two boxes overlap; without any overlap a box of no area inside the first one."""
    x0, y0 = min(max(first[0], second[0]), first[2]), min(max(first[1], second[1]), first[3])
    return x0, y0, max(min(first[2], second[2]), x0), max(min(first[3], second[3]), y0)


def _whole_pixels(box_xyxy_px: Box) -> tuple[int, int, int, int]:
    """Round a box to whole pixels, of which it keeps at least one."""
    x0, y0, x1, y1 = (round(float(value)) for value in box_xyxy_px)
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)


def _blur_matrix() -> npt.NDArray[np.float32]:
    """Return (bins, bins): each bin spread over its neighbours by a binomial kernel; what would leave the range stays in the last bin."""
    matrix = np.zeros((_BINS, _BINS), np.float32)
    for source in range(_BINS):
        for step in range(_BLUR_ORDER + 1):
            target = min(max(source + step - _BLUR_ORDER // 2, 0), _BINS - 1)
            matrix[target, source] += math.comb(_BLUR_ORDER, step) / 2**_BLUR_ORDER
    return matrix


_BLUR: Final = _blur_matrix()
