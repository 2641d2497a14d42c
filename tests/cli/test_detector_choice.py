"""Which detector is taken, and what is said of it before it is loaded."""

import shutil

import pytest

from trt_track.cli.detector_choice import DetectorOptions
from trt_track.cli.frame_shape import is_squeezed, suiting_frame
from trt_track.engines.bundle import Bundle
from trt_track.models import GROUNDING_DINO_PICO_BUNDLE

LANDSCAPE, UPRIGHT = (800, 1333), (1333, 800)
"""Height and width, as exports name them."""


@pytest.mark.parametrize(
    ("video_wh", "squeezed"),
    [((1920, 1080), False), ((640, 480), False), ((2560, 1080), False), ((600, 600), True), ((1080, 1920), True), ((3000, 500), True)],
)
def test_what_loses_its_shape(video_wh, squeezed):
    assert is_squeezed(video_wh, LANDSCAPE) == squeezed
    assert is_squeezed(video_wh[::-1], UPRIGHT) == squeezed


@pytest.mark.parametrize(
    ("video_wh", "frame_hw"), [((1080, 1920), UPRIGHT), ((480, 640), UPRIGHT), ((600, 600), (1033, 1033)), ((3200, 800), (516, 2065))]
)
def test_a_size_that_suits(video_wh, frame_hw):
    assert suiting_frame(video_wh, LANDSCAPE) == frame_hw
    assert not is_squeezed(video_wh, frame_hw)


def advice(video_wh, text="red circle. blue star."):
    return DetectorOptions(text, str(GROUNDING_DINO_PICO_BUNDLE)).choose(video_wh).advice(video_wh)


def test_what_loses_its_shape_is_told_with_the_way_out():
    assert advice((640, 360)) == []
    assert advice((360, 640)) == [
        "frames of 360x640 pixels lose their shape in the 320x192 that grounding-dino-pico looks at: "
        "trt-track export-detector grounding-dino-pico --frame 320x192 makes one for them"
    ]


def test_a_comma_is_told():
    (line,) = advice((640, 360), "red circle, blue star")
    assert line == 'a comma does not part things, and "red circle, blue star" has one: a full stop does, as in "person. dog."'


@pytest.mark.parametrize(("video_wh", "frame"), [((640, 360), "192x320"), ((360, 640), "320x192")])
def test_of_a_model_the_one_whose_frames_suit_the_clip_is_taken(tmp_path, monkeypatch, video_wh, frame):
    monkeypatch.setenv("TRT_TRACK_CACHE", str(tmp_path))
    for name in ("192x320", "320x192"):
        shutil.copytree(GROUNDING_DINO_PICO_BUNDLE, tmp_path / "bundles" / f"grounding-dino-tiny-{name}-fp32")
    for options in (DetectorOptions("star"), DetectorOptions("star", "grounding-dino-tiny")):
        assert options.choose(video_wh).bundle.folder.name == f"grounding-dino-tiny-{frame}-fp32"


def test_what_is_chosen_is_not_loaded(monkeypatch):
    monkeypatch.setattr(Bundle, "onnx_path", lambda *_: pytest.fail("a graph was asked for"))
    assert DetectorOptions("star", str(GROUNDING_DINO_PICO_BUNDLE)).choose((640, 360)).describe()["text"] == "star."
