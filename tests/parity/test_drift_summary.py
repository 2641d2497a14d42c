"""What a drift run comes to, and which limits it misses."""

from dataclasses import replace

import pytest
from drift_rows import row

from trt_track.parity.drift_summary import fitted_slope, summarise
from trt_track.parity.thresholds import Thresholds

LIMITS = replace(Thresholds.read().track("fp16", ()), slope_frames=10)


def summary(rows, limits=LIMITS):
    (found,) = summarise(rows, limits)
    return found


def test_nothing_is_nothing():
    assert summarise([], LIMITS) == []


def test_equal_tracks():
    found = summary([row(frame) for frame in range(20)])
    assert (found.frames, found.judged, found.mean_iou, found.least_iou, found.slope, found.mean_f) == (20, 20, 1.0, 1.0, 0.0, 1.0)
    assert (found.presence, found.choice, found.lost_frame, found.failures, found.passed) == ((), (), None, (), True)
    assert found.slope_judged


@pytest.mark.parametrize(
    ("x", "y", "slope"),
    [([], [], None), ([3], [1.0], None), ([0, 1], [1.0, 0.5], -0.5), ([5, 7, 9], [0.0, 1.0, 2.0], 0.5), ([0, 1, 2, 3], [1, 0, 0, 1], 0.0)],
)
def test_slope_is_that_of_the_nearest_line(x, y, slope):
    assert fitted_slope(x, y) == slope


def test_objects_are_judged_each_for_itself():
    first, second = summarise([*(row(frame) for frame in range(3)), *(row(frame, 0.2, object_id=7) for frame in range(3))], LIMITS)
    assert (first.object_id, first.passed, second.object_id, second.passed) == (1, True, 7, False)
    assert second.lost_frame == 0


@pytest.mark.parametrize(
    ("ious", "failures"),
    [
        ([0.996] * 20, ()),
        ([0.994] * 20, ("mean IoU 0.9940 is under 0.995",)),
        ([1.0] * 9 + [0.94] + [1.0] * 9, ("IoU 0.9400 on frame 9 is under 0.95",)),
        ([1.0 - 2e-4 * frame for frame in range(20)], ("IoU changes by -2.0e-04 a frame, the limit is -0.0001",)),
        ([1.0 - 2e-4 * frame for frame in range(9)], ()),  # too few frames for a slope
        ([0.998 + 1e-4 * frame for frame in range(20)], ()),  # a rise is no fault
        ([0.4] * 20, ("mean IoU 0.4000 is under 0.995", "IoU 0.4000 on frame 0 is under 0.95")),
    ],
)
def test_every_limit_is_judged(ious, failures):
    assert summary([row(frame, iou) for frame, iou in enumerate(ious)]).failures == failures


@pytest.mark.parametrize(
    ("pixels", "found_pixels", "judged", "flips"),
    [
        (99, 99, False, False),
        (99, 5000, False, False),
        (100, 99, True, False),
        (5000, 0, True, True),
        (0, 5000, False, True),
        (0, 100, False, True),
        (0, 99, False, False),
        (99, 0, False, False),
        (0, 0, False, False),
    ],
)
def test_frames_are_left_out_where_the_references_mask_is_small(pixels, found_pixels, judged, flips):
    """A mask that appears where the reference has none is no small matter: one of both sees an object."""
    found = summary([*(row(frame) for frame in range(9)), row(9, 0.0, pixels=pixels, found_pixels=found_pixels)])
    assert found.judged == 9 + judged
    assert found.passed is not judged
    assert found.lost_frame == (9 if judged else None)
    assert found.presence == ((9,) if flips else ())


def test_in_fp32_every_pixel_counts():
    every = replace(LIMITS, small_pixels=0)
    found = summary([row(0), row(1, 0.0, pixels=0, found_pixels=1), row(2, pixels=0)], every)
    assert (found.judged, found.presence) == (3, (1,))


def test_a_run_that_judges_nothing_does_not_pass():
    found = summary([row(frame, pixels=0) for frame in range(9)])
    assert found.failures == ("nothing to judge: no mask of the reference has 100 pixels",)
    assert (found.mean_iou, found.least_iou, found.least_frame, found.slope) == (None, None, None, None)


@pytest.mark.parametrize(
    ("outlines", "limit", "failures"),
    [
        ((1.0, 0.8), None, ()),
        ((1.0, 0.8), 0.9, ()),
        ((1.0, 0.6), 0.9, ("boundary F 0.8000 is under 0.9",)),
        ((None, None), None, ()),
        ((None, None), 0.9, ("boundary F is limited and was not measured: it needs trackeval (pip install 'trt-track[eval]')",)),
    ],
)
def test_outlines_are_judged_where_a_limit_asks_for_it(outlines, limit, failures):
    found = summary([row(frame, boundary_f=value) for frame, value in enumerate(outlines)], replace(LIMITS, mean_f=limit))
    assert found.failures == failures


@pytest.mark.parametrize(("frames", "judged"), [(10, True), (9, False)])
def test_it_says_whether_the_slope_was_judged(frames, judged):
    assert summary([row(frame) for frame in range(frames)]).slope_judged is judged


def test_flips_are_told_with_their_frames_and_what_is_unknown_as_unknown():
    rows = [row(0), row(1, presence_differs=True, logits=None), row(2, choice_differs=True, logits=0.25), row(3, boundary_f=0.5)]
    found = summary(rows)
    assert (found.presence, found.choice, found.logits, found.mean_f) == ((1,), (2,), 0.25, 0.875)
    unknown = summary([row(0, choice_differs=None, boundary_f=None)])
    assert (unknown.choice, unknown.mean_f) == (None, None)
