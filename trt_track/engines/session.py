"""The seam between the tracking loop and what computes: one Protocol, filled by ONNX Runtime, TensorRT and the tests' fakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self

import numpy as np

from trt_track.engines.host_memory import MemoryState
from trt_track.specs import GraphSpec


class Array(Protocol):
    """A dense, contiguous array in the session's memory: a numpy array on the host, a `DeviceArray` on a GPU."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""

    def __getitem__(self, index: Any, /) -> Any:
        """Return a view of rows along the first axis: an int or a slice with step 1."""


class Session(Protocol):
    """Runs the graphs of one bundle on one device. Not thread-safe: one loop drives it."""

    backend: str
    """How users name it: `onnxruntime-cpu`, `tensorrt-rtx`, `tensorrt`."""
    version: str
    """Version of the library that computes."""
    device: str
    """What it computes on: the GPU's name, or `CPU`."""
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
        """Allocate an array of zeros in the session's memory. Called when a tracker opens, never in its loop."""

    def upload(self, target: Any, source: np.ndarray) -> None:
        """Copy a host array into `target`, in order with `run`; `source` may be reused at once."""

    def download(self, source: Any) -> np.ndarray:
        """Wait for everything asked for so far and return the content of `source`.

        The array may be the session's own memory: it holds until the next `run` that writes there.
        """

    def copy(self, target: Any, source: Any) -> None:
        """Copy between two arrays of the session, in order with `run`."""

    def run(self, graph: str, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        """Run one graph: read the arrays in `inputs`, write the arrays in `outputs`, both bound by tensor name.

        Raises:
            TensorMismatchError: a name, shape or dtype is not the contract's.
            EngineRunError: the engine failed.
        """

    def memory(self) -> MemoryState | None:
        """Return the state of the memory that arrays and graphs take, None where it is not known."""

    def close(self) -> None:
        """Free everything that the session allocated."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...
