"""From decoded pictures to frames: orientation, size and colour."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from trt_track.runtime.frames import Frame, FrameRequest, frame_of

# Without the second flag libswscale rounds down: white comes out as 253.
_BICUBIC: Final = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT

_UNSPECIFIED: Final = 2
"""FFmpeg's number of a matrix that a picture does not tell."""


@dataclass(frozen=True, slots=True)
class Orientation:
    """How a stored picture is turned and mirrored to be displayed; PyAV leaves this to its caller."""

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False
    rotation_deg: int = 0

    @classmethod
    def of(cls, picture: VideoFrame) -> Orientation:
        """Read the display matrix: x' = a x + c y, y' = b x + d y in 16.16 numbers."""
        matrix = picture.side_data.get(SideDataType.DISPLAYMATRIX)  # type: ignore[call-overload] # PyAV's stubs miss this key
        if matrix is None:
            return cls()
        a, b, _, c, d = struct.unpack("=9i", bytes(matrix))[:5]
        rotation = round(picture.rotation / 90) * 90 % 360
        if abs(b) + abs(c) > abs(a) + abs(d):
            return cls(transpose=True, flip_x=c < 0, flip_y=b < 0, rotation_deg=rotation)
        return cls(flip_x=a < 0, flip_y=d < 0, rotation_deg=rotation)

    def apply(self, image_hwc: np.ndarray) -> np.ndarray:
        """Return a view of (H, W, 3) as it is displayed."""
        turned = image_hwc.swapaxes(0, 1) if self.transpose else image_hwc
        return turned[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]


@dataclass(frozen=True, slots=True)
class PictureShape:
    """What all pictures of a clip share: their stored size and how they are displayed."""

    stored_wh: tuple[int, int]
    """Pixels, before rotation."""
    orientation: Orientation
    colours: tuple[int, int]
    """FFmpeg's numbers of the matrix from YUV to RGB and of the range of values."""

    @classmethod
    def of(cls, picture: VideoFrame) -> PictureShape:
        """Read size, orientation and colours from a clip's first picture, decoded by the CPU."""
        colours = (int(picture.colorspace), int(picture.color_range))
        return cls(stored_wh=(picture.width, picture.height), orientation=Orientation.of(picture), colours=colours)

    @property
    def displayed_wh(self) -> tuple[int, int]:
        """Pixels, after rotation."""
        width, height = self.stored_wh
        return (height, width) if self.orientation.transpose else (width, height)


class PictureConverter:
    """Turns pictures into frames; keeps libswscale's tables between them, so one thread at a time may use it."""

    def __init__(self, shape: PictureShape, request: FrameRequest) -> None:
        self._shape = shape
        self._request = request
        self._to_model = VideoReformatter()
        self._to_video = VideoReformatter()

    def frame(self, picture: VideoFrame, *, index: int, time_s: float) -> Frame:
        """Resize a picture for the model, directly from its own colour format, and turn it as it is displayed."""
        model = self._rgb(self._to_model, picture, (self._request.size, self._request.size))
        video = self._rgb(self._to_video, picture, self._shape.stored_wh) if self._request.keep_video else None
        return frame_of(index, time_s, model, video)

    def _rgb(self, reformatter: VideoReformatter, picture: VideoFrame, size_wh: tuple[int, int]) -> np.ndarray:
        width, height = size_wh
        if int(picture.colorspace) == _UNSPECIFIED:  # PyAV before 18.1 forgets what a clip says where a GPU decodes it
            picture.colorspace, picture.color_range = self._shape.colours
        scaled = reformatter.reformat(picture, width=width, height=height, format="rgb24", interpolation=int(_BICUBIC))
        image: Any = scaled.to_ndarray()
        return self._shape.orientation.apply(image)
