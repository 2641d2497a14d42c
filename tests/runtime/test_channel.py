import gc
import threading
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import psutil
import pytest
from clip_maker import write_clip

from trt_track.errors import VideoError
from trt_track.runtime.frames import FrameRequest, frame_of
from trt_track.runtime.video import VideoInfo, VideoSource, open_video


@pytest.fixture(autouse=True)
def no_threads_left():
    yield
    gc.collect()
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("trt-track")] == []


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
