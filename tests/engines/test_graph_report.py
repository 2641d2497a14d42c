from dataclasses import replace

import pytest
import tiny_graphs as tiny
from onnx import TensorProto, helper

from trt_track.engines.bundle import Bundle
from trt_track.engines.graph_report import describe_graph, report_bundle, report_graph
from trt_track.specs import TensorSpec


@pytest.fixture
def bundle(tmp_path):
    return tiny.write_bundle(tmp_path / "tiny", tiny.SUM, tiny.UPSCALE, tiny.FRAME, tiny.REFUSED, tiny.ATTENTION)


def test_sound_graphs_have_no_problems(bundle):
    reports = {report.graph: report for report in report_bundle(bundle)}
    assert {name for name, report in reports.items() if report.problems} == {"refused"}
    assert reports["memory_sum"].operators["Gather"] == 1
    assert reports["memory_sum"].opset == 23
    assert reports["memory_sum"].weights_bytes == 4 * 8
    assert reports["memory_sum"].attention_nodes == 0
    assert reports["attention"].attention_nodes == 1
    assert reports["refused"].problems == ("operator NonZero (1)",)


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (replace(tiny.FRAME, inputs=(TensorSpec("frames", ("F", 4, 4, 4), "uint8"),)), "input 'frames' should be uint8[F, 4, 4, 4]"),
        (replace(tiny.FRAME, outputs=(TensorSpec("image", ("F", 3, 4, 4), "float16"),)), "output 'image' should be float16"),
        (replace(tiny.FRAME, outputs=()), "output 'image' is not in the contract"),
        (replace(tiny.FRAME, inputs=(*tiny.FRAME.inputs, TensorSpec("more", ("F",), "uint8"))), "input 'more' is missing"),
    ],
)
def test_a_broken_contract_is_reported(tmp_path, spec, problem):
    with Bundle.create(tmp_path / "b", tiny.DESCRIPTION) as draft:
        tiny.write_onnx(draft.onnx_path("frame"), tiny.FRAME)
        draft.add(spec)
    assert any(item.startswith(problem) for item in report_graph(Bundle.open(tmp_path / "b"), "frame").problems)


def test_uint8_in_the_middle_of_a_graph_is_reported(tmp_path, monkeypatch):
    nodes = [
        helper.make_node("Transpose", ["frames"], ["first"], perm=[0, 3, 1, 2], name="too_early"),
        helper.make_node("Cast", ["first"], ["image"], to=TensorProto.FLOAT),
    ]
    monkeypatch.setitem(tiny.NODES, "frame", lambda: (nodes, []))
    bundle = tiny.write_bundle(tmp_path / "b", tiny.FRAME)
    assert report_graph(bundle, "frame").problems == ("uint8 frames touches Transpose 'too_early': put a Cast between them",)


def test_polygraphy_lists_the_nodes(bundle):
    pytest.importorskip("polygraphy", reason="polygraphy is not installed: pip install polygraphy")
    assert "Gather" in describe_graph(bundle, "memory_sum")
