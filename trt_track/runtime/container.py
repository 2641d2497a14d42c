"""The door to video files: which containers are opened, and which of their packets are pictures."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import av
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.video.stream import VideoStream

from trt_track.errors import VideoError

# A playlist named clip.mp4 would make libavformat open the files and hosts that it lists: only real containers pass.
_FORMATS: Final = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,mpeg1video,mpeg2video,m4v,flv,live_flv,asf,ogg,gif,apng,webp,"
    "h261,h263,h264,hevc,vvc,av1,obu,ivf,mjpeg,mxf,nut,dv,gxf,wtv,rm,nsv,yuv4mpegpipe,dirac,vc1,amv,swf"
)
_OPTIONS: Final = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}


_GPU: Final = "cuda"
"""FFmpeg's name of NVIDIA's decoder, and of pictures that lie in a GPU's memory."""


def open_container(path: Path, *, hardware: bool = False) -> InputContainer:
    """Open a local video file, and never any other file or address.

    Args:
        path: the file.
        hardware: whether the GPU decodes it, where it can: its pictures come back into the host's memory by themselves.

    Raises:
        VideoError: it is no video that can be read, or the GPU's decoder cannot be opened.
    """
    # In a CUDA context of its own: FFmpeg refuses one that others use with other flags, as TensorRT's session does.
    accelerator = HWAccel(_GPU, allow_software_fallback=True) if hardware else None
    try:
        if path.stat().st_size == 0:
            raise VideoError(f"{path}: the file is empty")
        return av.open(str(path.resolve()), "r", options=dict(_OPTIONS), hwaccel=accelerator)
    except av.FFmpegError as error:
        raise VideoError(f"{path}: {_hardware_refusal(error) if hardware else _refusal(error)}") from error
    except OSError as error:
        raise VideoError(f"{path}: {error.strerror}") from error


def is_decoded_by_gpu(stream: VideoStream) -> bool:
    """Tell, once a picture was decoded, whether the GPU did it; it does not know every codec, nor every form of those that it knows."""
    return stream.codec_context.pix_fmt == _GPU


def _hardware_refusal(error: av.FFmpegError) -> str:
    return (
        f"the GPU's video decoder cannot be opened ({error.strerror}): it needs NVIDIA's driver with its video libraries; without "
        f"--hardware-decode the CPU decodes"
    )


def _refusal(error: av.FFmpegError) -> str:
    if error.errno == errno.EINVAL:
        return "not a video container: playlists, images and other formats are not opened (for images give their folder)"
    if isinstance(error, OSError):
        return str(error.strerror)
    return "not a video that can be read: damaged, incomplete or of another kind"


def video_stream(container: InputContainer) -> VideoStream:
    """Return the first stream that is a video: a cover picture is none.

    Raises:
        VideoError: there is none, or its codec is unknown.
    """
    cover = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not streams:
        raise VideoError(f"{container.name}: the file holds no video stream")
    if streams[0].codec_context is None:
        raise VideoError(f"{container.name}: the video's codec is not supported by this build of FFmpeg")
    return streams[0]


def pictures_of(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet[VideoStream]]:
    """Yield the packets that carry data: an empty one would end the decoder, where AVI means "repeat the last frame"."""
    return (packet for packet in container.demux(stream) if packet.size)
