"""Small clips that tests write themselves, and how they read them."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from trt_track.runtime.video import open_video

CODEC_OPTIONS = {
    "libx264": {"g": "30", "bf": "3", "crf": "12"},
    "libvpx-vp9": {"g": "30", "cpu-used": "8", "deadline": "realtime"},
    "libvpx": {"g": "50", "deadline": "good", "cpu-used": "5", "auto-alt-ref": "1", "lag-in-frames": "25"},
    "libx265": {"g": "30", "x265-params": "log-level=none"},
    "mpeg4": {"g": "12"},
    "mpeg2video": {"g": "12", "bf": "2"},
}
PIXEL_FORMATS = {"mjpeg": "yuvj420p", "gif": "rgb8"}


def picture(index: int, width: int, height: int) -> np.ndarray:
    """A ramp whose brightness tells the index, and a moving square with some texture."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = index * 2 % 256
    image[..., 2] = np.arange(width) * 255 // width
    left = index * 3 % (width - 10)
    image[10:20, left : left + 10] = np.random.default_rng(index).integers(0, 256, (10, 10, 1))
    return image


def write_clip(
    path: Path, codec: str = "libx264", *, frames: int = 60, size_wh=(96, 64), rate=25, options=None, times=None, rotation=None
) -> Path:
    """Encode `frames` pictures; `times` are pts in milliseconds for a variable rate, `rotation` the arguments of the display matrix."""
    width, height = size_wh
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=CODEC_OPTIONS.get(codec, {}) | (options or {}))
        stream.width, stream.height = width, height
        stream.pix_fmt = PIXEL_FORMATS.get(codec, "yuv420p")
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(*rotation)
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(index, width, height), "rgb24")
            if times:
                frame.pts, frame.time_base = times[index], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def remux(source: Path, target: Path, *, packets: slice | None = None, earlier: int = 0, **options: str) -> Path:
    """Copy the packets of a clip into another container, `earlier` ticks before their times."""
    with av.open(str(source)) as read, av.open(str(target), "w", container_options=options) as write:
        stream = write.add_stream_from_template(read.streams.video[0])
        for packet in [packet for packet in read.demux(video=0) if packet.size][packets or slice(None)]:
            packet.stream = stream
            if earlier:
                packet.pts, packet.dts = packet.pts - earlier, packet.dts - earlier
            write.mux(packet)
    return target


def decoded(path: Path) -> list[np.ndarray]:
    """All frames of a clip as PyAV gives them, RGB, not rotated."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def read(path: Path, **options):
    """Open a clip and read all its frames, 32 px wide unless said otherwise."""
    with open_video(path) as video:
        frames = list(video.frames(size=options.pop("size", 32), **options))
        return video, frames


def assert_reverse_of(forward, backward):
    """Fail unless both readings hold the same frames, in opposite order."""
    assert [frame.index for frame in backward] == [frame.index for frame in forward][::-1]
    for a, b in zip(forward, backward[::-1], strict=True):
        assert a.time_s == b.time_s
        np.testing.assert_array_equal(a.model_rgb_hwc, b.model_rgb_hwc)
