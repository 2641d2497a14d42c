"""The real graphs, from PyTorch to TensorRT engines, the way that the commands do it."""

import shutil

import onnx
import pytest

from trt_track.detector_specs import DETECTOR_GRAPHS
from trt_track.engines.backends import inspect_machine
from trt_track.engines.bundle import Bundle
from trt_track.engines.tensorrt_builder import build_engines
from trt_track.specs import GRAPHS, Limits

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("tensorrt-rtx" in inspect_machine().faults, reason="tensorrt_rtx is missing: pip install -e '.[rtx]'"),
]


@pytest.fixture(scope="module")
def fp16_bundle(tmp_path_factory):
    """SAM 2.1 tiny at 256 px in FP16 with random weights."""
    from command_line import run_process

    folder = tmp_path_factory.mktemp("fp16") / "bundle"
    done = run_process("export", "sam2.1-hiera-tiny", "--random-weights", 0, "--size", 256, "--precision", "fp16", "--out", folder)
    assert done.returncode == 0, done.stderr
    return Bundle.open(folder)


def test_attention_is_an_operator_in_the_graphs_of_low_precision(fp16_bundle):
    graphs = {name: onnx.load(fp16_bundle.onnx_path(name), load_external_data=False).graph for name in fp16_bundle.manifest.graphs}
    attention = {name: sum(node.op_type == "Attention" for node in graph.node) for name, graph in graphs.items()}
    assert attention["memory_attention"] == 8
    assert attention["image_encoder"] == 12
    assert not any(count for graph, count in attention.items() if graph not in {"memory_attention", "image_encoder"})


@pytest.mark.parametrize("target", ["sm75", "sm89"])
def test_every_graph_builds(fp16_bundle, target):
    """The smallest size is the hardest: below 4096 queries there is no fused kernel for a batch of exactly one."""
    records = build_engines(fp16_bundle, targets=[target], limits=Limits(objects=4))
    assert {record.graph for record in records} == set(GRAPHS)
    on_disk = {path.name: path.stat().st_size for path in (fp16_bundle.folder / "engines").rglob(f"{target}/*.engine")}
    assert on_disk == {record.engine.file: record.engine.bytes for record in records}


def test_engines_for_a_single_object_build(fp16_bundle):
    """A batch that can only be one has no fused attention at small sizes: the engine takes two, the session asks for one."""
    records = {record.graph: record for record in build_engines(fp16_bundle, targets=["sm89"], limits=Limits(objects=1))}
    assert set(records) == set(GRAPHS)
    assert records["memory_attention"].limits.objects == 1


def test_a_detector_builds(tiny_detector, tmp_path):
    bundle = Bundle.open(shutil.copytree(tiny_detector, tmp_path / "bundle"))
    records = {record.graph: record for record in build_engines(bundle, targets=["sm89"], limits=Limits(frames=2))}
    assert set(records) == set(DETECTOR_GRAPHS)
    assert records["detector"].profile.shapes["frames"] == ((1, 96, 130, 3), (2, 96, 130, 3), (2, 96, 130, 3))
    assert records["text_encoder"].profile.shapes["token"] == ((4,), (16,), (256,))
