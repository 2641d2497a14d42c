"""Clips in: video files and folders of frames behind one interface, decoded in a thread ahead of the tracker."""

from __future__ import annotations

import re
from collections.abc import Collection, Generator
from pathlib import Path
from typing import Final, Self

from trt_track.errors import VideoError
from trt_track.runtime.channel import read_ahead
from trt_track.runtime.frames import Frame, FrameReader, FrameRequest, VideoInfo
from trt_track.runtime.image_folder import ImageFolder
from trt_track.runtime.video_file import VideoFile

__all__ = ["Frame", "VideoInfo", "VideoSource", "open_video"]

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # one slash: Path("http://host") has lost the other


def open_video(path: str | Path, *, hardware_decode: bool = False) -> VideoSource:
    """Open a video file, or a folder of JPEG or PNG frames.

    Args:
        path: a local file or folder.
        hardware_decode: whether NVIDIA's video decoder decodes a file, through FFmpeg, and the CPU only what it does not take. Its pictures
            are resized and turned into RGB on the CPU as always. It does not tell damaged pictures: a damaged clip is read on.

    Raises:
        VideoError: it is missing, a URL, no video, or holds no frame that can be read; or the GPU's decoder cannot be opened.
    """
    place = Path(path)
    if _URL.match(str(path)) and not place.exists():
        raise VideoError(f"URLs are not supported yet: download the clip first ({path})")
    if not place.exists():
        raise VideoError(f"no such file or folder: {place}")
    return VideoSource(ImageFolder(place) if place.is_dir() else VideoFile(place, hardware=hardware_decode))


class VideoSource:
    """A clip that can be read any number of times, forward and in reverse, in constant memory.

    Nothing stays open between two iterations; leaving the context ends those that still run.
    """

    def __init__(self, reader: FrameReader, *, queue_frames: int = 4) -> None:
        self._reader = reader
        self._queue_frames = queue_frames
        self._running: list[Generator[Frame, None, None]] = []

    @property
    def info(self) -> VideoInfo:
        """What the clip is, in displayed pixels."""
        return self._reader.info

    @property
    def hardware_decode(self) -> bool:
        """Whether a GPU decodes it."""
        return isinstance(self._reader, VideoFile) and self._reader.hardware

    @property
    def damage(self) -> str | None:
        """Why the last forward iteration ended before the clip's announced end, in one line; None if it did not."""
        return self._reader.damage

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
        """Yield frames in order of their index, decoded ahead in a thread.

        Forward these are `range(start, stop)`, in reverse `range(start, stop, -1)`: `stop` itself is not included.
        A damaged clip read forward yields its good frames up to the damage, then stops; `damage` says why.

        Args:
            size: side S of the model's square, in pixels.
            reverse: from `start` down to the clip's beginning instead of up to its end.
            start: index of the first frame yielded; default the clip's first, in reverse its last.
            stop: index before which to stop; default after the clip's last frame, in reverse its first.
            only: of these frames those with such an index, by default all; the others are decoded, but their pixels are not converted.
            keep_video: fill `Frame.video_rgb_hwc`.

        Raises:
            VideoError: `start` or `stop` lies outside the clip, or a damaged clip is read in reverse.
        """
        indexes = self._indexes(reverse=reverse, start=start, stop=stop)
        request = FrameRequest(indexes=indexes, size=size, keep_video=keep_video, only=None if only is None else frozenset(only))
        return self._iterate(request)

    def _indexes(self, *, reverse: bool, start: int | None, stop: int | None) -> range:
        count = self.info.frame_count
        first = (count - 1 if reverse else 0) if start is None else start
        end = (-1 if reverse else count) if stop is None else stop
        if not 0 <= first < count or not -1 <= end <= count:
            raise VideoError(f"{self.info.name}: frames {first} to {end} asked for, but the clip has frames 0 to {count - 1}")
        return range(first, end, -1 if reverse else 1)

    def _iterate(self, request: FrameRequest) -> Generator[Frame, None, None]:
        frames = read_ahead(self._reader.read(request), capacity=self._queue_frames, cancelled=request.cancelled)
        self._running.append(frames)
        try:
            yield from frames
        finally:
            self._running.remove(frames)

    def close(self) -> None:
        """End the iterations that still run, and their threads."""
        for frames in list(self._running):
            frames.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
