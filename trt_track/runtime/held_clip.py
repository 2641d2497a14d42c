"""A clip whose frames a caller holds in memory: pictures from elsewhere, drawn scenes, the first frames of a file."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from trt_track.errors import VideoError
from trt_track.runtime.frames import Frame, ImageU8, VideoInfo, frame_of

_FRAME_RATE: Final = Fraction(30)


class HeldClip:
    """Stands in for a `VideoSource`."""

    damage: str | None = None

    def __init__(self, frames_rgb: Iterable[ImageU8], *, name: str = "frames", frame_rate: Fraction = _FRAME_RATE) -> None:
        """Take (H, W, 3) uint8 RGB frames, at least one, all of one size; they are kept, not copied.

        Raises:
            VideoError: there is none, or they are no such frames.
        """
        self._held = list(frames_rgb)
        if not self._held:
            raise VideoError(f"{name}: a clip needs at least one frame")
        for index, frame in enumerate(self._held):
            if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape != (*self._held[0].shape[:2], 3):
                raise VideoError(f"{name}: frame {index} is {frame.dtype} {frame.shape}; expected uint8 (H, W, 3), all of one size")
        height, width = self._held[0].shape[:2]
        self.info = VideoInfo(name, width, height, len(self._held), frame_rate, 0, Path(name))

    def frames(
        self, *, size: int, reverse: bool = False, start: int | None = None, stop: int | None = None, keep_video: bool = False
    ) -> Generator[Frame, None, None]:
        """Yield frames as `VideoSource.frames` does, scaled to the model's square the way that upstream scales pictures."""
        for index in self._indexes(start, stop, reverse=reverse):
            frame = self._held[index]
            square = frame if frame.shape[:2] == (size, size) else np.asarray(Image.fromarray(frame).resize((size, size)))
            yield frame_of(index, float(index / self.info.frame_rate), square, frame if keep_video else None)

    def _indexes(self, start: int | None, stop: int | None, *, reverse: bool) -> Iterator[int]:
        last = len(self._held) - 1
        if reverse:
            return iter(range(last if start is None else start, -1 if stop is None else stop, -1))
        return iter(range(start or 0, last + 1 if stop is None else stop))

    def close(self) -> None:
        """Do nothing: there is no file."""
