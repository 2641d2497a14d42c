"""Arrays in GPU memory, and what a session needs of CUDA: a Protocol that cuda_door.py fills, and the tests with plain numpy."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from trt_track.engines.session import Lane
from trt_track.errors import TensorMismatchError
from trt_track.specs import DTYPE_BYTES

STAGING_BYTES: Final = 4 << 20
"""Half of the pinned memory through which the uploads of one lane go; a frame of 1024 x 1024 takes 3 MiB."""
MOST_LENT: Final = 8
"""Pieces of pinned memory that results may hold at once; who keeps more results gets them in ordinary memory."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU that is present."""

    name: str
    sm: int
    """Compute capability times ten: 89 for 8.9."""
    free_bytes: int
    total_bytes: int


class Block(Protocol):
    """A piece of GPU memory that belongs to whoever allocated it."""

    @property
    def pointer(self) -> int:
        """Its address."""

    def close(self) -> None:
        """Free it after the work that was asked for so far on its lane."""


class Recording(Protocol):
    """A sequence of work that can be launched as one, a CUDA graph."""

    @property
    def graph(self) -> Any:
        """What the device launches (`CUgraphExec`)."""

    def close(self) -> None:
        """Free it."""


class Device(Protocol):
    """One GPU and a stream for each lane on it; every method that returns None only asks for work."""

    @property
    def gpu(self) -> Gpu:
        """What the GPU is, and how much of its memory is free now."""

    def make_current(self) -> None:
        """Make the GPU current on the calling thread. Every thread must do so before it asks for anything; the one that opened it has."""

    def stream(self, lane: Lane) -> int:
        """Return the handle of a lane's stream (`cudaStream_t`)."""

    def allocate(self, nbytes: int, lane: Lane) -> Block:
        """Allocate GPU memory, aligned to 256 bytes, for use on a lane; other lanes have to wait for that lane first."""

    def pinned(self, nbytes: int) -> np.ndarray:
        """Allocate host memory that the GPU can copy from and to by itself: (nbytes,) uint8, freed with its last view."""

    def copy(self, target: int, source: int, nbytes: int, lane: Lane) -> None:
        """Copy between two addresses, host (pinned) or device."""

    def scatter(self, target: int, rows: int, source: int, shape: tuple[int, int], lane: Lane) -> None:
        """Copy rows to where an array of indices says.

        Args:
            target: address of the rows to write to.
            rows: address of an int32 for each row of `source`: the row of `target` that it goes to.
            source: address of the rows.
            shape: number of rows in `source`, and bytes of a row, a multiple of 4.
            lane: where the work is asked for.
        """

    def zero(self, target: int, nbytes: int, lane: Lane) -> None:
        """Fill with zero bytes."""

    def event(self) -> Any:
        """Return an event that has happened."""

    def destroy(self, event: Any) -> None:
        """Give an event back that nothing waits for."""

    def record(self, event: Any, lane: Lane) -> None:
        """Let an event happen when everything asked for so far on a lane is done."""

    def after(self, event: Any, lane: Lane) -> None:
        """Let what is asked for next on a lane wait for an event, as last recorded."""

    def happened(self, event: Any) -> bool:
        """Tell whether an event, as last recorded, has happened, without waiting for it."""

    def wait(self, event: Any) -> None:
        """Wait on the host for an event."""

    def synchronize(self) -> None:
        """Wait for everything asked for so far on all lanes."""

    def capture(self, lane: Lane) -> AbstractContextManager[Callable[[], Recording]]:
        """Record what is asked for on a lane instead of doing it; what the context gives returns the recording once it has ended."""

    def launch(self, recording: Recording, lane: Lane) -> None:
        """Ask for everything that was recorded."""

    def close(self) -> None:
        """Give the streams back."""


class DeviceArray:
    """A dense array in GPU memory, or some rows of one. Holds no memory of its own: the session's blocks do."""

    __slots__ = ("dtype", "nbytes", "pointer", "shape")

    def __init__(self, pointer: int, shape: Sequence[int], dtype: str) -> None:
        """Describe the memory at `pointer`.

        Args:
            pointer: address of the first element.
            shape: sizes, the slowest first.
            dtype: one of `specs.DTYPE_BYTES`.
        """
        self.pointer = pointer
        self.shape = tuple(shape)
        self.dtype = dtype
        self.nbytes = math.prod(self.shape) * DTYPE_BYTES[dtype]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice, /) -> DeviceArray:
        """Return a view of one row (without the first axis) or of consecutive rows.

        Raises:
            IndexError: there is no such row.
            TensorMismatchError: rows that do not lie one after the other.
        """
        if isinstance(index, slice):
            start, stop, step = index.indices(self.shape[0])
            if step != 1:
                raise TensorMismatchError(f"rows of {self} must be consecutive, a step of {step} was asked for")
            return DeviceArray(self.pointer + start * self._row_bytes, (max(0, stop - start), *self.shape[1:]), self.dtype)
        row = index + self.shape[0] if index < 0 else index
        if not 0 <= row < self.shape[0]:
            raise IndexError(f"{self} has no row {index}")
        return DeviceArray(self.pointer + row * self._row_bytes, self.shape[1:], self.dtype)

    def reshape(self, *shape: int) -> DeviceArray:
        """Return a view of the same elements with other axes.

        Raises:
            TensorMismatchError: it would have another number of elements.
        """
        view = DeviceArray(self.pointer, shape, self.dtype)
        if view.nbytes != self.nbytes:
            raise TensorMismatchError(f"{self} cannot take the shape {list(shape)}")
        return view

    @property
    def _row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * DTYPE_BYTES[self.dtype]

    def __repr__(self) -> str:
        return f"DeviceArray({self.dtype}{list(self.shape)})"


class Workspace:
    """Work space that the engines of one lane share because only one runs at a time; it grows to what the largest run so far needed.

    An engine's need at the largest sizes it was built for can be gigabytes, while the sizes of one video need a part of that.
    """

    def __init__(self, device: Device, lane: Lane) -> None:
        self._device, self._lane = device, lane
        self._block: Block | None = None
        self.pointer = 0
        self.nbytes = 0

    @property
    def place(self) -> tuple[int, int]:
        """Address and bytes: what was recorded with one of them is worth nothing with another."""
        return self.pointer, self.nbytes

    def grow(self, nbytes: int) -> None:
        """Make it at least this large; a larger one lies somewhere else.

        Raises:
            DeviceMemoryError: there is not enough GPU memory; it is empty then.
        """
        if nbytes <= self.nbytes:
            return
        self.close()  # in order with the lane: what still runs there keeps it, and the new one may reuse its memory
        self._block = self._device.allocate(nbytes, self._lane)
        self.pointer, self.nbytes = self._block.pointer, nbytes

    def close(self) -> None:
        """Free it."""
        if self._block is not None:
            self._block.close()
        self._block, self.pointer, self.nbytes = None, 0, 0


class UploadRing:
    """Pinned memory in two halves: while the GPU copies from one, the host fills the other."""

    def __init__(self, device: Device, lane: Lane, half_bytes: int = STAGING_BYTES) -> None:
        self._device, self._lane = device, lane
        self._halves = tuple(device.pinned(half_bytes) for _ in range(2))
        self._events = tuple(device.event() for _ in range(2))
        self._half, self._used = 0, 0

    def upload(self, target: int, source: np.ndarray) -> None:
        """Copy a contiguous host array to a device address; `source` may be changed as soon as this returns."""
        flat = source.reshape(-1).view(np.uint8)
        for start in range(0, flat.size, self._halves[0].size):
            piece = flat[start : start + self._halves[0].size]
            slot = self._slot(piece.size)
            slot[:] = piece
            self._device.copy(target + start, slot.ctypes.data, piece.size, self._lane)

    def _slot(self, nbytes: int) -> np.ndarray:
        """Return free pinned memory; the host waits only where the other half is still being copied from."""
        if self._used + nbytes > self._halves[self._half].size:
            self._device.record(self._events[self._half], self._lane)
            self._half, self._used = 1 - self._half, 0
            if not self._device.happened(self._events[self._half]):
                self._device.wait(self._events[self._half])
        slot = self._halves[self._half][self._used : self._used + nbytes]
        self._used += nbytes + -nbytes % 16
        return slot


class PinnedPiece:
    """Pinned memory of some size, and the event of the last copy into it."""

    def __init__(self, device: Device, nbytes: int) -> None:
        self.memory = device.pinned(nbytes)
        self.arrived = device.event()


class _Lease:
    """Lends a piece of pinned memory to numpy; arrays that look into it keep the lease alive."""

    def __init__(self, memory: np.ndarray) -> None:
        self.__array_interface__ = {"data": (memory.ctypes.data, False), "shape": memory.shape, "typestr": "|u1", "version": 3}


class DownloadPool:
    """Pinned memory that results lie in while somebody holds them; it is used again when they are gone, so that none is copied.

    Not more than `MOST_LENT` pieces are lent: what is asked for beyond is copied into ordinary memory, which a caller may keep.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._free: list[PinnedPiece] = []
        self._taken: dict[int, PinnedPiece] = {}  # a copy may be on its way into them, whoever still waits for it
        self._lent: set[int] = set()  # results may be dropped on any thread: adding and discarding are atomic

    def take(self, nbytes: int) -> PinnedPiece:
        """Return a piece of at least this size that nobody uses, the smallest one; where all are too small, one of them makes room."""
        fitting = min((piece for piece in self._free if piece.memory.size >= nbytes), key=lambda piece: piece.memory.size, default=None)
        if fitting is not None:
            self._free.remove(fitting)
        else:
            if self._free:
                self._device.destroy(self._free.pop().arrived)
            fitting = PinnedPiece(self._device, nbytes)
        self._taken[id(fitting)] = fitting
        return fitting

    def lend(self, piece: PinnedPiece) -> np.ndarray:
        """Return what arrived in a piece, (nbytes,) uint8; the piece comes back by itself when no array looks into it any more."""
        del self._taken[id(piece)]
        if len(self._lent) >= MOST_LENT:
            copy = np.array(piece.memory)
            self._give_back(piece)
            return copy
        self._lent.add(id(piece))
        lease = _Lease(piece.memory)
        weakref.finalize(lease, self._return, piece).atexit = False
        return np.asarray(lease)

    def _return(self, piece: PinnedPiece) -> None:
        self._lent.discard(id(piece))
        self._give_back(piece)

    def _give_back(self, piece: PinnedPiece) -> None:
        self._free.append(piece)
