import random
from pathlib import Path

import av
import numpy as np
import pytest
from clip_maker import assert_reverse_of, read, remux, write_clip

from trt_track.errors import VideoError
from trt_track.runtime.video import open_video

# Damage


def cut(path, fraction):
    data = path.read_bytes()
    target = path.with_name(f"cut_{path.name}")
    target.write_bytes(data[: int(len(data) * fraction)])
    return target


@pytest.mark.parametrize("name", ["faststart.mp4", "fragmented.mp4", "clip.mkv", "clip.avi", "jpeg.avi"])
def test_a_clip_that_was_cut_off_yields_its_good_frames(tmp_path, name):
    whole = tmp_path / "whole.mp4"
    if name.endswith("avi"):
        path = write_clip(tmp_path / name, "mjpeg" if "jpeg" in name else "mpeg4", frames=100)
    else:
        write_clip(whole, frames=100)
        flags = {"faststart": "faststart", "fragmented": "frag_keyframe+empty_moov"}
        options = {"movflags": flags[name.split(".")[0]]} if name.endswith("mp4") else {}
        path = remux(whole, tmp_path / name, **options)
    good = read(path)[1]
    video, frames = read(cut(path, 0.57))
    assert 25 < len(frames) < 80
    assert "the clip ends early" in video.damage
    assert "\n" not in video.damage
    for frame, expected in zip(frames, good, strict=False):
        np.testing.assert_array_equal(frame.model_rgb_hwc, expected.model_rgb_hwc)


def test_damage_is_told_where_most_frames_are_left_out_too(tmp_path):
    path = cut(write_clip(tmp_path / "clip.avi", "mpeg4", frames=100), 0.57)
    whole, good = read(path)
    video, part = read(path, only=range(0, 100, 20))
    assert [frame.index for frame in part] == list(range(0, len(good), 20))
    assert video.damage == whole.damage


def test_frames_before_damaged_bytes_are_good(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", frames=100)
    good = read(path)[1]
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 300] = random.Random(1).randbytes(300)
    path.write_bytes(data)
    video, frames = read(path)
    assert 20 < len(frames) < 80
    assert f"frame {len(frames)} of 100 cannot be read" in video.damage
    for frame, expected in zip(frames, good, strict=False):
        np.testing.assert_array_equal(frame.model_rgb_hwc, expected.model_rgb_hwc)
    with pytest.raises(VideoError, match="cannot be read"):
        read(path, reverse=True)
    before = read(path, reverse=True, start=len(frames) - 1)[1]
    assert_reverse_of(frames, before)


def test_damage_is_forgotten_by_the_next_iteration(tmp_path):
    path = remux(write_clip(tmp_path / "whole.mp4", frames=100), tmp_path / "fast.mp4", movflags="faststart")
    with open_video(cut(path, 0.5)) as video:
        list(video.frames(size=16))
        assert video.damage
        list(video.frames(size=16, stop=10))
        assert video.damage is None


def test_stream_that_starts_between_keyframes(tmp_path):
    path = remux(write_clip(tmp_path / "whole.ts", frames=100), tmp_path / "late.ts", packets=slice(10, None))
    video, forward = read(path)
    assert video.damage is None
    assert video.info.frame_count == len(forward) > 60
    assert_reverse_of(forward, read(path, reverse=True)[1])


# Refusals


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("zero.mp4", b"", "the file is empty"),
        ("noise.mp4", bytes(range(256)) * 50, "not a video that can be read"),
        ("text.mp4", b"hello world\n" * 100, "not a video"),
        ("concat.mp4", b"ffconcat version 1.0\nfile other.mp4\n", "not a video"),
        ("playlist.mp4", b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nother.mp4\n#EXT-X-ENDLIST\n", "not a video"),
    ],
)
def test_files_that_are_no_video(tmp_path, name, content, message):
    write_clip(tmp_path / "other.mp4", frames=5)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VideoError, match=message) as caught:
        open_video(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_what_is_not_there(tmp_path):
    with pytest.raises(VideoError, match="no such file or folder"):
        open_video(tmp_path / "nothing.mp4")
    with pytest.raises(VideoError, match="folder holds no frames"):
        open_video(tmp_path)


@pytest.mark.parametrize("url", ["http://host/clip.mp4", "rtsp://host/stream", Path("https://host/clip.mp4")])
def test_urls(url):
    with pytest.raises(VideoError, match="URLs are not supported yet: download the clip first"):
        open_video(url)


def test_sound_without_pictures(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 44100
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(VideoError, match="holds no video stream"):
        open_video(path)
