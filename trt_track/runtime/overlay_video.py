"""Results out: `tracked.mp4`, the clip with its objects drawn over it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, Self

import av
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from av.video.stream import VideoStream

from trt_track.errors import OutputError
from trt_track.runtime.fragment_file import FragmentFile
from trt_track.runtime.output_file import output_errors
from trt_track.runtime.overlay import OverlayStyle, draw_overlay
from trt_track.runtime.results import FrameResult

_BT709: Final = 1  # H.273's number of the matrix, the primaries and the transfer curve
_LEAST_TICKS: Final = 90_000
# 720p on two cores: 5 ms a frame, where `veryfast` takes 23; the file is 1.7 times larger at the same quality.
_PRESET: Final = "ultrafast"


class OverlayVideoWriter:
    """Encodes H.264 in an mp4 that can be played at any time: what is written stays, whatever happens after.

    While it grows the file consists of fragments, one per second, each complete in itself; `close` turns it into an ordinary mp4.
    So a killed run loses a second at most. Frames keep their times. Those that come out of order (tracking in reverse) are appended at
    the clip's frame rate. An odd width or height grows by one pixel, a copy of the last, as 4:2:0 colour needs even sizes.
    """

    def __init__(self, path: Path, *, frame_rate: Fraction, style: OverlayStyle | None = None) -> None:
        self._path = path
        self._rate = frame_rate if frame_rate.numerator <= 10**6 else frame_rate.limit_denominator(1000)
        self._ticks = self._rate.numerator * math.ceil(_LEAST_TICKS / self._rate.numerator)
        self._style = style or OverlayStyle()
        self._to_yuv = VideoReformatter()
        self._container: OutputContainer | None = None
        self._stream: VideoStream | None = None
        self._file: FragmentFile | None = None
        self._held: FrameResult | None = None
        self._last_pts: int | None = None

    def write(self, result: FrameResult) -> None:
        """Take a frame. It is encoded when the next one comes: a frame that is tracked anew replaces itself.

        Raises:
            OutputError: the result does not carry its frame, or the file cannot be written.
        """
        if result.video_rgb_hwc is None:
            raise OutputError("the overlay video needs the clip's frames: read it with keep_video=True")
        if self._held is not None and self._held.frame_index != result.frame_index:
            self._encode(self._held)
        self._held = result

    def _encode(self, result: FrameResult) -> None:
        image = _even_size(draw_overlay(result, self._style))
        rgb = av.VideoFrame.from_numpy_buffer(image, "rgb24")
        frame = self._to_yuv.reformat(rgb, format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
        frame.pts, frame.time_base = self._pts(result.time_s), Fraction(1, self._ticks)
        with output_errors(self._path), self._abandoned_on_error():
            container, stream = self._opened(image.shape[1], image.shape[0])
            container.mux(stream.encode(frame))

    def _pts(self, time_s: float) -> int:
        pts = round(time_s * self._ticks)
        if self._last_pts is not None and pts <= self._last_pts:
            pts = self._last_pts + round(self._ticks / self._rate)
        self._last_pts = pts
        return pts

    def _opened(self, width: int, height: int) -> tuple[OutputContainer, VideoStream]:
        if self._container is None or self._stream is None:
            options = {"movflags": "hybrid_fragmented+frag_keyframe", "flush_packets": "1"}
            self._file = FragmentFile(self._path)
            self._container = av.open(self._file, "w", format="mp4", container_options=options)
            self._stream = self._add_stream(self._container, width, height)
        return self._container, self._stream

    def _add_stream(self, container: OutputContainer, width: int, height: int) -> VideoStream:
        keyframe_distance = str(max(1, round(self._rate)))
        options = {"preset": _PRESET, "crf": "20", "g": keyframe_distance}
        stream: Any = container.add_stream("libx264", rate=self._rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context = stream.codec_context
        context.time_base = Fraction(1, self._ticks)
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = ColorRange.MPEG
        return stream  # type: ignore[no-any-return]

    def close(self) -> None:
        """Encode what is held and finish the file; without any result there is none.

        Raises:
            OutputError: the end cannot be written; the file can be played up to there.
        """
        held, self._held = self._held, None
        if held is not None:
            self._encode(held)
        container, stream, file = self._container, self._stream, self._file
        if container is None or stream is None or file is None:
            return
        with output_errors(self._path), self._abandoned_on_error():
            container.mux(stream.encode())
            container.close()
            file.close()
        self._container = self._stream = self._file = None

    @contextmanager
    def _abandoned_on_error(self) -> Iterator[None]:
        """Leave the file as it is when writing fails: going on would crash in libavformat, its end would spoil the fragments."""
        try:
            yield
        except BaseException:
            container, file = self._container, self._file
            self._container = self._stream = self._file = self._held = None
            if file is not None:
                file.abandon()  # first: a container without its file is closed without writing
            if container is not None:
                container.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _even_size(image_hwc: np.ndarray) -> np.ndarray:
    height, width = image_hwc.shape[:2]
    return np.pad(image_hwc, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge") if height % 2 or width % 2 else image_hwc
