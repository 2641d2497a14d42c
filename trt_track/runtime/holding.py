"""What one video holds of a session: arrays and events that are allocated together, and given back together."""

from __future__ import annotations

import logging
from typing import Any

from trt_track.engines.session import Session
from trt_track.errors import DeviceMemoryError
from trt_track.runtime.memory_plan import SLOTS, TrackingTask, smaller_task

_log = logging.getLogger(__name__)


class Holding:
    """Arrays by the names of `track_buffers`, and events."""

    def __init__(self, session: Session, task: TrackingTask) -> None:
        """Allocate all arrays, with fewer frames in one call of the encoder, then fewer objects in a batch, where memory is short.

        Args:
            session: what computes.
            task: what is tracked, with batches that should fit.

        Raises:
            DeviceMemoryError: there is no room for a single frame and object.
        """
        self._session = session
        self._events: list[Any] = []
        self.arrays: dict[str, Any] = {}
        self.slots = SLOTS if session.overlaps else 1
        """Calls of the encoder in flight."""
        self.task = task
        """What there was room for."""
        while not self._allocated():
            pass

    def _allocated(self) -> bool:
        """Allocate the arrays of the task; where they do not fit, free what was made and make the task smaller."""
        try:
            for name, buffer in self.task.buffers(self.slots).items():
                self.arrays[name] = self._session.empty(buffer.shape, buffer.dtype)
        except DeviceMemoryError as error:
            self.close()
            before, self.task = self.task, smaller_task(self.task)
            if self.task == before:
                raise
            told = (self.task.frames, self.task.batch, before.frames, before.batch, error)
            _log.warning("buffers are made for %d frames and %d objects at once, memory for %d and %d is short: %s", *told)
            return False
        except BaseException:
            self.close()
            raise
        return True

    def event(self) -> Any:
        """Return a new event of the session."""
        event = self._session.event()
        self._events.append(event)
        return event

    def close(self) -> None:
        """Give everything back, and what was recorded under keys that begin with this holding."""
        arrays, events, self.arrays, self._events = self.arrays, self._events, {}, []
        self._session.free(self, arrays.values(), events)
