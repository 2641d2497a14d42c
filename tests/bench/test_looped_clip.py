import numpy as np
import pytest

from trt_track.bench.looped_clip import LoopedClip
from trt_track.errors import VideoError
from trt_track.runtime.video import open_video


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    from PIL import Image

    folder = tmp_path_factory.mktemp("clip")
    for number in range(5):
        Image.fromarray(np.full((40, 60, 3), 40 * number, np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize(
    ("start", "stop", "expected"), [(None, None, range(13)), (3, 12, range(3, 12)), (6, 7, range(6, 7)), (0, 5, range(5))]
)
def test_a_short_clip_is_played_again(pictures, start, stop, expected):
    with LoopedClip(pictures, 13) as clip, open_video(pictures) as once:
        assert (clip.info.frame_count, clip.info.width, clip.info.height) == (13, 60, 40)
        known = [frame.model_rgb_hwc for frame in once.frames(size=32)]
        found = list(clip.frames(size=32, start=start, stop=stop))
    assert [frame.index for frame in found] == list(expected)
    for frame in found:
        np.testing.assert_array_equal(frame.model_rgb_hwc, known[frame.index % 5])
        assert frame.time_s == pytest.approx(frame.index / float(clip.info.frame_rate))


def test_it_is_read_forwards_alone(pictures):
    with LoopedClip(pictures, 13) as clip, pytest.raises(VideoError, match="is read forwards, every frame"):
        next(clip.frames(size=32, reverse=True))


def test_reading_can_be_left_early(pictures):
    with LoopedClip(pictures, 13) as clip:
        frames = clip.frames(size=32)
        assert [next(frames).index for _ in range(7)] == list(range(7))
        frames.close()
