"""Decoding on a GPU: the same frames as from the CPU, and what happens where there is no such decoder."""

import av
import numpy as np
import pytest
from clip_maker import assert_reverse_of, read, write_clip

from trt_track.errors import VideoError
from trt_track.runtime import container, picture, video_file
from trt_track.runtime.video import open_video

TAGGED = {"x264-params": "colormatrix=bt709:fullrange=on"}
UNSPECIFIED = 2


def interleaved(picture):
    """The very values of a planar 4:2:0 picture as NV12: U and V side by side."""
    luma, *chroma = (np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width] for plane in picture.planes)
    pairs = np.stack(chroma, axis=-1).reshape(len(chroma[0]), -1)
    return av.VideoFrame.from_ndarray(np.concatenate([luma, pairs]), format="nv12")


@pytest.fixture
def asked(monkeypatch):
    """What is opened is opened without a GPU; each item tells whether one was asked for."""
    found, really_open = [], av.open

    def opened(*arguments, hwaccel=None, **options):
        found.append(hwaccel is not None)
        return really_open(*arguments, **options)

    monkeypatch.setattr(container.av, "open", opened)
    return found


@pytest.fixture
def gpu_like(asked, monkeypatch):
    """A decoder that gives what NVIDIA's gives through PyAV: NV12, with its time, and nothing said of colours."""
    really_decode = video_file.pictures

    def pictures(source, index, key):
        for number, decoded in really_decode(source, index, key):
            given = interleaved(decoded) if asked[-1] else decoded
            if asked[-1]:
                given.pts, given.colorspace, given.color_range = decoded.pts, UNSPECIFIED, 0
            yield number, given

    monkeypatch.setattr(video_file, "pictures", pictures)
    monkeypatch.setattr(video_file, "is_decoded_by_gpu", lambda stream: True)
    return asked


@pytest.fixture
def clip(tmp_path):
    return write_clip(tmp_path / "clip.mp4", frames=40, options=TAGGED)


def read_gpu(clip, **options):
    with open_video(clip, hardware_decode=True) as video:
        return video, list(video.frames(size=32, keep_video=True, **options))


def assert_close(frames, expected):
    assert [frame.index for frame in frames] == [frame.index for frame in expected]
    assert [frame.time_s for frame in frames] == [frame.time_s for frame in expected]
    for frame, other in zip(frames, expected, strict=True):
        for one, two in ((frame.model_rgb_hwc, other.model_rgb_hwc), (frame.video_rgb_hwc, other.video_rgb_hwc)):
            off = np.abs(one.astype(int) - two)  # libswscale brings the colours of NV12 to full size in another way
            assert off.mean() < 1.5
            assert (off > 2).mean() < 0.03


def test_frames_are_those_that_the_cpu_decodes(clip, gpu_like):
    _, expected = read(clip, keep_video=True)
    assert not any(gpu_like)
    video, frames = read_gpu(clip)
    assert video.hardware_decode
    assert gpu_like[-1]
    assert_close(frames, expected)
    _, backward = read_gpu(clip, reverse=True)
    assert_reverse_of(frames, backward)
    _, later = read_gpu(clip, start=35, stop=38)
    assert_close(later, expected[35:38])


def test_colours_that_are_not_restored_would_show(clip, gpu_like, monkeypatch):
    _, expected = read(clip, keep_video=True)
    monkeypatch.setattr(picture, "_UNSPECIFIED", None)
    _, frames = read_gpu(clip)
    with pytest.raises(AssertionError):
        assert_close(frames, expected)


def test_a_clip_that_the_gpu_does_not_take_is_decoded_by_the_cpu(clip, asked, caplog):
    _, expected = read(clip, keep_video=True)
    video, frames = read_gpu(clip)
    assert not video.hardware_decode
    assert asked[-2:] == [True, False]  # it was tried, then read without
    assert_close(frames, expected)
    assert caplog.messages == [f"{clip} is not decoded by the GPU (h264): the CPU decodes it"]


def test_without_a_decoder(clip, monkeypatch):
    def refused(*_, hwaccel=None, **__):
        assert hwaccel is not None
        raise av.error.PermissionError(1, "Operation not permitted")

    source = video_file.VideoFile(clip)
    monkeypatch.setattr(container.av, "open", refused)
    with pytest.raises(
        VideoError, match=r"the GPU's video decoder cannot be opened \(Operation not permitted\).*without --hardware-decode"
    ):
        source._gpu_can()


def test_a_decoder_that_is_lost_later_is_the_cpus(clip, gpu_like, monkeypatch, caplog):
    _, expected = read(clip, keep_video=True)
    with open_video(clip, hardware_decode=True) as video:
        really_open = container.av.open

        def refused(*arguments, hwaccel=None, **options):
            if hwaccel is not None:
                raise av.error.ExternalError(1, "Generic error in an external library")
            return really_open(*arguments, **options)

        monkeypatch.setattr(container.av, "open", refused)
        frames = list(video.frames(size=32, keep_video=True))
        assert not video.hardware_decode
    assert_close(frames, expected)
    assert caplog.messages[-1].endswith("without --hardware-decode the CPU decodes; from here on the CPU decodes")


def test_a_folder_of_frames_is_the_cpus(tmp_path):
    from PIL import Image

    Image.new("RGB", (20, 10)).save(tmp_path / "0.png")
    with open_video(tmp_path, hardware_decode=True) as video:
        assert not video.hardware_decode
        assert len(list(video.frames(size=8))) == 1


@pytest.mark.gpu
def test_a_real_decoder(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", frames=40, size_wh=(320, 240), options=TAGGED)  # decoders refuse very small pictures
    _, expected = read(clip, keep_video=True)
    try:
        video, frames = read_gpu(clip)
    except VideoError as error:
        pytest.skip(str(error))
    assert video.hardware_decode
    assert_close(frames, expected)
