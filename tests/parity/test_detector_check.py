"""A detector's bundle against transformers: equal on real frames, and a wrong graph shows."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from trt_track.detector_specs import detector_graph_specs
from trt_track.engines.bundle import Bundle
from trt_track.engines.onnxruntime_session import OnnxRuntimeSession
from trt_track.export.grounding_dino import load_detector
from trt_track.parity.detector_check import check_detector
from trt_track.parity.thresholds import Thresholds
from trt_track.runtime.grounding_dino import GroundingDino, TextQuery
from trt_track.runtime.phrases import PromptReader
from trt_track.runtime.video import open_video

EXACT = Thresholds.read().detector(["float32"])
TEXTS = ("person.", "red car. a dog. cat.", "a bicycle? street lamp")


@pytest.fixture(scope="module")
def upstream(detector_folder):
    return load_detector(detector_folder).model


@pytest.fixture(scope="module")
def frames(bikes):
    from PIL import Image

    with open_video(bikes) as source:
        every = [frame.video_rgb_hwc for frame in source.frames(size=64, stop=3, keep_video=True)]
    return np.stack([np.asarray(Image.fromarray(frame).resize((130, 96))) for frame in every])


@pytest.mark.parametrize("text", TEXTS)
def test_real_frames_are_transformers(tiny_detector, upstream, frames, text):
    detector = GroundingDino.open(Bundle.open(tiny_detector), TextQuery(text), backend="onnxruntime-cpu")
    rows = check_detector(detector, upstream, frames, limits=EXACT)
    detector.close()
    assert len(rows) == 3
    assert all(row.passed for row in rows), rows
    assert max(row.logits for row in rows) < 5e-4


@pytest.mark.parametrize("name", ["queries", "word_positions", "map_positions"])
def test_a_wrong_graph_shows(tiny_detector, upstream, frames, tmp_path, name):
    bundle = Bundle.open(tiny_detector)
    model = onnx.load(bundle.onnx_path("detector"))
    weight = next(weight for weight in model.graph.initializer if weight.name == name)
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.1), weight.name))
    onnx.save(model, tmp_path / "detector.onnx")
    specs = detector_graph_specs(bundle.detector)
    graphs = {
        "text_encoder": (specs["text_encoder"], bundle.onnx_path("text_encoder")),
        "detector": (specs["detector"], tmp_path / "detector.onnx"),
    }
    reader = PromptReader(bundle.file_path("tokenizer.json"), bundle.detector)
    with OnnxRuntimeSession(graphs) as session:
        rows = check_detector(GroundingDino(session, reader, TextQuery(TEXTS[1])), upstream, frames[:1], limits=EXACT)
    assert not rows[0].passed
