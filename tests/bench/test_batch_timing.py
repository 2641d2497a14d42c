"""What is measured of batches: their sizes, full memories, and where memory ends."""

from types import SimpleNamespace

import pytest
from fake_session import MODEL, FakeSession

from trt_track.bench import batch_timing
from trt_track.bench.batch_timing import TOGETHER, WARM_UP, batch_milliseconds
from trt_track.engines.host_memory import MemoryState
from trt_track.errors import DeviceMemoryError


class Clocked(FakeSession):
    """Takes seconds by the objects of a batch, on a clock of its own."""

    def __init__(self, monkeypatch, seconds=lambda objects: objects, **options):
        super().__init__(**options)
        self.now, self.seconds = 0.0, seconds
        monkeypatch.setattr(batch_timing, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def _memory_attention(self, inputs, outputs):
        self.now += self.seconds(len(inputs["page"]))
        super()._memory_attention(inputs, outputs)


@pytest.mark.parametrize(
    ("built", "objects", "sizes"),
    [(16, 16, [1, 2, 4, 8, 16]), (None, 12, [1, 2, 4, 8, 12]), (4, 16, [1, 2, 4]), (6, 64, [1, 2, 4, 6]), (None, 1, [1])],
)
def test_batches_are_measured_with_full_memories(monkeypatch, built, objects, sizes):
    """Whatever the session advises: a rule cannot tell what was not measured."""
    session, rounds = Clocked(monkeypatch, max_batch=1, max_objects=built), []
    found = dict(
        batch_milliseconds(session, MODEL, objects=objects, video_wh=(40, 30), rounds=3, on_round=lambda *told: rounds.append(told))
    )
    assert found == {size: pytest.approx(1000 * size) for size in sizes}
    attention = [call.sizes for call in session.calls if call.graph == "memory_attention"]
    each = (WARM_UP + 3) * TOGETHER
    assert [call["B"] for call in attention] == [size for size in sizes for _ in range(each)]
    assert {(call["N"], call["P"]) for call in attention} == {(MODEL.memory_frames, MODEL.pointer_frames)}
    assert [call.graph for call in session.calls].count("image_encoder") == 1
    assert rounds[0] == (1, 1, (WARM_UP + 3) * len(sizes))
    assert rounds[-1] == (sizes[-1], *[(WARM_UP + 3) * len(sizes)] * 2)


def measured(session):
    return [size for size, _ in batch_milliseconds(session, MODEL, objects=16, video_wh=(40, 30), rounds=1)]


class Narrow(Clocked):
    """There is no memory for more than three objects a batch."""

    def _memory_attention(self, inputs, outputs):
        if outputs["conditioned"].shape[0] > 3:
            raise DeviceMemoryError("no memory")
        super()._memory_attention(inputs, outputs)


def test_batches_that_there_is_no_memory_for_are_left_out(monkeypatch):
    assert measured(Narrow(monkeypatch)) == [1, 2]


@pytest.mark.parametrize(
    ("seconds", "sizes"),
    [
        (lambda objects: objects + objects**2, [1, 2]),
        (lambda objects: abs(objects - 3) + 3 * objects, [1, 2, 4, 8]),
        (lambda objects: 1, [1, 2, 4, 8, 16]),
    ],
)
def test_a_processor_is_not_kept_busy_with_batches_that_only_get_slower(monkeypatch, seconds, sizes):
    assert measured(Clocked(monkeypatch, seconds)) == sizes
    parallel = Clocked(monkeypatch, seconds)
    parallel.overlaps = True  # of a GPU one size says nothing of the next
    assert measured(parallel) == [1, 2, 4, 8, 16]


class Growing(Clocked):
    """Takes a GB for each object of the largest batch so far, of 10 that are there."""

    most = 0

    def _memory_attention(self, inputs, outputs):
        self.most = max(self.most, len(inputs["page"]))
        super()._memory_attention(inputs, outputs)

    def memory(self):
        return MemoryState(held=self.most << 30, peak=self.most << 30, available=(10 - self.most) << 30)


def test_memory_that_the_next_batch_would_exceed_is_not_tried(monkeypatch):
    assert measured(Growing(monkeypatch)) == [1, 2, 4, 8]
