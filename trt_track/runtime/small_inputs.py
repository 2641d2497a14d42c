"""The small inputs of the graphs: indices, clicks and flags.

They lie in arrays that were allocated before; the loop only writes into them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from trt_track.engines.session import Session
from trt_track.runtime.bank import Recall
from trt_track.runtime.buffers import FLAGS, IndexLayout

_INDICES: Final = "indices"
_SLOTS: Final = "slots"


class Indices:
    """The indices of batches of one size: views of the host's and of the session's array."""

    def __init__(self, layout: IndexLayout, words: Any) -> None:
        """Open the views.

        Args:
            layout: where each lies.
            words: the session's array, at least as long.
        """
        self.host_words = np.zeros(layout.words, np.int32)
        self.host = layout.views(self.host_words)
        self.device_words = words[: layout.words]
        self.device = layout.views(self.device_words)


class SmallInputs:
    """Arrays of a session for what the loop tells the graphs."""

    def __init__(self, session: Session, arrays: Mapping[str, Any], video_wh: tuple[int, int]) -> None:
        """Fill what never changes.

        Args:
            session: what computes.
            arrays: by the names of `track_buffers`.
            video_wh: size of the video in pixels.
        """
        self._session, self._arrays = session, arrays
        self._indices: dict[tuple[str, int, int, int], Indices] = {}
        batch = len(arrays["no_labels"])
        for name in FLAGS:
            session.upload(arrays[f"{name} True"], np.ones(batch, np.bool_))
        session.upload(arrays["no_labels"], np.full((batch, 1), -1, np.int32))
        session.upload(arrays["sure"], np.ones(1, np.float32))
        self.video_size = {"video_height": arrays["video_height"], "video_width": arrays["video_width"]}
        for name, side in (("video_height", video_wh[1]), ("video_width", video_wh[0])):
            session.upload(arrays[name], np.array([side], np.int64))
        self.sure = arrays["sure"]

    def flag(self, name: str, objects: int, *, value: bool) -> Any:
        """Return (B,) bool, all `value`; `name` is one of `FLAGS`."""
        return self._arrays[f"{name} {value}"][:objects]

    def no_clicks(self, objects: int) -> tuple[Any, Any]:
        """Return the one empty click (label -1) that upstream encodes while it tracks: (B, 1, 2) and (B, 1)."""
        return self._arrays["no_points"][:objects], self._arrays["no_labels"][:objects]

    def clicks(self, points: np.ndarray, labels: np.ndarray) -> tuple[Any, Any]:
        """Upload the clicks of one object, (K, 2) and (K,), and return them as (1, K, 2) and (1, K)."""
        count = len(labels)
        device = self._arrays["points"][: 2 * count].reshape(1, count, 2), self._arrays["labels"][:count].reshape(1, count)
        self._session.upload(device[0], np.asarray(points[None], np.float32))
        self._session.upload(device[1], np.asarray(labels[None], np.int32))
        return device

    def recalled(self, recalls: Sequence[Recall], slots: Sequence[tuple[int, int]], span: int) -> Mapping[str, Any]:
        """Upload what a batch attends to and where its memories go, in one piece.

        Args:
            recalls: of each object, with equally many memories and pointers.
            slots: page and pointer of the bank that each object's new memory is written to.
            span: what pointer ages are divided by.

        Returns:
            "page" and "age" (B, N), "pointer" and "pointer_age" (B, P), "pointer_span" (1,), "to_page" and "to_pointer" (B,), int32.
        """
        indices = self._of(_INDICES, len(recalls), *recalls[0].key)
        host = indices.host
        host["page"][:] = [recall.pages for recall in recalls]
        host["age"][:] = [recall.ages for recall in recalls]
        host["pointer"][:] = [recall.pointers for recall in recalls]
        host["pointer_age"][:] = [recall.pointer_ages for recall in recalls]
        host["pointer_span"][0] = span
        return self._uploaded(indices, slots)

    def slots(self, slots: Sequence[tuple[int, int]]) -> Mapping[str, Any]:
        """Upload where the memories of a batch go that recalls nothing: "to_page" and "to_pointer" (B,)."""
        return self._uploaded(self._of(_SLOTS, len(slots), 0, 0), slots)

    def _uploaded(self, indices: Indices, slots: Sequence[tuple[int, int]]) -> Mapping[str, Any]:
        indices.host["to_page"][:] = [page for page, _ in slots]
        indices.host["to_pointer"][:] = [pointer for _, pointer in slots]
        self._session.upload(indices.device_words, indices.host_words)
        return indices.device

    def _of(self, array: str, objects: int, memories: int, pointers: int) -> Indices:
        key = (array, objects, memories, pointers)
        if key not in self._indices:
            self._indices[key] = Indices(IndexLayout(objects, memories, pointers), self._arrays[array])
        return self._indices[key]
