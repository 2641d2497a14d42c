"""What a clip's packets tell without decoding one: how many frames there are, their times and where decoding may start."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.video.stream import VideoStream

from trt_track.runtime.container import video_stream


@dataclass(frozen=True, slots=True)
class Keyframe:
    """A frame at which decoding may start."""

    index: int
    pts: int


@dataclass(frozen=True, slots=True)
class PacketIndex:
    """What a pass over a clip's packets tells without decoding one."""

    frame_count: int
    """Frames that the clip announces: those found, and those that were cut off where the container counts them."""
    skipped: int
    """Packets before the first keyframe, which no decoder can use."""
    cut_off: str | None
    """How the clip ends before its announced end, or None."""
    earliest_pts: int | None
    """Frames before this one lean on pictures that the clip does not hold."""
    pts: npt.NDArray[np.int64] | None
    """Presentation times in display order, in the stream's time base; None where the container's times do not tell frames apart."""
    keyframes: tuple[Keyframe, ...]
    """In display order; empty without `pts`."""

    def find(self, pts: int | None) -> int | None:
        """Return the index of the frame with this presentation time, or None."""
        if pts is None or self.pts is None:
            return None
        position = int(np.searchsorted(self.pts, pts))
        return position if position < len(self.pts) and self.pts[position] == pts else None

    def entry_points(self, index: int) -> tuple[Keyframe | None, ...]:
        """Return where to start decoding for the frame `index`: the nearest keyframe, the one before, the clip's beginning (None)."""
        before = [key for key in self.keyframes if key.index <= index][-2:]
        return (*(key for key in reversed(before) if key.index > 0), None)


def scan_packets(container: InputContainer) -> PacketIndex:
    """Read all packets of the video once, without decoding, and count its frames.

    Raises:
        VideoError: the container holds no video.
    """
    stream = video_stream(container)
    scan = _Scan()
    try:
        for packet in container.demux(stream):
            scan.add(packet)
    except av.FFmpegError as error:
        scan.cut_off = str(error.strerror)
    return scan.index(container, stream)


class _Scan:
    """Collects times while packets pass, 8 bytes a frame."""

    def __init__(self) -> None:
        self.packets = 0
        self.last_dts = self.step = 0
        self.pictures = 0
        self.skipped: int | None = None
        self.earliest_pts: int | None = None
        self.pts = array("q")
        self.keys = array("q")
        self.untimed = False
        self.cut_off: str | None = None

    def add(self, packet: av.Packet[VideoStream]) -> None:
        self.packets += packet.size > 0 or packet.pts is not None
        if packet.size and packet.dts is not None:
            self.step, self.last_dts = packet.dts - self.last_dts, packet.dts
        if packet.size == 0:
            return
        self.cut_off = "its data are incomplete" if packet.is_corrupt else None
        if packet.is_keyframe and self.skipped is None:
            self.skipped, self.earliest_pts = self.pictures, packet.pts
            del self.pts[:]
        self.pictures += 1
        if packet.is_discard:  # an edit list leaves it out; the decoder needs it, but shows nothing
            return
        if packet.pts is None:
            self.untimed = True
        elif packet.is_keyframe:
            self.keys.append(packet.pts)
        self.pts.append(packet.pts or 0)

    def index(self, container: InputContainer, stream: VideoStream) -> PacketIndex:
        pts = np.sort(np.array(self.pts, np.int64))
        # AVI counts packets in decoding order: with B-frames its times are not those of the frames.
        reordered = container.format.name == "avi" and stream.codec_context.has_b_frames
        timed = not self.untimed and not reordered and len(np.unique(pts)) == len(pts)
        if timed and self.earliest_pts is not None:
            pts = pts[pts >= self.earliest_pts]
        missing, cut_off = self._missing(container, stream)
        return PacketIndex(
            frame_count=len(pts) + missing,
            skipped=self.skipped or 0,
            cut_off=cut_off,
            earliest_pts=self.earliest_pts if timed else None,
            pts=pts if timed else None,
            keyframes=_keyframes(pts, self.keys) if timed else (),
        )

    def _missing(self, container: InputContainer, stream: VideoStream) -> tuple[int, str | None]:
        """Return how many frames the container announces beyond those found, and how it was cut off."""
        announced = held = 0
        if container.format.name == "avi":  # counts repeated frames too: they take time, but have no packet
            step = max(self.step, 1)
            announced, held = stream.frames // step, self.last_dts // step + 1
        elif "mp4" in container.format.name:
            announced, held = len(stream.index_entries), self.packets
        missing = max(0, announced - held)
        if missing or self.cut_off:
            return missing, self.cut_off or f"the file holds {held} of {announced} frames"
        return 0, _missing_end(container, stream, max(self.pts, default=0))


def _missing_end(container: InputContainer, stream: VideoStream, last_pts: int) -> str | None:
    """Matroska announces only its length in time: compare, where no other stream could be the longer one."""
    if "matroska" not in container.format.name or len(container.streams) > 1 or not container.duration or not stream.time_base:
        return None
    announced_s, held_s = container.duration / av.time_base, float(last_pts * stream.time_base)
    if announced_s - held_s < max(1.0, 0.02 * announced_s):
        return None
    return f"the file ends at {held_s:.2f} s of {announced_s:.2f} s"


def _keyframes(pts: npt.NDArray[np.int64], keys: array[int]) -> tuple[Keyframe, ...]:
    positions = np.searchsorted(pts, np.array(keys, np.int64))
    return tuple(sorted({Keyframe(int(i), int(key)) for i, key in zip(positions, keys, strict=True)}, key=lambda key: key.index))
