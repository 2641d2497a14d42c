"""ONNX Runtime on a GPU: the loop over a strict fake of both, and what is said where CUDA cannot be used."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import toy_model
from fake_gpu import FakeDevice
from fake_onnxruntime import FakeCudaGraph
from onnx import numpy_helper, parser
from test_gpu_loop import SCHEDULES, assert_equal, held_clip, track

from trt_track.engines import onnxruntime_cuda_session
from trt_track.engines.backends import open_session
from trt_track.engines.onnxruntime_cuda_session import PROVIDER, OnnxRuntimeCudaSession, cpu_operators, load_cuda_graph
from trt_track.errors import BackendError, EngineRunError, TensorMismatchError
from trt_track.runtime.tracker import Tracker, Video


@pytest.fixture
def bundle(tmp_path):
    return toy_model.write_bundle(tmp_path / "toy", "fp32")


def open_cuda(bundle, device):
    graphs = {name: (spec, bundle.onnx_path(name)) for name, spec in bundle.specs.items()}
    return OnnxRuntimeCudaSession(graphs, device=device, load=lambda name, path, stream: FakeCudaGraph(device, path, stream))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("throughput", [False, True])
def test_tracks_are_those_of_the_cpu(bundle, schedule, throughput):
    late = {} if throughput else {9: {"object_id": 3, "points": [(40, 30), (20, 1)], "labels": [0, 1]}}
    wanted = track(open_session(bundle, "onnxruntime-cpu", threads=1), bundle.model, clips=2, late=late)
    device = FakeDevice(**SCHEDULES[schedule])
    assert_equal(track(open_cuda(bundle, device), bundle.model, clips=2, late=late, throughput=throughput), wanted)
    assert device.live == {}
    assert device.closed == 1


def test_a_graph_that_runs_on_another_lane_is_waited_for(bundle):
    """The encoder, asked for beside everything else, as a comparison of graphs does."""
    frame = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    found = []
    for session in (open_session(bundle, "onnxruntime-cpu"), open_cuda(bundle, FakeDevice(seed=3))):
        with session:
            spec = session.specs["image_encoder"]
            frames = session.empty(frame.shape, "uint8")
            outputs = {tensor.name: session.empty(tensor.concrete({"F": 1}), tensor.dtype) for tensor in spec.outputs}
            session.upload(frames, frame)
            session.run("image_encoder", {"frames": frames}, outputs)
            found.append(np.array(session.download(outputs["embed"])))
    np.testing.assert_array_equal(*found)


def test_what_does_not_fit_the_contract_is_refused(bundle):
    with open_cuda(bundle, FakeDevice()) as session:
        with pytest.raises(TensorMismatchError, match="no graph 'decoder'; it has image_encoder"):
            session.run("decoder", {}, {})
        with pytest.raises(TensorMismatchError, match="'image_encoder' needs tensor 'frames'"):
            session.run("image_encoder", {}, {})
        with pytest.raises(TensorMismatchError, match="'frames'"):
            session.run("image_encoder", {"frames": session.empty((1, 3, 3, 3), "uint8")}, {})


def test_a_failure_names_the_graph(bundle):
    with open_cuda(bundle, FakeDevice()) as session:
        frames = session.empty((1, 64, 64, 3), "uint8")
        outputs = {t.name: session.empty(t.concrete({"F": 1}), t.dtype) for t in session.specs["image_encoder"].outputs}

        def fail(*_):
            raise RuntimeError("CUBLAS failure 13\nand a trace")

        session._engines["image_encoder"].engine.run_with_iobinding = fail
        with pytest.raises(EngineRunError, match=r"graph 'image_encoder' failed in ONNX Runtime: CUBLAS failure 13$"):
            session.run("image_encoder", {"frames": frames}, outputs)


@pytest.mark.parametrize(("room", "batches"), [(16, [5]), (4, [3, 2]), (2, [2, 2, 1]), (1, [1] * 5)])
def test_a_batch_is_as_large_as_memory_allows(bundle, caplog, room, batches):
    """Five objects: more than a call for the CPU carries. ONNX Runtime says when its arena is at its end."""

    class Arena(FakeCudaGraph):
        def run_with_iobinding(self, binding, options):
            objects = next(iter(binding.outputs.values()))[1][0]
            if objects > room:
                raise RuntimeError("bfc_arena.cc:376 Available memory of 7 is smaller than requested bytes of 9")
            carried.append((Path(self.path).stem, objects))
            super().run_with_iobinding(binding, options)

    def load(name, path, stream):
        graph = Arena(device, path, stream)
        graph.path = path
        return graph

    device, carried = FakeDevice(), []
    session = OnnxRuntimeCudaSession(
        {name: (spec, bundle.onnx_path(name)) for name, spec in bundle.specs.items()}, device=device, load=load
    )
    with Tracker(session, bundle.model, max_objects=5) as tracker:
        video = Video(tracker, held_clip(bundle.model.image_size, count=4))
        for object_id in range(1, 6):
            video.add(object_id=object_id, points=[(9 * object_id, 9)])
        assert [len(result.masks) for result in video.propagate()] == [5] * 4
    attended = [objects for graph, objects in carried if graph == "memory_attention"]
    assert attended == batches * 3
    assert ("from here on" in caplog.text) == (room < 5)


class OnCpu:
    """A graph that was loaded for CUDA, and whose nodes all lie on the CPU."""

    def __init__(self, engine):
        self.engine = engine

    def get_providers(self):
        return [PROVIDER, "CPUExecutionProvider"]

    def __getattr__(self, name):
        return getattr(self.engine, name)


def test_what_has_no_cuda_kernels_is_told(bundle, caplog, monkeypatch):
    monkeypatch.setattr(ort, "get_available_providers", lambda: [PROVIDER])
    monkeypatch.setattr(ort, "preload_dlls", lambda: None)
    load = onnxruntime_cuda_session.load_graph
    monkeypatch.setattr(
        onnxruntime_cuda_session, "load_graph", lambda name, path, options, providers: OnCpu(load(name, path, options, providers[1:]))
    )
    load_cuda_graph("mask_prompt", bundle.onnx_path("mask_prompt"), 1)
    (told,) = caplog.messages
    assert "graph mask_prompt: ONNX Runtime has no CUDA kernels for" in told
    assert "1 AveragePool" in told
    assert "1 ReduceMean" in told
    assert "Unsqueeze" not in told


def test_sizes_may_be_computed_on_the_cpu(tmp_path):
    model = parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 20]> sizes (float[M, N] x) => (int64[2] y)
        <int64[1] twice = {2}> { s = Shape(x) t = Gather<axis=0>(s, twice_0) y = Concat<axis=0>(t, twice) }"""
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "twice_0"))
    options = ort.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    assert not cpu_operators(ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]))
    assert not cpu_operators(object())  # an older ONNX Runtime does not say


def test_a_graph_that_cannot_be_loaded_frees_the_gpu(bundle):
    device = FakeDevice()

    def load(name, path, stream):
        raise BackendError("ONNX Runtime cannot load its CUDA provider")

    graphs = {name: (spec, bundle.onnx_path(name)) for name, spec in bundle.specs.items()}
    with pytest.raises(BackendError):
        OnnxRuntimeCudaSession(graphs, device=device, load=load)
    assert device.live == {}
    assert device.closed == 1


def test_onnx_runtime_without_cuda_is_refused_with_a_way_out(bundle, monkeypatch):
    path = bundle.onnx_path("mask_prompt")
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(BackendError, match="knows no CUDA: pip uninstall onnxruntime, then pip install onnxruntime-gpu"):
        load_cuda_graph("mask_prompt", path, 1)
