"""The first frames of a clip, read as they are needed: a source that ends early."""

from __future__ import annotations

from collections.abc import Collection, Generator
from dataclasses import replace

from trt_track.runtime.frames import Frame, VideoInfo
from trt_track.runtime.tracker import Source


class FirstFrames:
    """Stands in for a `VideoSource` of `frames` frames at most."""

    def __init__(self, source: Source, frames: int) -> None:
        """Use a source that is open already."""
        self._source = source
        self.info: VideoInfo = replace(source.info, frame_count=min(frames, source.info.frame_count))

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
        """Yield frames as `VideoSource.frames` does."""
        count = self.info.frame_count
        first = count - 1 if reverse and start is None else start
        end = count if stop is None and not reverse else stop
        return self._source.frames(size=size, reverse=reverse, start=first, stop=end, only=only, keep_video=keep_video)

    def close(self) -> None:
        """Close the clip."""
        self._source.close()
