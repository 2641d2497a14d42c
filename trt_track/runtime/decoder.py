"""From packets to pictures, in display order, up to the first damage."""

from __future__ import annotations

from collections.abc import Iterator

import av
from av.container import InputContainer
from av.video.frame import VideoFrame

from trt_track.runtime.container import pictures_of, video_stream
from trt_track.runtime.packet_index import Keyframe, PacketIndex


class PictureDamageError(Exception):
    """Decoding cannot go on; the reader of the clip turns it into what its caller sees."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(reason)
        self.index = index
        self.reason = reason


class _BadPacketError(Exception):
    """A packet that the container marks as damaged or cut off."""


def pictures(container: InputContainer, index: PacketIndex, key: Keyframe | None) -> Iterator[tuple[int, VideoFrame]]:
    """Yield (index, picture) in display order from a keyframe, or from the clip's beginning.

    From a keyframe pictures are told apart by their times, from the beginning they are counted.

    Raises:
        PictureDamageError: a picture is damaged or missing; all good ones before it have been yielded.
    """
    expected = 0 if key is None else key.index
    try:
        for picture in _decode(container, index, key):
            if _leans_on_missing(picture, index, key):
                continue
            if picture.is_corrupt:
                raise PictureDamageError(expected, "its data are damaged")
            if key is not None and index.find(picture.pts) != expected:
                raise PictureDamageError(expected, "a frame is missing")
            yield expected, picture
            expected += 1
    except (av.FFmpegError, _BadPacketError) as error:
        for picture in _drain(container):
            if picture.is_corrupt or index.find(picture.pts) != expected:
                break
            yield expected, picture
            expected += 1
        raise PictureDamageError(expected, getattr(error, "strerror", None) or str(error)) from error


def _leans_on_missing(picture: VideoFrame, index: PacketIndex, key: Keyframe | None) -> bool:
    """Whether a picture is shown before the keyframe at which decoding began."""
    earliest = index.earliest_pts if key is None else key.pts
    return earliest is not None and picture.pts is not None and picture.pts < earliest


def _decode(container: InputContainer, index: PacketIndex, key: Keyframe | None) -> Iterator[VideoFrame]:
    stream = video_stream(container)
    if key is not None:
        container.seek(key.pts, stream=stream)
    skip = index.skipped if key is None else 0
    for position, packet in enumerate(pictures_of(container, stream)):
        if packet.is_corrupt:
            raise _BadPacketError("its data are incomplete")
        if position >= skip:
            yield from stream.decode(packet)
    yield from stream.decode(None)


def _drain(container: InputContainer) -> Iterator[VideoFrame]:
    """Yield what the decoder still holds after an error."""
    try:
        yield from video_stream(container).decode(None)
    except av.FFmpegError:
        return
