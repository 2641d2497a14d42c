"""Arrays of a session that computes on the host: numpy arrays, and lanes that are all one because every call returns when it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from trt_track.engines.numpy_dtypes import numpy_dtype
from trt_track.engines.session import Key, Lane


class HostFetched:
    """Copies of arrays, made when they were asked for."""

    def __init__(self, sources: Sequence[np.ndarray]) -> None:
        self._copies = [np.array(source) for source in sources]

    def arrays(self) -> list[np.ndarray]:
        """Return the copies."""
        return self._copies


class HostArrays:
    """The part of the `Session` protocol that is about memory and order, for a session on the host."""

    overlaps = False

    def empty(self, shape: Sequence[int], dtype: str) -> np.ndarray:
        """Allocate an array of zeros."""
        return np.zeros(tuple(shape), numpy_dtype(dtype))

    def free(self, owner: object, arrays: Iterable[np.ndarray], events: Iterable[None] = ()) -> None:
        """Do nothing: an array goes when nobody holds it."""

    def upload(self, target: np.ndarray, source: np.ndarray) -> None:
        """Copy `source` into `target`."""
        np.copyto(target, source, casting="no")

    def download(self, source: np.ndarray) -> np.ndarray:
        """Return `source` itself: it holds until the next `run` that writes there."""
        return source

    def fetch(self, sources: Sequence[np.ndarray]) -> HostFetched:
        """Copy arrays."""
        return HostFetched(sources)

    def copy(self, target: np.ndarray, source: np.ndarray) -> None:
        """Copy between two arrays."""
        np.copyto(target, source, casting="no")

    def scatter(self, target: np.ndarray, rows: np.ndarray, source: np.ndarray) -> None:
        """Copy row i of `source` to row `rows[i]` of `target`."""
        for row, item in zip(rows.tolist(), source, strict=True):
            np.copyto(target[row], item, casting="no")

    def recorded(self, key: Key, body: Callable[[], None]) -> None:
        """Do what `body` asks for: on the host nothing is gained from a recording."""
        body()

    def work_space(self, sizes: Mapping[str, int]) -> int | None:
        """Return None: the library that computes does not say."""
        return None

    def reserve(self, sizes: Mapping[str, int]) -> None:
        """Do nothing: the library that computes has work space of its own."""

    def on(self, lane: Lane) -> AbstractContextManager[None]:
        """Change nothing: there is one lane."""
        return nullcontext()

    def event(self) -> None:
        """Return nothing: what was asked for has happened."""

    def record(self, event: None) -> None:
        """Change nothing."""

    def after(self, event: None) -> None:
        """Wait for nothing."""
