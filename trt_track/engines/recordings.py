"""What comes up again and again, recorded once as a CUDA graph and launched as one from then on."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, TypeAlias

from trt_track.engines.bound_engine import BoundEngine
from trt_track.engines.device_memory import Device, Recording, Workspace
from trt_track.engines.session import Key, Lane
from trt_track.errors import DeviceMemoryError, EngineRunError

_log = logging.getLogger(__name__)

Place: TypeAlias = tuple[Lane, Key]
"""Where a sequence is asked for, and its name."""

RARE: Final = 2
"""Times that a sequence is simply done. While an object's memory fills, every frame has sizes of its own, which do not come again."""
TURNS: Final = RARE + 2
"""Times that a sequence comes up until it is recorded: it is prepared before."""
MOST: Final = 32
"""Recordings that are kept for each frame of one call of the encoder, those used last; each holds contexts of its engines and the nodes of
its graph. Every frame of a call has sequences of its own, as its features lie elsewhere."""
MOST_COUNTED: Final = 1024
"""Sequences whose times are counted, those used last."""


class Tape:
    """One sequence: how often it came up, the contexts that only it uses, and its recording."""

    def __init__(self) -> None:
        self.times = 0
        self.engines: list[tuple[str, BoundEngine]] = []
        self.recording: Recording | None = None
        self.workspace: tuple[int, int] | None = None
        """Where the work space lay when it was prepared. One that could not grow may lie there again, smaller."""
        self.refused = False

    def erase(self) -> None:
        """Drop the recording and keep the contexts."""
        if self.recording is not None:
            self.recording.close()
        self.recording = None


class Recordings:
    """Sequences by key.

    A recording holds addresses, shapes and the work space of the contexts that it was made with, so every sequence has contexts of its own.
    TensorRT asks for one run with the shapes before they are recorded.
    """

    def __init__(self, device: Device, open_engine: Callable[[str, Lane], BoundEngine], workspaces: Mapping[Lane, Workspace]) -> None:
        """Begin with none.

        Args:
            device: what records and launches.
            open_engine: opens one more context of a graph, for a lane.
            workspaces: what the contexts of each lane work in.
        """
        self._device, self._open, self._workspaces = device, open_engine, workspaces
        self.frames = 1
        """Frames of one call of the encoder."""
        self._tapes: OrderedDict[Place, Tape] = OrderedDict()
        self._tape: Tape | None = None
        self._lane = Lane.TRACK
        self._position = 0

    def engine(self, graph: str) -> BoundEngine | None:
        """Return the context for the next run of a sequence that is being prepared or recorded; None outside of one."""
        tape = self._tape
        if tape is None:
            return None
        if self._position == len(tape.engines):
            tape.engines.append((graph, self._open(graph, self._lane)))
        known, engine = tape.engines[self._position]
        if known != graph:
            raise EngineRunError(f"a recorded sequence ran {known!r} before and runs {graph!r} now")
        self._position += 1
        return engine

    def play(self, key: Key, lane: Lane, body: Callable[[], None]) -> None:
        """Do a sequence: call `body`, or launch what was recorded of it.

        Raises:
            EngineRunError: the engines failed.
        """
        tape = self._tapes.setdefault((lane, key), Tape())
        self._tapes.move_to_end((lane, key))
        tape.times += 1
        if len(self._tapes) > MOST_COUNTED:
            self._forget(next(iter(self._tapes)))
        if tape.recording is not None and tape.workspace == self._workspaces[lane].place:
            self._device.launch(tape.recording, lane)
        elif tape.times <= RARE or tape.refused:
            body()
        else:
            self._record(tape, lane, body)
            self._forget_oldest()

    def _record(self, tape: Tape, lane: Lane, body: Callable[[], None]) -> None:
        """Prepare a sequence with contexts of its own, or record what was prepared and launch it; simply do it where that is refused.

        Raises:
            DeviceMemoryError: there is no memory for it, recorded or not.
            EngineRunError: the engines failed.
        """
        prepared = bool(tape.engines) and tape.recording is None and tape.workspace == self._workspaces[lane].place
        tape.erase()
        try:
            if prepared and all(engine.can_be_recorded(self._device.stream(lane)) for _, engine in tape.engines):
                with self._using(tape, lane), self._device.capture(lane) as recorded:
                    body()
                tape.recording = recorded()
            else:
                with self._using(tape, lane):
                    body()
                tape.workspace = self._workspaces[lane].place
        except DeviceMemoryError:
            raise
        except EngineRunError as error:
            self._refuse(tape, error)
            body()
        else:
            if tape.recording is not None:
                self._device.launch(tape.recording, lane)

    def _refuse(self, tape: Tape, error: EngineRunError) -> None:
        """Give up on a sequence for good, and its contexts, once nothing runs in them."""
        _log.warning("not recorded as a CUDA graph, which makes it slower but not wrong: %s", error)
        tape.refused = True
        self._device.synchronize()
        tape.erase()
        tape.engines.clear()

    @contextmanager
    def _using(self, tape: Tape, lane: Lane) -> Iterator[None]:
        self._tape, self._lane, self._position = tape, lane, 0
        try:
            yield
        finally:
            self._tape = None

    def _forget_oldest(self) -> None:
        """Keep no more recordings than `MOST` says; the device is idle when contexts go, as what runs must not lose them."""
        held = [place for place, tape in self._tapes.items() if tape.engines]
        if len(held) > MOST * self.frames:
            self._forget(held[0])

    def forget(self, owner: object) -> None:
        """Drop every sequence of an owner of arrays."""
        for place in [place for place in self._tapes if place[1][0] is owner]:
            self._forget(place)

    def _forget(self, place: Place) -> None:
        tape = self._tapes.pop(place)
        if tape.engines:
            self._device.synchronize()
        tape.erase()

    def close(self) -> None:
        """Free everything, after the device has finished."""
        for tape in self._tapes.values():
            tape.erase()
        self._tapes.clear()
