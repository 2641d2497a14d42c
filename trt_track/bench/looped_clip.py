"""A clip that is as long as a bench needs it: a shorter one is played again from its start."""

from __future__ import annotations

from collections.abc import Collection, Generator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Self

from trt_track.errors import VideoError
from trt_track.runtime.frames import Frame, VideoInfo
from trt_track.runtime.video import VideoSource, open_video


class LoopedClip:
    """Stands in for a `VideoSource`, read forwards."""

    def __init__(self, path: Path, frames: int) -> None:
        """Open a clip.

        Args:
            path: a video file or a folder of frames.
            frames: how many it shall have.

        Raises:
            VideoError: it is missing, unreadable or empty.
        """
        self._source: VideoSource = open_video(path)
        self.info: VideoInfo = replace(self._source.info, frame_count=frames)

    @property
    def damage(self) -> str | None:
        """Why the last reading ended early, or None."""
        return self._source.damage

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
        """Yield frames in order; see `VideoSource.frames`.

        Raises:
            VideoError: it shall be read in reverse or in part.
        """
        if reverse or only is not None:
            raise VideoError(f"{self.info.name}: a clip that is played again and again is read forwards, every frame")
        length, index, end = self._source.info.frame_count, start or 0, self.info.frame_count if stop is None else stop
        while index < end:
            first = index % length
            read = self._source.frames(size=size, start=first, stop=min(length, first + end - index), keep_video=keep_video)
            with closing(read):
                for frame in read:
                    yield replace(frame, index=index, time_s=float(index / self.info.frame_rate))
                    index += 1
            if self.damage:
                return

    def close(self) -> None:
        """Close the clip."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
