"""Worst frames: which are kept, and what is drawn."""

import io

import numpy as np
import pytest
from PIL import Image

from trt_track.parity.drift import FrameDrift, Seen, compare_frame
from trt_track.parity.thresholds import Thresholds
from trt_track.parity.worst_frames import FOUND_RGB, REFERENCE_RGB, WorstFrames
from trt_track.runtime.results import FrameResult

LIMITS = Thresholds.read().track("fp16", ())
LOGITS = np.zeros((1, 2, 2), np.float32)
GREY = 90


def square(left, side=40, top=30):
    mask = np.zeros((120, 200), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def drift(frame, found, wanted, *, picture=True):
    """One object on one frame of 200 x 120 pixels."""
    ours, theirs = ({1: Seen(mask, LOGITS, present=True, chosen=0)} for mask in (found, wanted))
    numbers = np.ones(1, np.float32)
    video = np.full((*found.shape, 3), GREY, np.uint8) if picture else None
    result = FrameResult(frame, 0.0, (1,), found[None], numbers, numbers, video_rgb_hwc=video)
    return FrameDrift(result, ours, {"fp32": theirs}, {"fp32": compare_frame(frame, ours, theirs, None)})


def kept(*drifts, most=3):
    worst = WorstFrames(most, LIMITS)
    for one in drifts:
        worst.offer(one, "fp32")
    return worst.frames


def test_the_worst_come_first_and_only_a_few_are_kept():
    frames = kept(*(drift(20 * index, square(50 + shift), square(50)) for index, shift in enumerate((3, 12, 1, 8, 20, 2))))
    assert [one.row.frame for one in frames] == [80, 20, 60]


def test_of_neighbouring_frames_the_worst_is_kept():
    frames = kept(*(drift(frame, square(50 + shift), square(50)) for frame, shift in ((30, 3), (31, 9), (32, 5), (40, 1))))
    assert [one.row.frame for one in frames] == [31, 40]


@pytest.mark.parametrize(
    "harmless",
    [drift(0, square(50), square(50)), drift(0, square(50, 9), square(54, 9)), drift(0, square(50), square(90), picture=False)],
    ids=["equal", "small", "no picture"],
)
def test_what_is_not_shown(harmless):
    assert kept(harmless) == []


def test_picture_is_cropped_around_both_masks_and_shows_both_outlines():
    (worst,) = kept(drift(0, square(60), square(50)))
    assert worst.crop_rgb_hwc.shape[0] < 120
    assert worst.crop_rgb_hwc.shape[1] < 200
    assert (worst.found_hw.sum(), worst.wanted_hw.sum()) == (1600, 1600)
    picture = np.asarray(Image.open(io.BytesIO(worst.png())))
    colors = {tuple(color) for color in picture.reshape(-1, 3).tolist()}
    only_wanted, only_found = (tuple(int(0.55 * GREY + 0.45 * value) for value in color) for color in (REFERENCE_RGB, FOUND_RGB))
    assert {REFERENCE_RGB, FOUND_RGB, only_wanted, only_found, (GREY,) * 3} <= colors


def test_small_things_are_enlarged_and_the_frames_edge_is_no_outline():
    (worst,) = kept(drift(0, square(0, 12, 0), square(4, 12, 0)))
    picture = worst.picture()
    assert picture.shape[1] >= 240
    assert tuple(picture[0, 0]) not in {REFERENCE_RGB, FOUND_RGB}


@pytest.mark.parametrize("found_only", [True, False])
def test_an_object_that_only_one_of_both_has_is_shown(found_only):
    nothing = np.zeros((120, 200), bool)
    (worst,) = kept(drift(0, *((square(50), nothing) if found_only else (nothing, square(50)))))
    assert worst.found_hw.any() is np.bool_(found_only)
    assert worst.picture().shape[2] == 3
