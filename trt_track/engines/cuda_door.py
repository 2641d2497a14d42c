"""The door to CUDA: the one file that touches `cuda.core` and the driver, and says why when they cannot be used."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from trt_track.engines.device_memory import Gpu, Recording
from trt_track.engines.session import Lane
from trt_track.errors import BackendError, DeviceMemoryError, EngineRunError

try:
    from cuda.bindings import driver
    from cuda.core import Device, LaunchConfig, LegacyPinnedMemoryResource, Program, ProgramOptions, StreamOptions, launch
except ImportError as missing:
    raise BackendError(
        f"cuda-core is not installed ({missing}): pip install 'trt-track[rtx]', [tensorrt] or, for onnxruntime-cuda, [cuda]"
    ) from missing


class _PinnedBytes:
    """Lends pinned memory to numpy and frees it with the last array that looks into it, on whichever thread that goes."""

    def __init__(self, buffer: Any, nbytes: int, context: Any) -> None:
        self.__array_interface__ = {"data": (int(buffer.handle), False), "shape": (nbytes,), "typestr": "|u1", "version": 3}
        weakref.finalize(self, _free_pinned, buffer, context).atexit = False


def _free_pinned(buffer: Any, context: Any) -> None:
    driver.cuCtxSetCurrent(context)
    buffer.close()


class CudaBlock:
    """GPU memory from the device's pool."""

    def __init__(self, buffer: Any) -> None:
        self._buffer = buffer
        self.pointer = int(buffer.handle)

    def close(self) -> None:
        """Give the memory back, in order with the stream that it was allocated on."""
        self._buffer.close()


_SCATTER = r"""
extern "C" __global__ void scatter_rows(unsigned int* target, const int* rows, const unsigned int* source, unsigned long long words)
{
    const unsigned int* from = source + blockIdx.y * words;
    unsigned int* to = target + rows[blockIdx.y] * words;
    const unsigned long long threads = gridDim.x * (unsigned long long)blockDim.x;
    for (unsigned long long i = blockIdx.x * (unsigned long long)blockDim.x + threadIdx.x; i < words; i += threads)
        to[i] = from[i];
}
"""
"""A block of threads copies a part of one row; rows are as many as the grid is high."""
_THREADS = 256
_MOST_BLOCKS = 64
"""Blocks for one row: with four bytes a thread, 64 KiB in one sweep."""
_BUS_ID_BYTES = 16
"""`00000000:65:00.0` without and with the zero at its end fits."""


def compile_scatter(sm: int) -> Any:
    """Compile the one kernel that is not an engine's, which a GPU need not be there for.

    Args:
        sm: compute capability times ten.

    Returns:
        `cuda.core.ObjectCode`, machine code for GPUs of this family.

    Raises:
        BackendError: NVRTC, CUDA's compiler library, is missing or refuses.
    """
    try:
        return Program(_SCATTER, "c++", ProgramOptions(arch=f"sm_{sm}")).compile("cubin")
    except Exception as error:  # of the loader that looks for NVRTC, or cuda.core's own
        raise BackendError(f"NVRTC cannot be used ({' '.join(str(error).split())}): pip install nvidia-cuda-nvrtc") from error


class CudaRecording:
    """An instantiated CUDA graph."""

    def __init__(self, graph: Any) -> None:
        self.graph: Any = graph

    def close(self) -> None:
        """Destroy it; one that still runs is freed by CUDA when it is done."""
        driver.cuGraphExecDestroy(self.graph)


class CudaDevice:
    """One GPU with a stream for each lane; fills the `Device` protocol."""

    def __init__(self, index: int = 0) -> None:
        """Make the GPU current on this thread and open the streams.

        Args:
            index: which GPU, as CUDA counts them (`CUDA_VISIBLE_DEVICES` hides some).

        Raises:
            BackendError: no driver, no GPU, or none with this index.
        """
        with _needs_driver():
            self._device = Device(index)
            self._device.set_current()
            (self._context,) = _checked(driver.cuCtxGetCurrent(), "asking for the context")
            # Streams that wait for nobody: the default stream would serialise all others with it.
            self._streams = {lane: self._device.create_stream(options=StreamOptions(nonblocking=True)) for lane in Lane}
            self._pinned = LegacyPinnedMemoryResource()
        self._handles = {lane: int(stream.handle) for lane, stream in self._streams.items()}
        self._events: dict[int, Any] = {}
        self._scatter: Any = None

    def load_kernels(self) -> None:
        """Compile and load the kernel that is ours, so that it need not be done in the loop.

        Raises:
            BackendError: NVRTC, CUDA's compiler library, is missing or refuses.
        """
        if self._scatter is None:
            self._scatter = compile_scatter(self.gpu.sm).get_kernel("scatter_rows")

    @property
    def gpu(self) -> Gpu:
        """What the GPU is, and how much of its memory is free now."""
        free_bytes, total_bytes = _checked(driver.cuMemGetInfo(), "asking for the free memory")
        major, minor = self._device.compute_capability
        return Gpu(str(self._device.name), 10 * major + minor, int(free_bytes), int(total_bytes))

    def make_current(self) -> None:
        """Make the GPU current on the calling thread.

        Raises:
            EngineRunError: CUDA refuses.
        """
        _checked(driver.cuCtxSetCurrent(self._context), "making the GPU current")

    def stream(self, lane: Lane) -> int:
        """Return the handle of a lane's stream."""
        return self._handles[lane]

    def allocate(self, nbytes: int, lane: Lane) -> CudaBlock:
        """Allocate GPU memory, in order with a lane.

        Raises:
            DeviceMemoryError: there is not enough.
            EngineRunError: CUDA failed.
        """
        try:
            return CudaBlock(self._device.allocate(max(1, nbytes), stream=self._streams[lane]))
        except Exception as error:  # cuda.core has its own type and passes others through
            if "OUT_OF_MEMORY" not in str(error):
                raise EngineRunError(f"allocating {nbytes} bytes of GPU memory failed: CUDA: {' '.join(str(error).split())}") from error
            gpu = self.gpu
            left = f"{gpu.free_bytes / 2**20:.0f} of {gpu.total_bytes / 2**20:.0f} MiB are free on {gpu.name}"
            raise DeviceMemoryError(f"{nbytes / 2**20:.0f} MiB of GPU memory asked for, {left}: lower the limits ({error})") from error

    def pinned(self, nbytes: int) -> np.ndarray:
        """Allocate pinned host memory: (nbytes,) uint8."""
        with _runs("allocating pinned memory"):
            return np.asarray(_PinnedBytes(self._pinned.allocate(max(1, nbytes)), nbytes, self._context))

    def copy(self, target: int, source: int, nbytes: int, lane: Lane) -> None:
        """Copy between two addresses; CUDA knows by the address which memory it is."""
        _checked(driver.cuMemcpyAsync(target, source, nbytes, self._handles[lane]), f"a copy of {nbytes} bytes")

    def scatter(self, target: int, rows: int, source: int, shape: tuple[int, int], lane: Lane) -> None:
        """Copy rows to where an array of indices says."""
        count, nbytes = shape
        self.load_kernels()
        words = nbytes // 4
        grid = (min(_MOST_BLOCKS, -(-words // _THREADS)), count)
        with _runs("scattering rows"):
            launch(self._streams[lane], LaunchConfig(grid=grid, block=_THREADS), self._scatter, target, rows, source, np.uint64(words))

    def zero(self, target: int, nbytes: int, lane: Lane) -> None:
        """Fill with zero bytes."""
        _checked(driver.cuMemsetD8Async(target, 0, nbytes, self._handles[lane]), f"filling {nbytes} bytes")

    def event(self) -> Any:
        """Return an event that has happened; who waits for it sleeps instead of keeping a core busy."""
        flags = driver.CUevent_flags.CU_EVENT_DISABLE_TIMING | driver.CUevent_flags.CU_EVENT_BLOCKING_SYNC
        (event,) = _checked(driver.cuEventCreate(flags), "making an event")
        self._events[int(event)] = event
        return event

    def destroy(self, event: Any) -> None:
        """Give an event back that nothing waits for."""
        _checked(driver.cuEventDestroy(self._events.pop(int(event))), "destroying an event")

    def record(self, event: Any, lane: Lane) -> None:
        """Let an event happen when everything asked for so far on a lane is done."""
        _checked(driver.cuEventRecord(event, self._handles[lane]), "recording an event")

    def after(self, event: Any, lane: Lane) -> None:
        """Let what is asked for next on a lane wait for an event, as last recorded."""
        _checked(driver.cuStreamWaitEvent(self._handles[lane], event, 0), "ordering two streams")

    def happened(self, event: Any) -> bool:
        """Tell whether an event, as last recorded, has happened, without waiting for it."""
        (status,) = answer = driver.cuEventQuery(event)
        if status == driver.CUresult.CUDA_ERROR_NOT_READY:
            return False
        _checked(answer, "work on the GPU")
        return True

    def wait(self, event: Any) -> None:
        """Wait on the host for an event."""
        _checked(driver.cuEventSynchronize(event), "work on the GPU")

    def synchronize(self) -> None:
        """Wait for everything asked for so far on all lanes.

        Raises:
            EngineRunError: something of it failed.
        """
        for handle in self._handles.values():
            _checked(driver.cuStreamSynchronize(handle), "work on the GPU")

    @contextmanager
    def capture(self, lane: Lane) -> Iterator[Callable[[], CudaRecording]]:
        """Record what this thread asks for on a lane instead of doing it; other threads and lanes go on.

        Raises:
            EngineRunError: CUDA refuses, or something was asked for that cannot be recorded.
        """
        handle = self._handles[lane]
        made: list[CudaRecording] = []
        _checked(driver.cuStreamBeginCapture(handle, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL), "capturing a stream")
        try:
            yield lambda: made[0]
        except BaseException:
            _, graph = driver.cuStreamEndCapture(handle)  # of a capture that failed there is none
            if graph:
                driver.cuGraphDestroy(graph)
            raise
        (graph,) = _checked(driver.cuStreamEndCapture(handle), "capturing a stream")
        try:
            made.append(CudaRecording(*_checked(driver.cuGraphInstantiate(graph, 0), "making a CUDA graph")))
        finally:
            driver.cuGraphDestroy(graph)

    def launch(self, recording: Recording, lane: Lane) -> None:
        """Ask for everything that was recorded."""
        _checked(driver.cuGraphLaunch(recording.graph, self._handles[lane]), "launching a CUDA graph")

    def close(self) -> None:
        """Give streams and events back, and what the device's pool holds for later: cuda.core has it keep all memory that was freed."""
        for event in self._events.values():
            driver.cuEventDestroy(event)
        self._events.clear()
        for handle in self._handles.values():
            driver.cuStreamSynchronize(handle)  # memory is freed in order with a stream, and a failure was told before
        for stream in self._streams.values():
            stream.close()
        status, pool = driver.cuDeviceGetMemPool(self._device.device_id)
        if status == driver.CUresult.CUDA_SUCCESS:  # a part of a GPU may have no pool
            driver.cuMemPoolTrimTo(pool, 0)


def find_gpu(index: int = 0) -> Gpu:
    """Return the GPU that is present.

    Raises:
        BackendError: no driver, no GPU, or none with this index.
    """
    device = CudaDevice(index)
    try:
        return device.gpu
    finally:
        device.close()


def first_bus_id() -> str:
    """Return where on the PCI bus the first GPU is, without starting anything on it.

    Raises:
        BackendError: no driver or no GPU.
    """
    with _needs_driver():
        _checked(driver.cuInit(0), "starting CUDA")
        (device,) = _checked(driver.cuDeviceGet(0), "looking for a GPU")
        (name,) = _checked(driver.cuDeviceGetPCIBusId(_BUS_ID_BYTES, device), "asking for the GPU's place")
    return str(name.partition(b"\0")[0].decode("ascii"))


@contextmanager
def _needs_driver() -> Iterator[None]:
    """Translate what goes wrong while CUDA starts."""
    try:
        yield
    except Exception as error:  # a missing library, CUDAError or ValueError, by what is missing
        text = " ".join(str(error).split())
        if "driver library" in text or "libcuda" in text or isinstance(error, OSError):
            raise BackendError("no NVIDIA driver: install the NVIDIA display driver, or use --backend onnxruntime-cpu") from error
        if "NO_DEVICE" in text:
            raise BackendError("no NVIDIA GPU: the driver is installed but sees none (check CUDA_VISIBLE_DEVICES)") from error
        if "INSUFFICIENT_DRIVER" in text or "SYSTEM_DRIVER_MISMATCH" in text:
            raise BackendError(f"the NVIDIA driver is too old for CUDA 13: update it ({text})") from error
        raise BackendError(f"CUDA cannot be used: {text}") from error


def _checked(answer: tuple[Any, ...], what: str) -> tuple[Any, ...]:
    """Return what the driver answered beside its status.

    Raises:
        EngineRunError: the status says that it failed.
    """
    status, *values = answer
    if status != driver.CUresult.CUDA_SUCCESS:
        raise EngineRunError(f"{what} failed: CUDA: {status.name}")
    return tuple(values)


@contextmanager
def _runs(what: str) -> Iterator[None]:
    """Translate what goes wrong while CUDA runs."""
    try:
        yield
    except Exception as error:  # see `_needs_driver`
        raise EngineRunError(f"{what} failed: CUDA: {' '.join(str(error).split())}") from error
