"""The seam between the tracking loop and what computes: one Protocol, filled by ONNX Runtime, TensorRT and the tests' fakes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from enum import IntEnum
from typing import Any, Protocol, Self, TypeAlias

import numpy as np

from trt_track.engines.host_memory import MemoryState
from trt_track.specs import GraphSpec

Key: TypeAlias = tuple[Hashable, ...]
"""Names a sequence of work. Its first item is the owner, whom `Session.free` is told."""


class Lane(IntEnum):
    """A queue of work. What is asked for on one lane runs in order; lanes run beside each other, unless events order them."""

    TRACK = 0
    """Memory attention to mask, and whatever says nothing else."""
    UPLOAD = 1
    """Frames on their way to the device."""
    ENCODE = 2
    """The image encoder."""
    RESULTS = 3
    """Masks and scores on their way back."""


def home_lane(graph: str) -> Lane:
    """Return the lane that the tracking loop runs a graph on."""
    return Lane.ENCODE if graph == "image_encoder" else Lane.TRACK


class Array(Protocol):
    """A dense, contiguous array in the session's memory: a numpy array on the host, a `DeviceArray` on a GPU."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""

    def __getitem__(self, index: Any, /) -> Any:
        """Return a view of rows along the first axis: an int or a slice with step 1."""

    def reshape(self, *shape: int) -> Any:
        """Return a view of the same elements with other axes."""


class Fetched(Protocol):
    """Arrays on their way to the host."""

    def arrays(self) -> list[np.ndarray]:
        """Wait for them and return them, in the order they were asked for; they are the caller's own. To be called once.

        What had arrived when the session was closed can be taken all the same.

        Raises:
            EngineRunError: something that was asked for before failed.
        """


class Session(Protocol):
    """Runs the graphs of one bundle on one device. Not thread-safe: one loop drives it, on any thread.

    Work is asked for on the current lane (`on`), which is `Lane.TRACK` outside of it.
    """

    backend: str
    """How users name it: `tensorrt-rtx`, `tensorrt`, `onnxruntime-cuda`, `onnxruntime-cpu`."""
    version: str
    """Version of the library that computes."""
    device: str
    """What it computes on: the GPU's name, or `CPU`."""
    overlaps: bool
    """Whether lanes run beside each other and beside the host; False where every call returns when its work is done."""
    specs: Mapping[str, GraphSpec]
    """Contract of every graph that `run` knows, by name."""
    max_batch: int
    """Objects that one call should carry at most."""
    max_objects: int | None
    """Objects whose memories the bank may hold at most, None for any number."""
    max_frames: int | None
    """Frames in one call of an encoder or a detector at most, None for any number."""
    max_video_side: int | None
    """Pixels that a side of the video may have at most, None for any number."""

    def empty(self, shape: Sequence[int], dtype: str) -> Any:
        """Allocate an array of zeros in the session's memory. Called when a tracker opens, never in its loop.

        Raises:
            DeviceMemoryError: there is not enough.
        """

    def free(self, owner: object, arrays: Iterable[Any], events: Iterable[Any] = ()) -> None:
        """Wait for everything asked for so far, then give back what nobody will use any more; a closed session has done so already.

        Args:
            owner: whose recordings are forgotten, see `recorded`.
            arrays: of `empty`, as they were returned.
            events: of `event`.

        Raises:
            EngineRunError: something that was asked for before failed.
        """

    def upload(self, target: Any, source: np.ndarray) -> None:
        """Copy a host array into `target`; `source` may be reused at once."""

    def download(self, source: Any) -> np.ndarray:
        """Wait for everything asked for so far, on every lane, and return the content of `source`.

        The array may be the session's own memory: it holds until the next `run` that writes there.
        """

    def fetch(self, sources: Sequence[Any]) -> Fetched:
        """Ask for the content of several arrays, without waiting for it."""

    def copy(self, target: Any, source: Any) -> None:
        """Copy between two arrays of the session."""

    def scatter(self, target: Any, rows: Any, source: Any) -> None:
        """Copy row i of `source` to row `rows[i]` of `target`.

        Args:
            target: (n, ...).
            rows: (B,) int32, in the session's memory, each a row of `target` and none twice.
            source: (B, ...), with `target`'s other axes and dtype.
        """

    def run(self, graph: str, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        """Run one graph: read the arrays in `inputs`, write the arrays in `outputs`, both bound by tensor name.

        Raises:
            TensorMismatchError: a name, shape or dtype is not the contract's.
            EngineRunError: the engine failed.
        """

    def recorded(self, key: Key, body: Callable[[], None]) -> None:
        """Do what `body` asks for: a fixed sequence of `run`, `copy` and `scatter` on the current lane.

        The key begins with the owner of the arrays that are used. Every call with the same key must ask for the same, with arrays at the
        same places: a GPU records the sequence when it has come up often enough and launches it as one from then on, without calling
        `body`.
        """

    def on(self, lane: Lane) -> AbstractContextManager[None]:
        """Make a lane the current one for a while."""

    def event(self) -> Any:
        """Return a new event, which has happened until it is recorded. Called when a tracker opens."""

    def record(self, event: Any) -> None:
        """Let an event happen when everything asked for so far on the current lane is done."""

    def after(self, event: Any) -> None:
        """Let what is asked for next on the current lane wait until an event, as last recorded, has happened."""

    def work_space(self, sizes: Mapping[str, int]) -> int | None:
        """Return the bytes that the graphs would take to work in, beyond what they hold; None where it is not known.

        Args:
            sizes: of the largest runs: the named sizes of the inputs, and by their names the values of inputs that are sizes themselves.
        """

    def reserve(self, sizes: Mapping[str, int]) -> None:
        """Take the work space of the largest runs now, so that none is taken in the loop; as far as it is known and there is room.

        Args:
            sizes: as for `work_space`.
        """

    def memory(self) -> MemoryState | None:
        """Return the state of the memory that arrays and graphs take, None where it is not known."""

    def close(self) -> None:
        """Free everything that the session allocated."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...
