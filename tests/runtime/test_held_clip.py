"""Clips in memory: they yield what a video source would, and refuse what is no clip."""

import numpy as np
import pytest

from trt_track.errors import VideoError
from trt_track.runtime.held_clip import HeldClip
from trt_track.runtime.video import open_video


@pytest.fixture(scope="module")
def clip(carphone):
    return HeldClip.read(carphone, size=64, frames=6)


def pictures(count, height=30, width=40):
    return [np.full((height, width, 3), index, np.uint8) for index in range(count)]


def test_reads_what_the_file_has(carphone, clip):
    assert clip.info.frame_count == len(clip.held) == 6
    assert clip.held[0].model_rgb_hwc.shape == (64, 64, 3)
    assert HeldClip.read(carphone, size=32, frames=1).damage is None


def test_refuses_a_file_that_is_none(tmp_path):
    with pytest.raises(VideoError, match="no such file"):
        HeldClip.read(tmp_path / "no.mp4", size=64, frames=5)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"stop": 4}, [0, 1, 2, 3]),
        ({"start": 2, "stop": 4}, [2, 3]),
        ({"start": 1, "stop": 3}, [1, 2]),
        ({"reverse": True, "start": 3}, [3, 2, 1, 0]),
        ({"reverse": True, "start": 3, "stop": 1}, [3, 2]),
        ({"only": (0, 3)}, [0, 3]),
        ({"reverse": True, "start": 3, "only": {0, 2, 9}}, [2, 0]),
    ],
)
def test_yields_what_a_video_source_would(carphone, clip, options, expected):
    with open_video(carphone) as source:
        read = list(source.frames(size=64, **options))
    held = list(clip.first(4).frames(size=64, **options))
    assert [frame.index for frame in held] == [frame.index for frame in read] == expected
    for one, other in zip(held, read, strict=True):
        np.testing.assert_array_equal(one.model_rgb_hwc, other.model_rgb_hwc)
        assert one.time_s == other.time_s


def test_ends_where_it_was_cut(clip):
    assert [frame.index for frame in clip.first(3).frames(size=64)] == [0, 1, 2]
    assert [frame.index for frame in clip.first(3).frames(size=64, reverse=True)] == [2, 1, 0]
    assert [frame.index for frame in clip.frames(size=64, stop=100)] == [0, 1, 2, 3, 4, 5]


def test_refuses_another_size_and_pictures_that_were_not_kept(clip):
    with pytest.raises(ValueError, match="another model"):
        next(clip.frames(size=128))
    with pytest.raises(ValueError, match="another model"):
        next(clip.frames(size=64, keep_video=True))


def test_pictures_are_kept_and_scaled():
    held = HeldClip.of_pictures(pictures(3), size=64)
    assert (held.info.width, held.info.height, held.info.frame_count) == (40, 30, 3)
    frames = list(held.frames(size=64, keep_video=True))
    assert [frame.time_s for frame in frames] == [0, 1 / 30, 2 / 30]
    assert [int(frame.model_rgb_hwc.mean()) for frame in frames] == [int(frame.video_rgb_hwc.mean()) for frame in frames] == [0, 1, 2]
    assert frames[0].model_rgb_hwc.shape == (64, 64, 3)
    assert frames[0].video_rgb_hwc.shape == (30, 40, 3)


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        [*pictures(1), *pictures(1, height=31)],
        [np.zeros((30, 40, 3), np.float32)],
        [np.zeros((30, 40), np.uint8)],
        [np.zeros((30, 40, 4), np.uint8)],
    ],
)
def test_refuses_what_are_no_pictures_of_one_clip(wrong):
    with pytest.raises(VideoError, match=r"^frames: "):
        HeldClip.of_pictures(wrong, size=64)
