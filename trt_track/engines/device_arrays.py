"""The part of a session that is about GPU memory and order: arrays, uploads, results on their way back, lanes."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final, Self

import numpy as np

from trt_track.engines.device_memory import Block, Device, DeviceArray, DownloadPool, PinnedPiece, UploadRing
from trt_track.engines.host_memory import MemoryState
from trt_track.engines.numpy_dtypes import numpy_dtype
from trt_track.engines.session import Lane
from trt_track.errors import EngineRunError, TensorMismatchError
from trt_track.specs import DTYPE_BYTES

_ALIGNMENT: Final = 64
"""Bytes between the beginnings of arrays that are fetched together."""


class DeviceFetched:
    """Arrays on their way into a piece of pinned memory."""

    def __init__(self, session: DeviceArrays, piece: PinnedPiece, sources: Sequence[DeviceArray]) -> None:
        self._session, self._piece, self._sources = session, piece, sources

    def arrays(self) -> list[np.ndarray]:
        """Wait for them and return them; they are the caller's own. To be called once.

        Raises:
            EngineRunError: something that was asked for before failed.
        """
        memory, found = self._session.arrived(self._piece), []
        for source, start in zip(self._sources, _starts(self._sources), strict=False):
            found.append(memory[start : start + source.nbytes].view(numpy_dtype(source.dtype)).reshape(source.shape))
        return found


def _starts(sources: Sequence[DeviceArray]) -> list[int]:
    """Return the byte at which each array begins in one piece of memory, and behind them the size of the piece."""
    starts = [0]
    for source in sources:
        starts.append(starts[-1] + source.nbytes + -source.nbytes % _ALIGNMENT)
    return starts


class DeviceArrays:
    """Fills the part of the `Session` protocol that no engine is needed for, over a `Device`."""

    overlaps = True

    def __init__(self, device: Device | None) -> None:
        """Take a device over, the first GPU when None; `close` gives it back.

        Raises:
            BackendError: the driver or the GPU is missing.
        """
        self._device = device or _first_gpu()
        self._closed = self._finished = False
        self._entered = threading.local()
        self._lane = Lane.TRACK
        self._blocks: dict[int, Block] = {}
        # TensorRT reads inputs that shapes depend on from the host: the last value of every array of one integer, by address.
        self._host_values: dict[int, int] = {}
        self._downloads: dict[int, np.ndarray] = {}
        self._pool = DownloadPool(self._device)
        self._rings: dict[Lane, UploadRing] = {}

    def empty(self, shape: Sequence[int], dtype: str) -> DeviceArray:
        """Allocate an array of zeros in GPU memory.

        Raises:
            DeviceMemoryError: there is not enough.
            EngineRunError: the session is closed.
        """
        self._check_open()
        if dtype not in DTYPE_BYTES:
            raise TensorMismatchError(f"dtype {dtype!r} is unknown: choose one of {', '.join(DTYPE_BYTES)}")
        nbytes = DeviceArray(0, shape, dtype).nbytes
        block = self._device.allocate(nbytes, Lane.TRACK)
        self._blocks[block.pointer] = block
        if nbytes:
            self._device.zero(block.pointer, nbytes, Lane.TRACK)
        self._device.synchronize()  # from here on it may be used on every lane
        if tuple(shape) == (1,) and dtype in ("int32", "int64"):
            self._host_values[block.pointer] = 0
        return DeviceArray(block.pointer, shape, dtype)

    def free(self, owner: object, arrays: Iterable[DeviceArray], events: Iterable[Any] = ()) -> None:
        """Give arrays and events back, and forget what was recorded with them; see `Session.free`.

        Raises:
            EngineRunError: something that was asked for before failed.
        """
        if self._closed:
            return
        self._enter()
        self._device.synchronize()  # on whichever lane they are used
        self._forget(owner)
        for array in arrays:
            end = array.pointer + max(array.nbytes, 1)
            self._downloads = {place: pinned for place, pinned in self._downloads.items() if not array.pointer <= place < end}
            self._host_values.pop(array.pointer, None)
            self._blocks.pop(array.pointer).close()
        for event in events:
            self._device.destroy(event)

    def upload(self, target: DeviceArray, source: np.ndarray) -> None:
        """Copy a host array into `target` through pinned memory; `source` may be reused at once.

        Raises:
            TensorMismatchError: shape or dtype differ.
            EngineRunError: the session is closed.
        """
        self._check_open()
        if target.shape != source.shape or numpy_dtype(target.dtype) != source.dtype:  # whose name would be made anew each time
            raise TensorMismatchError(f"{target} cannot take {source.dtype}{list(source.shape)}")
        if source.size:
            self._ring().upload(target.pointer, np.ascontiguousarray(source))
        self._host_values.pop(target.pointer, None)
        if target.shape == (1,) and source.dtype.kind == "i":
            self._host_values[target.pointer] = int(source[0])

    def _ring(self) -> UploadRing:
        ring = self._rings.get(self._lane)
        if ring is None:
            ring = self._rings[self._lane] = UploadRing(self._device, self._lane)
        return ring

    def download(self, source: DeviceArray) -> np.ndarray:
        """Wait for everything asked for so far and return the content of `source`.

        The array is pinned memory of the session: it holds until the next download from the same place.

        Raises:
            EngineRunError: something that was asked for failed, or the session is closed.
        """
        self._check_open()
        self._device.synchronize()
        pinned = self._downloads.get(source.pointer)
        if pinned is None or pinned.size < source.nbytes:
            pinned = self._downloads[source.pointer] = self._device.pinned(source.nbytes)
        if source.nbytes:
            self._device.copy(pinned.ctypes.data, source.pointer, source.nbytes, self._lane)
        self._device.synchronize()
        return pinned[: source.nbytes].view(numpy_dtype(source.dtype)).reshape(source.shape)

    def fetch(self, sources: Sequence[DeviceArray]) -> DeviceFetched:
        """Ask for the content of several arrays, without waiting for it.

        Raises:
            EngineRunError: the session is closed.
        """
        self._check_open()
        starts = _starts(sources)
        piece = self._pool.take(starts[-1])
        for source, start in zip(sources, starts, strict=False):
            if source.nbytes:
                self._device.copy(piece.memory[start:].ctypes.data, source.pointer, source.nbytes, self._lane)
        self._device.record(piece.arrived, self._lane)
        return DeviceFetched(self, piece, sources)

    def arrived(self, piece: PinnedPiece) -> np.ndarray:
        """Wait for what was fetched into a piece and lend it out; once the session is closed there is nothing left to wait for.

        Raises:
            EngineRunError: something that was asked for before failed.
        """
        if not self._closed:
            self._enter()
            self._device.wait(piece.arrived)
        elif not self._finished:
            raise EngineRunError("the session was closed after a failure: its last results are lost, open the tracker again")
        return self._pool.lend(piece)

    def copy(self, target: DeviceArray, source: DeviceArray) -> None:
        """Copy between two arrays.

        Raises:
            TensorMismatchError: shape or dtype differ.
            EngineRunError: the session is closed.
        """
        self._check_open()
        if target.shape != source.shape or target.dtype != source.dtype:
            raise TensorMismatchError(f"{target} cannot take {source}")
        if source.nbytes:
            self._device.copy(target.pointer, source.pointer, source.nbytes, self._lane)
        known = self._host_values.get(source.pointer)
        self._host_values.pop(target.pointer, None)
        if target.shape == (1,) and known is not None:
            self._host_values[target.pointer] = known

    def scatter(self, target: DeviceArray, rows: DeviceArray, source: DeviceArray) -> None:
        """Copy row i of `source` to row `rows[i]` of `target`; see `Session.scatter`.

        Raises:
            TensorMismatchError: the arrays do not fit.
            EngineRunError: the session is closed.
        """
        self._check_open()
        fits = target.shape[1:] == source.shape[1:] and target.dtype == source.dtype
        if not fits or rows.dtype != "int32" or rows.shape != source.shape[:1]:
            raise TensorMismatchError(f"{source} cannot be scattered into {target} by {rows}")
        if source.nbytes:
            shape = (len(source), source.nbytes // len(source))
            self._device.scatter(target.pointer, rows.pointer, source.pointer, shape, self._lane)

    @contextmanager
    def on(self, lane: Lane) -> Iterator[None]:
        """Make a lane the current one for a while."""
        before, self._lane = self._lane, lane
        try:
            yield
        finally:
            self._lane = before

    def event(self) -> Any:
        """Return a new event."""
        self._check_open()
        return self._device.event()

    def record(self, event: Any) -> None:
        """Let an event happen when everything asked for so far on the current lane is done.

        Raises:
            EngineRunError: the session is closed.
        """
        self._check_open()
        self._device.record(event, self._lane)

    def after(self, event: Any) -> None:
        """Let what is asked for next on the current lane wait for an event.

        Raises:
            EngineRunError: the session is closed.
        """
        self._check_open()
        self._device.after(event, self._lane)

    def work_space(self, sizes: Mapping[str, int]) -> int | None:
        """Return None: the library that computes does not say."""
        return None

    def reserve(self, sizes: Mapping[str, int]) -> None:
        """Do nothing: the library that computes has work space of its own."""

    def memory(self) -> MemoryState | None:
        """Return the state of the GPU's memory, whoever holds it: work space that was allocated once is kept."""
        self._enter()
        gpu = self._device.gpu
        held = gpu.total_bytes - gpu.free_bytes
        return MemoryState(held=held, peak=held, available=gpu.free_bytes)

    def _check_open(self) -> None:
        """Refuse what would write to memory that was given back; every call begins here."""
        if self._closed:
            raise EngineRunError("the session is closed: a tracker that was closed cannot go on, open it again")
        self._enter()

    def _enter(self) -> None:
        """Make the GPU current on a thread that calls for the first time: a tracker may be opened on one and used on another."""
        if not hasattr(self._entered, "once"):
            self._device.make_current()
            self._entered.once = True

    def close(self) -> None:
        """Wait for the GPU and free everything that the session allocated, whatever of it fails. Results that were fetched stay valid."""
        if self._closed:
            return
        self._closed = True
        with ExitStack() as then:  # the last one first
            then.callback(self._device.close)
            then.callback(self._downloads.clear)
            while self._blocks:
                then.callback(self._blocks.popitem()[1].close)
            then.callback(self._free)
            self._enter()
            self._device.synchronize()
            self._finished = True

    def _free(self) -> None:
        """Free what a session has beside arrays."""

    def _forget(self, owner: object) -> None:
        """Drop what a session recorded for an owner of arrays; nothing of it runs."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _first_gpu() -> Device:
    from trt_track.engines.cuda_door import CudaDevice

    device = CudaDevice()
    try:
        device.load_kernels()
    except BaseException:
        device.close()
        raise
    return device
