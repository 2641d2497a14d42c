"""A clip whose frames lie in memory: the first frames of a file, drawn scenes, pictures from elsewhere."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Final, Self

import numpy as np
from PIL import Image

from trt_track.errors import VideoError
from trt_track.runtime.frames import Frame, ImageU8, VideoInfo, frame_of
from trt_track.runtime.video import open_video

_FRAME_RATE: Final = Fraction(30)


@dataclass(frozen=True, slots=True)
class HeldClip:
    """Stands in for a `VideoSource`."""

    info: VideoInfo
    held: tuple[Frame, ...]
    """All frames in order, at the size of one model."""
    damage: str | None = None

    @classmethod
    def read(cls, path: str | Path, *, size: int, frames: int) -> Self:
        """Read the first frames of a clip, for a model of side `size`.

        Raises:
            VideoError: the clip cannot be read.
        """
        with open_video(path) as source:
            held = tuple(source.frames(size=size, stop=frames))
            return cls(replace(source.info, frame_count=len(held)), held)

    @classmethod
    def of_pictures(cls, pictures_rgb: Iterable[ImageU8], *, size: int, name: str = "frames", frame_rate: Fraction = _FRAME_RATE) -> Self:
        """Take (H, W, 3) uint8 RGB pictures, at least one, all of one size, scaled for a model the way that upstream scales pictures.

        Raises:
            VideoError: there is none, or they are no such pictures.
        """
        held: list[Frame] = []
        for index, picture in enumerate(pictures_rgb):
            expected = picture.shape if not held or held[0].video_rgb_hwc is None else held[0].video_rgb_hwc.shape
            if picture.dtype != np.uint8 or picture.shape != (*expected[:2], 3):
                raise VideoError(f"{name}: frame {index} is {picture.dtype} {picture.shape}; expected uint8 (H, W, 3), all of one size")
            square = picture if picture.shape[:2] == (size, size) else np.asarray(Image.fromarray(picture).resize((size, size)))
            held.append(frame_of(index, float(index / frame_rate), square, picture))
        if not held:
            raise VideoError(f"{name}: a clip needs at least one frame")
        height, width = picture.shape[:2]
        return cls(VideoInfo(name, width, height, len(held), frame_rate, 0, Path(name)), tuple(held))

    def first(self, count: int) -> Self:
        """Return a clip that ends after `count` frames."""
        held = self.held[:count]
        return replace(self, info=replace(self.info, frame_count=len(held)), held=held)

    def frames(  # noqa: PLR0913 - which frames, and how
        self,
        *,
        size: int,
        reverse: bool = False,
        start: int | None = None,
        stop: int | None = None,
        only: Collection[int] | None = None,
        keep_video: bool = False,
    ) -> Generator[Frame, None, None]:
        """Yield frames as `VideoSource.frames` does.

        Raises:
            ValueError: they are held at another size, or without the pictures that `keep_video` asks for.
        """
        if any(frame.model_rgb_hwc.shape[0] != size or (keep_video and frame.video_rgb_hwc is None) for frame in self.held):
            raise ValueError("this clip was read for another model")
        last = len(self.held) - 1
        if reverse:
            indexes = range(last if start is None else start, -1 if stop is None else stop, -1)
        else:
            indexes = range(start or 0, last + 1 if stop is None else min(stop, last + 1))
        yield from (self.held[index] for index in indexes if only is None or index in only)

    def close(self) -> None:
        """Do nothing: there is no file."""
