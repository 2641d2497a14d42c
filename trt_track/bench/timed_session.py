"""A session that tells how long each graph and each transfer takes.

It waits for the device after every one, so the speed of a loop around it is no figure.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trt_track.engines.session import Fetched, Key, Session

if TYPE_CHECKING:
    from trt_track.runtime.frames import Frame, VideoInfo
    from trt_track.runtime.tracker import Source

DECODE: Final = "decode wait"
UPLOAD: Final = "upload"
DOWNLOAD: Final = "download"
COPIES: Final = "copies"
HOST: Final = "host remainder"
"""What is left of a frame: the loop itself."""


class StageClock:
    """Seconds of each stage, frame by frame."""

    def __init__(self) -> None:
        self.frames: list[dict[str, float]] = []
        self._open: dict[str, float] = {}
        self._started = time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the block to a stage of the frame that is tracked now."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._open[name] = self._open.get(name, 0.0) + time.perf_counter() - started

    def restart(self) -> None:
        """Forget what came before the first frame."""
        self._open, self._started = {}, time.perf_counter()

    def end_frame(self) -> None:
        """Close the frame; what no stage took is the host's."""
        now = time.perf_counter()
        self.frames.append({**self._open, HOST: now - self._started - sum(self._open.values())})
        self._open, self._started = {}, now


class TimedSession:
    """Stands around a session: it times what moves or computes and passes the rest on as it is."""

    overlaps = False
    """Nothing runs beside anything else, or no stage would have a time of its own."""

    def __init__(self, session: Session, clock: StageClock) -> None:
        """Time a session that is open already.

        Args:
            session: what computes.
            clock: takes the seconds.
        """
        self._session, self._clock = session, clock
        self._token = session.empty((1,), "uint8")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def __enter__(self) -> TimedSession:
        return self

    def __exit__(self, *exc: object) -> None:
        self._session.close()

    def upload(self, target: Any, source: np.ndarray) -> None:
        """Upload, and wait until it is there."""
        with self._waited(UPLOAD):
            self._session.upload(target, source)

    def download(self, source: Any) -> np.ndarray:
        """Download; this waits by itself."""
        with self._clock.stage(DOWNLOAD):
            return self._session.download(source)

    def fetch(self, sources: Sequence[Any]) -> Fetched:
        """Ask for arrays, and wait until they are there."""
        with self._waited(DOWNLOAD):
            return _TimedFetch(self._session.fetch(sources), self._clock)

    def copy(self, target: Any, source: Any) -> None:
        """Copy, and wait."""
        with self._waited(COPIES):
            self._session.copy(target, source)

    def scatter(self, target: Any, rows: Any, source: Any) -> None:
        """Copy rows, and wait."""
        with self._waited(COPIES):
            self._session.scatter(target, rows, source)

    def run(self, graph: str, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        """Run one graph, and wait."""
        with self._waited(graph):
            self._session.run(graph, inputs, outputs)

    def recorded(self, key: Key, body: Callable[[], None]) -> None:
        """Call the body every time: graphs that are launched as one have no times of their own."""
        body()

    @contextmanager
    def _waited(self, stage: str) -> Iterator[None]:
        with self._clock.stage(stage):
            yield
            self._session.download(self._token)  # which waits for everything


class _TimedFetch:
    """What was fetched; taking it out counts too."""

    def __init__(self, fetched: Fetched, clock: StageClock) -> None:
        self._fetched, self._clock = fetched, clock

    def arrays(self) -> list[np.ndarray]:
        """Return the arrays."""
        with self._clock.stage(DOWNLOAD):
            return self._fetched.arrays()


class TimedSource:
    """Stands around a clip: it times how long the loop waits for each frame."""

    def __init__(self, source: Source, clock: StageClock) -> None:
        """Time a clip that is open already.

        Args:
            source: gives the frames.
            clock: takes the seconds.
        """
        self._source, self._clock = source, clock

    @property
    def info(self) -> VideoInfo:
        """What the clip is."""
        return self._source.info

    @property
    def damage(self) -> str | None:
        """Why the last reading ended early, or None."""
        return self._source.damage

    def frames(self, **options: Any) -> Generator[Frame, None, None]:
        """Yield what the source yields."""
        frames = self._source.frames(**options)
        try:
            while True:
                with self._clock.stage(DECODE):
                    frame = next(frames, None)
                if frame is None:
                    return
                yield frame
        finally:
            frames.close()

    def close(self) -> None:
        """Close the clip."""
        self._source.close()
