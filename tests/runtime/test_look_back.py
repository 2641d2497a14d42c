"""What is held back: frames under their own numbers, results that are joined. With a tracker: test_detected_tracks.py."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from trt_track.runtime.frames import VideoInfo
from trt_track.runtime.look_back import HeldPictures, picture_of, with_objects
from trt_track.runtime.results import FrameResult

INFO = VideoInfo("clip", 6, 4, 40, Fraction(30), 0, Path("clip"))


def result(frame, rows, *, kept=False):
    """Return a frame on which each object's arrays are full of its number."""
    values = np.array(list(rows.values()), np.float32)
    masks = np.repeat(np.repeat((values > 0)[:, None, None], 4, axis=1), 6, axis=2)
    logits = np.repeat(np.repeat(values[:, None, None, None], 2, axis=2), 2, axis=3) if kept else None
    chosen = values.astype(np.int32) if kept else None
    picture = np.full((4, 6, 3), frame, np.uint8)
    return FrameResult(frame, frame / 30, tuple(rows), masks, values / 10, values, logits, picture, chosen=chosen)


def values(joined):
    return dict(zip(joined.object_ids, joined.presence.tolist(), strict=True))


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize(
    ("first", "second", "taken", "expected"),
    [
        ({}, {}, [], {}),
        ({1: 5}, {2: 6}, [], {1: 5}),
        ({}, {2: 6, 1: 7}, [1], {1: 7}),
        ({1: 5}, {2: 6, 3: 7}, [3, 2], {1: 5, 3: 7, 2: 6}),
        ({1: -5, 4: 2}, {1: 6}, [1], {4: 2, 1: 6}),  # an object that was lost there
        ({1: -5}, {1: 6}, [1], {1: 6}),
    ],
)
def test_objects_join_a_result(first, second, taken, expected, kept):
    joined = with_objects(result(3, first, kept=kept), result(3, second, kept=kept), taken)
    assert values(joined) == expected
    numbers = list(expected.values())
    np.testing.assert_allclose(joined.ious, np.array(numbers) / 10, rtol=1e-6)
    assert joined.masks.all(axis=(1, 2)).tolist() == [number > 0 for number in numbers]
    if kept:
        assert joined.chosen.tolist() == numbers
        assert joined.logits[:, 0, 1, 1].tolist() == numbers
    else:
        assert joined.logits is joined.chosen is None


def test_a_frame_that_had_no_objects_takes_the_logits_of_the_first_one():
    assert with_objects(result(3, {}), result(3, {2: 6}, kept=True), [2]).chosen.tolist() == [6]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"reverse": True, "start": 12, "stop": 9}, [12, 11, 10]),
        ({"reverse": True, "start": 12}, [12, 11, 10, 9]),
        ({"reverse": True}, [13, 12, 11, 10, 9]),
        ({}, [9, 10, 11, 12, 13]),
        ({"start": 10, "stop": 12}, [10, 11]),
        ({"only": {3, 11}}, [11]),
    ],
)
@pytest.mark.parametrize("keep_video", [False, True])
def test_held_pictures_are_read_under_their_own_numbers(asked, expected, keep_video):
    held = HeldPictures(INFO, {frame: result(frame, {}) for frame in range(9, 14)})
    frames = list(held.frames(size=8, keep_video=keep_video, **asked))
    assert [frame.index for frame in frames] == expected
    assert [frame.time_s for frame in frames] == [index / 30 for index in expected]
    for frame in frames:
        assert frame.model_rgb_hwc.shape == (8, 8, 3)
        assert (frame.model_rgb_hwc == frame.index).all()
        assert (frame.video_rgb_hwc is not None) == keep_video
    held.close()


def test_a_result_without_its_picture_is_refused():
    with pytest.raises(ValueError, match="frame 3 comes without its picture"):
        picture_of(replace(result(3, {}), video_rgb_hwc=None))
