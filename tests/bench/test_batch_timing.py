"""What is measured of batches: their sizes, full memories, and where memory ends."""

import pytest
from fake_session import MODEL, FakeSession

from trt_track.bench.batch_timing import TOGETHER, WARM_UP, batch_milliseconds
from trt_track.errors import DeviceMemoryError


@pytest.mark.parametrize(
    ("most", "objects", "sizes"),
    [(16, 16, [1, 2, 4, 8, 16]), (16, 12, [1, 2, 4, 8, 12]), (4, 16, [1, 2, 4]), (6, 64, [1, 2, 4, 6]), (4, 1, [1])],
)
def test_batches_are_measured_with_full_memories(most, objects, sizes):
    session, rounds = FakeSession(max_batch=most), []
    found = dict(
        batch_milliseconds(session, MODEL, objects=objects, video_wh=(40, 30), rounds=3, on_round=lambda *told: rounds.append(told))
    )
    assert list(found) == sizes
    assert min(found.values()) > 0
    attention = [call.sizes for call in session.calls if call.graph == "memory_attention"]
    each = (WARM_UP + 3) * TOGETHER
    assert [call["B"] for call in attention] == [size for size in sizes for _ in range(each)]
    assert {(call["N"], call["P"]) for call in attention} == {(MODEL.memory_frames, MODEL.pointer_frames)}
    assert [call.graph for call in session.calls].count("image_encoder") == 1
    assert rounds[0] == (1, 1, (WARM_UP + 3) * len(sizes))
    assert rounds[-1] == (sizes[-1], *[(WARM_UP + 3) * len(sizes)] * 2)


class Narrow(FakeSession):
    """There is no memory for more than three objects a batch."""

    def _memory_attention(self, inputs, outputs):
        if outputs["conditioned"].shape[0] > 3:
            raise DeviceMemoryError("no memory")
        super()._memory_attention(inputs, outputs)


def test_batches_that_there_is_no_memory_for_are_left_out():
    assert [size for size, _ in batch_milliseconds(Narrow(max_batch=16), MODEL, objects=16, video_wh=(40, 30), rounds=1)] == [1, 2]
