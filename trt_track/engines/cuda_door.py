"""The door to CUDA: the one file that touches `cuda.core` and the driver, and says why when they cannot be used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from trt_track.engines.device_memory import Gpu
from trt_track.errors import BackendError, EngineRunError

try:
    from cuda.bindings import driver
    from cuda.core import Device, LegacyPinnedMemoryResource, StreamOptions
except ImportError as missing:
    raise BackendError(f"cuda-core is not installed ({missing}): pip install 'trt-track[rtx]' or 'trt-track[tensorrt]'") from missing


class _PinnedBytes:
    """Lends pinned memory to numpy and frees it with the last array that looks into it."""

    def __init__(self, buffer: Any, nbytes: int) -> None:
        self.buffer = buffer
        self.__array_interface__ = {"data": (int(buffer.handle), False), "shape": (nbytes,), "typestr": "|u1", "version": 3}


class CudaBlock:
    """GPU memory from the device's pool."""

    def __init__(self, buffer: Any) -> None:
        self._buffer = buffer
        self.pointer = int(buffer.handle)

    def close(self) -> None:
        """Give the memory back, in order with the stream that it was allocated on."""
        self._buffer.close()


class CudaDevice:
    """One GPU and one stream of its own on it; fills the `Device` protocol."""

    def __init__(self, index: int = 0) -> None:
        """Make the GPU current on this thread and open a stream.

        Args:
            index: which GPU, as CUDA counts them (`CUDA_VISIBLE_DEVICES` hides some).

        Raises:
            BackendError: no driver, no GPU, or none with this index.
        """
        with _needs_driver():
            self._device = Device(index)
            self._device.set_current()
            # A stream that waits for nobody: the default stream would serialise all others with it.
            self._stream = self._device.create_stream(options=StreamOptions(nonblocking=True))
            self._pinned = LegacyPinnedMemoryResource()
        self._handle = int(self._stream.handle)

    @property
    def gpu(self) -> Gpu:
        """What the GPU is, and how much of its memory is free now."""
        with _runs("asking for the free memory"):
            status, free_bytes, total_bytes = driver.cuMemGetInfo()
        if status != driver.CUresult.CUDA_SUCCESS:
            raise EngineRunError(f"asking for the free memory failed: CUDA: {status.name}")
        major, minor = self._device.compute_capability
        return Gpu(str(self._device.name), 10 * major + minor, int(free_bytes), int(total_bytes))

    @property
    def stream(self) -> int:
        """Handle of the stream."""
        return self._handle

    def allocate(self, nbytes: int) -> CudaBlock:
        """Allocate GPU memory.

        Raises:
            EngineRunError: there is not enough.
        """
        try:
            return CudaBlock(self._device.allocate(max(1, nbytes), stream=self._stream))
        except Exception as error:  # cuda.core has its own type and passes others through
            gpu = self.gpu
            left = f"{gpu.free_bytes / 2**20:.0f} of {gpu.total_bytes / 2**20:.0f} MiB are free on {gpu.name}"
            raise EngineRunError(f"{nbytes / 2**20:.0f} MiB of GPU memory asked for, {left}: lower the limits ({error})") from error

    def pinned(self, nbytes: int) -> np.ndarray:
        """Allocate pinned host memory: (nbytes,) uint8."""
        with _runs("allocating pinned memory"):
            return np.asarray(_PinnedBytes(self._pinned.allocate(max(1, nbytes)), nbytes))

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Copy between two addresses; CUDA knows by the address which memory it is."""
        (status,) = driver.cuMemcpyAsync(target, source, nbytes, self._handle)
        if status != driver.CUresult.CUDA_SUCCESS:
            raise EngineRunError(f"a copy of {nbytes} bytes failed: CUDA: {status.name}")

    def zero(self, target: int, nbytes: int) -> None:
        """Fill with zero bytes."""
        (status,) = driver.cuMemsetD8Async(target, 0, nbytes, self._handle)
        if status != driver.CUresult.CUDA_SUCCESS:
            raise EngineRunError(f"filling {nbytes} bytes failed: CUDA: {status.name}")

    def mark(self) -> Any:
        """Return an event of everything asked for so far."""
        with _runs("recording an event"):
            return self._stream.record()

    def wait(self, event: Any) -> None:
        """Wait for an event."""
        with _runs("waiting for an event"):
            event.sync()

    def synchronize(self) -> None:
        """Wait for everything asked for so far.

        Raises:
            EngineRunError: something of it failed.
        """
        with _runs("work on the GPU"):
            self._stream.sync()

    def close(self) -> None:
        """Give the stream back."""
        self._stream.close()


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


@contextmanager
def _runs(what: str) -> Iterator[None]:
    """Translate what goes wrong while CUDA runs."""
    try:
        yield
    except Exception as error:  # see `_needs_driver`
        raise EngineRunError(f"{what} failed: CUDA: {' '.join(str(error).split())}") from error
