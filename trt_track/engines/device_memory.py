"""Arrays in GPU memory, and what a session needs of CUDA: a Protocol that cuda_door.py fills, and the tests with plain numpy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from trt_track.errors import TensorMismatchError
from trt_track.specs import DTYPE_BYTES

STAGING_BYTES: Final = 4 << 20
"""Half of the pinned memory through which uploads go; a frame of 1024 x 1024 takes 3 MiB."""


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
        """Free it after the work that was asked for so far."""


class Device(Protocol):
    """One GPU and one stream on it; every method that returns None only asks for work."""

    @property
    def gpu(self) -> Gpu:
        """What the GPU is, and how much of its memory is free now."""

    @property
    def stream(self) -> int:
        """Handle of the stream (`cudaStream_t`)."""

    def allocate(self, nbytes: int) -> Block:
        """Allocate GPU memory, aligned to 256 bytes."""

    def pinned(self, nbytes: int) -> np.ndarray:
        """Allocate host memory that the GPU can copy from and to by itself: (nbytes,) uint8, freed with its last view."""

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Copy between two addresses, host (pinned) or device."""

    def zero(self, target: int, nbytes: int) -> None:
        """Fill with zero bytes."""

    def mark(self) -> Any:
        """Return an event of everything asked for so far."""

    def wait(self, event: Any) -> None:
        """Wait for such an event."""

    def synchronize(self) -> None:
        """Wait for everything asked for so far."""

    def close(self) -> None:
        """Give the stream back."""


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

    @property
    def _row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * DTYPE_BYTES[self.dtype]

    def __repr__(self) -> str:
        return f"DeviceArray({self.dtype}{list(self.shape)})"


class Workspace:
    """Work space that engines share because only one runs at a time; it grows to what the largest run so far needed.

    An engine's need at the largest sizes it was built for can be gigabytes, while the sizes of one video need a part of that.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._block: Block | None = None
        self.pointer = 0
        self.nbytes = 0

    def grow(self, nbytes: int) -> None:
        """Make it at least this large; a larger one lies somewhere else.

        Raises:
            EngineRunError: there is not enough GPU memory.
        """
        if nbytes <= self.nbytes:
            return
        self.close()  # in order with the stream: what still runs there keeps it, and the new one may reuse its memory
        self._block = self._device.allocate(nbytes)
        self.pointer, self.nbytes = self._block.pointer, nbytes

    def close(self) -> None:
        """Free it."""
        if self._block is not None:
            self._block.close()
        self._block, self.pointer, self.nbytes = None, 0, 0


class UploadRing:
    """Pinned memory in two halves: while the GPU copies from one, the host fills the other."""

    def __init__(self, device: Device, half_bytes: int = STAGING_BYTES) -> None:
        self._device = device
        self._halves = tuple(device.pinned(half_bytes) for _ in range(2))
        self._events: list[Any] = [None, None]
        self._half, self._used = 0, 0

    def upload(self, target: int, source: np.ndarray) -> None:
        """Copy a contiguous host array to a device address; `source` may be changed as soon as this returns."""
        flat = source.reshape(-1).view(np.uint8)
        for start in range(0, flat.size, self._halves[0].size):
            piece = flat[start : start + self._halves[0].size]
            slot = self._slot(piece.size)
            slot[:] = piece
            self._device.copy(target + start, slot.ctypes.data, piece.size)

    def _slot(self, nbytes: int) -> np.ndarray:
        """Return free pinned memory, waiting only when the other half is still being copied from."""
        if self._used + nbytes > self._halves[self._half].size:
            self._events[self._half] = self._device.mark()
            self._half, self._used = 1 - self._half, 0
            if self._events[self._half] is not None:
                self._device.wait(self._events[self._half])
        slot = self._halves[self._half][self._used : self._used + nbytes]
        self._used += nbytes + -nbytes % 16
        return slot
