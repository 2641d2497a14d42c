import time

import numpy as np
import pytest

from trt_track.bench.timed_session import COPIES, DECODE, DOWNLOAD, HOST, UPLOAD, StageClock, TimedSession, TimedSource
from trt_track.engines.host_arrays import HostArrays


class SlowSession(HostArrays):
    """Asked for work at once, done when somebody waits, as a GPU does."""

    device = "slow"

    def __init__(self):
        self.pending_s = 0.0
        self.closed = False

    def run(self, graph, inputs, outputs):
        self.pending_s += 0.02

    def download(self, source):
        time.sleep(self.pending_s)
        self.pending_s = 0.0
        return source

    def close(self):
        self.closed = True


@pytest.fixture
def clock():
    return StageClock()


@pytest.fixture
def session(clock):
    return TimedSession(SlowSession(), clock)


def test_a_graph_is_timed_to_its_end(session, clock):
    session.run("image_encoder", {}, {})
    session.recorded(("key",), lambda: session.run("mask_decoder", {}, {}))
    time.sleep(0.01)
    clock.end_frame()
    (frame,) = clock.frames
    assert frame["image_encoder"] >= 0.02
    assert frame["mask_decoder"] >= 0.02
    assert 0.01 <= frame[HOST] < 0.1


def test_every_call_of_a_recorded_sequence_calls_its_body(session):
    calls = []
    for _ in range(5):
        session.recorded(("same key",), lambda: calls.append(1))
    assert len(calls) == 5


def test_stages_sum_up_to_the_frame(session, clock):
    array = session.empty((4,), "float32")
    clock.restart()
    started = time.perf_counter()
    session.upload(array, np.ones(4, np.float32))
    session.run("memory_encoder", {}, {})
    session.copy(array[:2], array[2:])
    session.scatter(array.reshape(2, 2), np.array([1, 0]), np.zeros((2, 2), np.float32))
    (fetched,) = session.fetch([array]).arrays()
    session.download(array)
    clock.end_frame()
    assert sum(clock.frames[0].values()) == pytest.approx(time.perf_counter() - started, abs=2e-3)
    assert set(clock.frames[0]) == {UPLOAD, "memory_encoder", COPIES, DOWNLOAD, HOST}
    np.testing.assert_array_equal(fetched, 0)


def test_what_came_before_the_first_frame_is_forgotten(session, clock):
    session.run("image_encoder", {}, {})
    clock.restart()
    clock.end_frame()
    assert list(clock.frames[0]) == [HOST]


def test_the_rest_is_passed_on(session):
    assert session.device == "slow"
    assert session.overlaps is False
    with session.on(0), session as entered:
        assert entered is session
    assert session._session.closed
    with pytest.raises(AttributeError, match="no_such"):
        _ = session.no_such


class SlowClip:
    info, damage = "info", None

    def __init__(self):
        self.ended = False

    def frames(self, *, size):
        try:
            for index in range(3):
                time.sleep(0.01)
                yield size, index
        finally:
            self.ended = True

    def close(self): ...


def test_waiting_for_a_frame_is_a_stage(clock):
    clip = SlowClip()
    source = TimedSource(clip, clock)
    frames = source.frames(size=8)
    assert next(frames) == (8, 0)
    clock.end_frame()
    assert clock.frames[0][DECODE] >= 0.01
    frames.close()
    assert clip.ended
    assert len(list(TimedSource(SlowClip(), clock).frames(size=8))) == 3
    assert (source.info, source.damage) == ("info", None)
