"""The small inputs of the graphs: indices, clicks and flags, in arrays of every size that tracking asks for.

They are made with the steps, so that the loop allocates nothing. Arrays are as long as a batch may be; a smaller one takes the first rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from trt_track.engines.session import Session
from trt_track.specs import Limits

FLAGS: Final = ("has_mask", "multimask", "from_prompt")


class SmallInputs:
    """Arrays of a session for what the loop tells the graphs."""

    def __init__(self, session: Session, limits: Limits, batch: int) -> None:
        """Allocate everything.

        Args:
            session: what computes.
            limits: most memories, pointers and clicks of one object.
            batch: most objects of one call.
        """
        self._session, self._batch = session, batch
        self._arrays: dict[tuple[str, tuple[int, ...]], Any] = {}
        self._flags = {(name, value): self.constant(np.full(batch, value)) for name in FLAGS for value in (False, True)}
        self._no_points = self.constant(np.zeros((batch, 1, 2), np.float32))
        self._no_labels = self.constant(np.full((batch, 1), -1, np.int32))
        for name, most in (("page", limits.memories), ("pointer", limits.pointers_attended)):
            for count in range(1, most + 1):
                self._array(name, (batch, count), "int32")
                self._array(f"{name}_age", (batch, count), "int32")
        for count in range(1, limits.clicks + 1):
            self._array("points", (1, count, 2), "float32")
            self._array("labels", (1, count), "int32")
        self._array("span", (1,), "int32")

    def constant(self, value: np.ndarray) -> Any:
        """Return a new array with this content."""
        array = self._session.empty(value.shape, value.dtype.name)
        self._session.upload(array, value)
        return array

    def flag(self, name: str, objects: int, *, value: bool) -> Any:
        """Return (B,) bool, all `value`; `name` is one of `FLAGS`."""
        return self._flags[name, value][:objects]

    def no_clicks(self, objects: int) -> tuple[Any, Any]:
        """Return the one empty click (label -1) that upstream encodes while it tracks: (B, 1, 2) and (B, 1)."""
        return self._no_points[:objects], self._no_labels[:objects]

    def clicks(self, points: np.ndarray, labels: np.ndarray) -> tuple[Any, Any]:
        """Upload the clicks of one object, (K, 2) and (K,), and return them as (1, K, 2) and (1, K)."""
        return self._upload("points", np.asarray(points[None], np.float32)), self._upload("labels", np.asarray(labels[None], np.int32))

    def rows(self, name: str, rows: Sequence[Sequence[int]]) -> Any:
        """Upload equally many numbers for each object: "page", "page_age", "pointer" or "pointer_age", (B, N) int32."""
        value = np.array(rows, np.int32)
        array = self._array(name, (self._batch, value.shape[1]), "int32")[: len(value)]
        self._session.upload(array, value)
        return array

    def span(self, value: int) -> Any:
        """Upload what pointer ages are divided by, (1,) int32."""
        return self._upload("span", np.array([value], np.int32))

    def _upload(self, name: str, value: np.ndarray) -> Any:
        array = self._array(name, value.shape, value.dtype.name)
        self._session.upload(array, value)
        return array

    def _array(self, name: str, shape: tuple[int, ...], dtype: str) -> Any:
        """Return the array of a name and shape; a model with a longer memory than engines are built for gets its own on demand."""
        key = (name, shape)
        if key not in self._arrays:
            self._arrays[key] = self._session.empty(shape, dtype)
        return self._arrays[key]
