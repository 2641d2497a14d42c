"""CUDA itself: what needs no GPU is compiled, the rest runs where one is."""

import numpy as np
import pytest

from trt_track.engines.backends import inspect_machine
from trt_track.engines.cuda_door import CudaDevice, compile_scatter
from trt_track.engines.engine_record import FAMILIES
from trt_track.engines.session import Lane
from trt_track.errors import BackendError


@pytest.mark.parametrize("sm", sorted(FAMILIES))
def test_the_kernel_compiles_for_every_family(sm):
    code = compile_scatter(sm)
    assert b"scatter_rows" in code.code


def test_a_family_that_does_not_exist_is_refused():
    with pytest.raises(BackendError, match=r"NVRTC cannot be used \(.*\): pip install nvidia-cuda-nvrtc"):
        compile_scatter(7)


@pytest.fixture
def device():
    """A real GPU; skips with what is missing."""
    if fault := inspect_machine().gpu_fault:
        pytest.skip(fault)
    opened = CudaDevice()
    yield opened
    opened.close()


def filled(device, values):
    """Return a block with the content of an array, and the pinned memory that it came from."""
    pinned = device.pinned(values.nbytes)
    pinned[:] = values.reshape(-1).view(np.uint8)
    block = device.allocate(values.nbytes, Lane.TRACK)
    device.copy(block.pointer, pinned.ctypes.data, values.nbytes, Lane.TRACK)
    device.synchronize()
    return block, pinned


def read(device, block, like):
    pinned = device.pinned(like.nbytes)
    device.copy(pinned.ctypes.data, block.pointer, like.nbytes, Lane.TRACK)
    device.synchronize()
    return np.array(pinned).view(like.dtype).reshape(like.shape)


@pytest.mark.gpu
@pytest.mark.parametrize("words", [1, 3, 128, 40_000, 600_000])
def test_rows_are_scattered(device, words):
    rng = np.random.default_rng(0)
    target, source = (rng.integers(0, 1 << 30, (rows, words), np.int32) for rows in (9, 4))
    rows = np.array([7, 0, 3, 8], np.int32)
    blocks = [filled(device, array)[0] for array in (target, rows, source)]
    device.scatter(*(block.pointer for block in blocks), (4, 4 * words), Lane.TRACK)
    target[rows] = source
    np.testing.assert_array_equal(read(device, blocks[0], target), target)


@pytest.mark.gpu
def test_a_recording_reads_what_lies_in_memory_when_it_is_launched(device):
    target, rows, source = np.zeros((4, 8), np.int32), np.array([1], np.int32), np.arange(8, dtype=np.int32)[None]
    blocks = [filled(device, array)[0] for array in (target, rows, source)]
    ask = [block.pointer for block in blocks]
    device.scatter(*ask, (1, 32), Lane.TRACK)  # a kernel is loaded when it runs first, which cannot be recorded
    with device.capture(Lane.TRACK) as recorded:
        device.scatter(*ask, (1, 32), Lane.TRACK)
    recording = recorded()
    for row in (3, 2):
        moved, pinned = filled(device, np.array([row], np.int32))
        device.copy(ask[1], moved.pointer, 4, Lane.TRACK)
        device.launch(recording, Lane.TRACK)
    device.synchronize()
    recording.close()
    del pinned
    found = read(device, blocks[0], target)
    assert [row.any() for row in found] == [False, True, True, True]


@pytest.mark.gpu
def test_lanes_wait_for_events(device):
    """Sixty-four copies back and forth between two lanes arrive in order."""
    values = np.arange(1 << 20, dtype=np.int32)
    blocks = [filled(device, values)[0], *(device.allocate(values.nbytes, Lane.TRACK) for _ in range(2))]
    events = {lane: device.event() for lane in (Lane.TRACK, Lane.ENCODE)}
    device.synchronize()
    for step in range(64):
        lane, other = (Lane.TRACK, Lane.ENCODE) if step % 2 else (Lane.ENCODE, Lane.TRACK)
        device.after(events[other], lane)
        device.copy(blocks[1 + step % 2].pointer, blocks[0 if step == 0 else 2 - step % 2].pointer, values.nbytes, lane)
        device.record(events[lane], lane)
    device.synchronize()
    np.testing.assert_array_equal(read(device, blocks[2], values), values)
