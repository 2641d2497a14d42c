"""Clips in: a video file, decoded forward, or block by block in reverse."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Final

from av.container import InputContainer
from av.video.frame import VideoFrame

from trt_track.errors import VideoError
from trt_track.runtime.container import is_decoded_by_gpu, open_container, video_stream
from trt_track.runtime.decoder import PictureDamageError, pictures
from trt_track.runtime.frames import Frame, FrameRequest, VideoInfo
from trt_track.runtime.packet_index import scan_packets
from trt_track.runtime.picture import PictureConverter, PictureShape

_log = logging.getLogger(__name__)

_BLOCK_BYTES: Final = 256 * 2**20
_BLOCK_FRAMES: Final = (8, 64)


class VideoFile:
    """A video file; every `read` opens it anew, so that reads do not disturb each other."""

    def __init__(self, path: Path, *, hardware: bool = False) -> None:
        """Count the frames and decode the first one.

        Args:
            path: the file.
            hardware: whether the GPU decodes it; what it cannot decode the CPU does, and a warning is logged.

        Raises:
            VideoError: it is no video, or holds no frame that can be decoded, or the GPU's decoder cannot be opened.
        """
        self.damage: str | None = None
        self._path = path
        with open_container(path) as container:
            self._index = scan_packets(container)
        first, rate, self._time_base = self._first_picture()
        if self._index.find(first.pts) != 0:
            self._index = replace(self._index, pts=None, keyframes=())
        self._shape = PictureShape.of(first)
        self._first_pts = first.pts or 0
        width, height = self._shape.displayed_wh
        self.info = VideoInfo(
            name=path.stem,
            width=width,
            height=height,
            frame_count=self._index.frame_count,
            frame_rate=rate,
            rotation_deg=self._shape.orientation.rotation_deg,
            path=path,
        )
        self.hardware = hardware and self._gpu_can()
        """Whether the GPU decodes."""

    def read(self, request: FrameRequest) -> Iterator[Frame]:
        """Yield the frames asked for; see `FrameReader.read`."""
        self.damage = None
        return self._read_forward(request) if request.indexes.step > 0 else self._read_reverse(request)

    def _gpu_can(self) -> bool:
        """Decode the first picture with the GPU, to see whether it can."""
        with open_container(self._path, hardware=True) as container:
            stream, problem = video_stream(container), ""
            try:
                next(pictures(container, self._index, None), None)
            except PictureDamageError as damage:
                problem = f", {damage.reason}"
            if not problem and is_decoded_by_gpu(stream):
                return True
            codec = stream.codec_context.name
        _log.warning("%s is not decoded by the GPU (%s%s): the CPU decodes it", self._path, codec, problem)
        return False

    def _open(self) -> InputContainer:
        """Open the file for the GPU's decoder if that can still be had, else for the CPU's."""
        if self.hardware:
            try:
                return open_container(self._path, hardware=True)
            except VideoError as error:
                _log.warning("%s; from here on the CPU decodes", error)
                self.hardware = False
        return open_container(self._path)

    def _first_picture(self) -> tuple[VideoFrame, Fraction, Fraction | None]:
        with open_container(self._path) as container:
            stream = video_stream(container)
            try:
                first = next((picture for _, picture in pictures(container, self._index, None)), None)
            except PictureDamageError as damage:
                raise VideoError(f"{self._path}: no frame of the video can be decoded ({damage.reason})") from damage
            if first is None or not self._index.frame_count:
                raise VideoError(f"{self._path}: the video holds no frames")
            return first, stream.average_rate or stream.guessed_rate or Fraction(30), stream.time_base

    def _read_forward(self, request: FrameRequest) -> Iterator[Frame]:
        if not request.indexes:
            return
        convert = PictureConverter(self._shape, request)
        wanted, to_the_end = request.indexes, request.indexes.stop == self.info.frame_count
        reached, reason = wanted.start, self._index.cut_off or "the file holds no more"
        try:
            for index, picture in self._pictures_from(wanted.start, request):
                if index >= wanted.stop:
                    self.damage = f"the clip holds more than the {index} frames that its container announces" if to_the_end else None
                    return
                if request.wants(index):
                    yield convert.frame(picture, index=index, time_s=self._time_s(index, picture))
                reached = index + 1
        except PictureDamageError as damage:
            reached, reason = damage.index, damage.reason
        if reached < wanted.stop and not request.cancelled.is_set():
            self.damage = f"the clip ends early: frame {reached} of {self.info.frame_count} cannot be read ({reason})"
        elif to_the_end and self._index.cut_off:
            self.damage = f"the clip ends early: no frame after {reached - 1} can be read ({self._index.cut_off})"

    def _read_reverse(self, request: FrameRequest) -> Iterator[Frame]:
        convert = PictureConverter(self._shape, request)
        ascending = request.indexes[::-1]
        for first in range(ascending.stop, ascending.start, -self._block_frames):
            block = range(max(ascending.start, first - self._block_frames), first)
            held = self._block(block, request)
            while held and not request.cancelled.is_set():
                picture = held.pop()
                index = block.start + len(held)
                if request.wants(index):
                    yield convert.frame(picture, index=index, time_s=self._time_s(index, picture))

    @property
    def _block_frames(self) -> int:
        picture_bytes = self._shape.stored_wh[0] * self._shape.stored_wh[1] * 3 // 2
        return min(max(_BLOCK_BYTES // picture_bytes, _BLOCK_FRAMES[0]), _BLOCK_FRAMES[1])

    def _block(self, block: range, request: FrameRequest) -> list[VideoFrame]:
        """Decode the frames of a block, kept as the decoder made them: half the size of RGB."""
        held: list[VideoFrame] = []
        reason = self._index.cut_off or "the file holds no more"
        try:
            for index, picture in self._pictures_from(block.start, request):
                if index in block:
                    held.append(picture)
                if len(held) == len(block):
                    return held
        except PictureDamageError as damage:
            reason = damage.reason
        if request.cancelled.is_set():
            return []
        broken = block.start + len(held)
        raise VideoError(
            f"{self.info.name}: frame {broken} of {self.info.frame_count} cannot be read ({reason}): "
            f"a damaged clip can be read in reverse from before that frame only"
        )

    def _pictures_from(self, start: int, request: FrameRequest) -> Iterator[tuple[int, VideoFrame]]:
        """Yield (index, picture) from frame `start` on, from the nearest keyframe that leads to it."""
        for key in self._index.entry_points(start):
            reached = False
            try:
                with self._open() as container:
                    for index, picture in pictures(container, self._index, key):
                        if request.cancelled.is_set():
                            return
                        if index >= start:
                            reached = True
                            yield index, picture
                return
            except PictureDamageError:
                if reached or key is None:
                    raise

    def _time_s(self, index: int, picture: VideoFrame) -> float:
        # Not picture.time_base: PyAV leaves it out of the last pictures that a decoder gives.
        if self._index.pts is None or picture.pts is None or self._time_base is None:
            return float(index / self.info.frame_rate)
        return float((picture.pts - self._first_pts) * self._time_base)
