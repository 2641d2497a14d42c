"""CUDA itself: what needs no GPU is compiled, the rest runs where one is."""

from types import SimpleNamespace

import numpy as np
import pytest
from cuda.bindings import driver

from trt_track.engines import cuda_door
from trt_track.engines.backends import inspect_machine
from trt_track.engines.cuda_door import CudaDevice, compile_scatter
from trt_track.engines.device_arrays import DeviceArrays
from trt_track.engines.device_memory import Gpu
from trt_track.engines.engine_record import FAMILIES
from trt_track.engines.session import Lane
from trt_track.errors import BackendError, DeviceMemoryError, EngineRunError


@pytest.mark.parametrize("sm", sorted(FAMILIES))
def test_the_kernel_compiles_for_every_family(sm):
    code = compile_scatter(sm)
    assert b"scatter_rows" in code.code


def test_a_family_that_does_not_exist_is_refused():
    with pytest.raises(BackendError, match=r"NVRTC cannot be used \(.*\): pip install nvidia-cuda-nvrtc"):
        compile_scatter(7)


class CountingDriver:
    """Stands in for the driver's functions: notes their names, and succeeds or answers as it is told."""

    CUresult = driver.CUresult

    def __init__(self, **answers):
        self.answers, self.asked = answers, []

    def __getattr__(self, name):
        def ask(*given):
            self.asked.append((name, *given))
            return self.answers.get(name, (driver.CUresult.CUDA_SUCCESS, f"what {name} gave"))

        return ask


class CUDAError(Exception):
    """As cuda.core raises it."""


class Refusing:
    """A device of cuda.core that has no memory to give."""

    device_id = 0

    def __init__(self, reason):
        self.reason = reason

    def allocate(self, nbytes, *, stream):
        raise CUDAError(self.reason)


def opened(monkeypatch, counting, device=None):
    """Return a device as it is after opening, over a driver that only counts."""
    monkeypatch.setattr(cuda_door, "driver", counting)
    found = object.__new__(CudaDevice)
    found._device, found._context = device or SimpleNamespace(device_id=0), "a context"
    found._handles, found._events = {Lane.TRACK: 7, Lane.ENCODE: 8}, {1: "an event"}
    found._streams = {Lane.TRACK: SimpleNamespace(close=int)}
    return found


def test_a_closed_device_keeps_no_memory_for_later(monkeypatch):
    counting = CountingDriver()
    opened(monkeypatch, counting).close()
    names = [name for name, *_ in counting.asked]
    assert ("cuMemPoolTrimTo", "what cuDeviceGetMemPool gave", 0) in counting.asked
    assert names.index("cuMemPoolTrimTo") > names.index("cuStreamSynchronize")  # what is freed on a stream is free after it
    assert names.count("cuStreamSynchronize") == 2


def test_a_gpu_without_a_pool_is_closed_all_the_same(monkeypatch):
    counting = CountingDriver(cuDeviceGetMemPool=(driver.CUresult.CUDA_ERROR_NOT_SUPPORTED, None))
    opened(monkeypatch, counting).close()
    assert "cuMemPoolTrimTo" not in [name for name, *_ in counting.asked]


class Unkernelled:
    """A device whose compiler is missing."""

    closed = 0

    def load_kernels(self):
        raise BackendError("NVRTC cannot be used")

    def close(self):
        Unkernelled.closed += 1


def test_the_kernel_is_there_before_a_session_is(monkeypatch):
    """Rather no session than one that waits for a compiler in its loop, or finds none there."""
    monkeypatch.setattr(cuda_door, "CudaDevice", Unkernelled)
    with pytest.raises(BackendError, match="NVRTC cannot be used"):
        DeviceArrays(None)
    assert Unkernelled.closed == 1


def test_an_event_is_asked_without_waiting(monkeypatch):
    counting = CountingDriver(cuEventQuery=(driver.CUresult.CUDA_SUCCESS,))
    device = opened(monkeypatch, counting)
    assert device.happened("an event")
    counting.answers["cuEventQuery"] = (driver.CUresult.CUDA_ERROR_NOT_READY,)
    assert not device.happened("an event")
    counting.answers["cuEventQuery"] = (driver.CUresult.CUDA_ERROR_ILLEGAL_ADDRESS,)
    with pytest.raises(EngineRunError, match="work on the GPU failed: CUDA: CUDA_ERROR_ILLEGAL_ADDRESS"):
        device.happened("an event")
    assert [name for name, *_ in counting.asked] == ["cuEventQuery"] * 3


def test_the_first_gpu_is_known_by_its_place_on_the_bus(monkeypatch):
    place = (driver.CUresult.CUDA_SUCCESS, b"0000:65:00.0\0\0\0\0")
    counting = CountingDriver(cuInit=(driver.CUresult.CUDA_SUCCESS,), cuDeviceGetPCIBusId=place)
    monkeypatch.setattr(cuda_door, "driver", counting)
    assert cuda_door.first_bus_id() == "0000:65:00.0"
    assert ("cuDeviceGet", 0) in counting.asked
    assert not [name for name, *_ in counting.asked if "Ctx" in name]  # a context takes memory
    counting.answers["cuDeviceGet"] = (driver.CUresult.CUDA_ERROR_NO_DEVICE, None)
    with pytest.raises(BackendError, match="no NVIDIA GPU"):
        cuda_door.first_bus_id()


def test_events_are_destroyed_one_by_one_or_with_the_device(monkeypatch):
    counting = CountingDriver(cuEventCreate=(driver.CUresult.CUDA_SUCCESS, 5), cuEventDestroy=(driver.CUresult.CUDA_SUCCESS,))
    device = opened(monkeypatch, counting)
    counting.CUevent_flags = driver.CUevent_flags
    device.destroy(device.event())
    assert counting.asked[-1] == ("cuEventDestroy", 5)
    device.close()
    assert [call for call in counting.asked if call[0] == "cuEventDestroy"] == [("cuEventDestroy", 5), ("cuEventDestroy", "an event")]


def test_a_thread_makes_the_context_current(monkeypatch):
    counting = CountingDriver(cuCtxSetCurrent=(driver.CUresult.CUDA_SUCCESS,))
    opened(monkeypatch, counting).make_current()
    assert counting.asked == [("cuCtxSetCurrent", "a context")]


def test_pinned_memory_is_freed_with_its_last_array_in_its_context(monkeypatch):
    counting, memory, freed = CountingDriver(), np.zeros(8, np.uint8), []
    device = opened(monkeypatch, counting)
    buffer = SimpleNamespace(handle=memory.ctypes.data, close=lambda: freed.append(list(counting.asked)))
    device._pinned = SimpleNamespace(allocate=lambda nbytes: buffer)
    view = device.pinned(8)[2:4]
    assert freed == []
    del view
    assert freed == [[("cuCtxSetCurrent", "a context")]]


@pytest.mark.parametrize(
    ("reason", "error", "message"),
    [
        ("CUDA_ERROR_OUT_OF_MEMORY: no memory", DeviceMemoryError, "2 MiB of GPU memory asked for, 1 of 9 MiB are free on a GPU"),
        ("CUDA_ERROR_ILLEGAL_ADDRESS:\n a fault", EngineRunError, "allocating 2097152 bytes .* CUDA: CUDA_ERROR_ILLEGAL_ADDRESS: a fault"),
    ],
)
def test_only_a_shortage_of_memory_is_called_one(monkeypatch, reason, error, message):
    device = opened(monkeypatch, CountingDriver(), Refusing(reason))
    device._streams = {Lane.TRACK: None}
    monkeypatch.setattr(CudaDevice, "gpu", Gpu("a GPU", 89, 1 << 20, 9 << 20))
    with pytest.raises(error, match=message) as raised:
        device.allocate(2 << 20, Lane.TRACK)
    assert type(raised.value) is error


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
