"""INT8: what is quantised and what is not, how exact it is, and how ranges are found and kept."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from trt_track.engines.onnx_model import OnnxModel
from trt_track.errors import ExportError, ModelError
from trt_track.export import calibration as calibrating
from trt_track.export.calibration import METHODS, Calibration
from trt_track.export.quantization import activations_in, quantizable_nodes, quantize_graph
from trt_track.parity.quantization_check import check_quantized
from trt_track.recipe import CarefulLayers, NetworkPrecision, Recipe

WEIGHTS = {
    "conv_weight": (16, 3, 3, 3),
    "first_weight": (16, 24),
    "second_weight": (12, 24),  # of a Gemm with its weight turned
    "last_weight": (12, 5),
}


def write_network(path, dtype="float16"):
    """Write a convolution, three products with weights and two without: layers conv, first, second, mix and last."""
    random = np.random.default_rng(11)
    real = {"float16": TensorProto.FLOAT16, "float32": TensorProto.FLOAT}[dtype]
    weights = [
        numpy_helper.from_array((random.standard_normal(shape) * (0.004 if name == "conv_weight" else 0.3)).astype(dtype), name)
        for name, shape in WEIGHTS.items()
    ]
    shapes = [
        numpy_helper.from_array(np.int64(value), name)
        for name, value in {"flat": [0, 16, -1], "rows": [-1, 24], "wide": [-1, 64, 12]}.items()
    ]
    nodes = [
        layer("conv", "Cast", ["frames"], ["pixels"], to=real),
        layer("conv", "Transpose", ["pixels"], ["image"], perm=[0, 3, 1, 2]),
        layer("conv", "Conv", ["image", "conv_weight"], ["map"], pads=[1, 1, 1, 1]),
        layer("conv", "Reshape", ["map", "flat"], ["cells_t"]),
        layer("conv", "Transpose", ["cells_t"], ["cells"], perm=[0, 2, 1]),
        layer("first", "MatMul", ["cells", "first_weight"], ["hidden"]),
        layer("first", "Gelu", ["hidden"], ["active"]),
        layer("second", "Reshape", ["active", "rows"], ["active_rows"]),
        layer("second", "Gemm", ["active_rows", "second_weight"], ["narrow_rows"], transB=1),
        layer("second", "Reshape", ["narrow_rows", "wide"], ["narrow"]),
        layer("mix", "Transpose", ["narrow"], ["narrow_t"], perm=[0, 2, 1]),
        layer("mix", "MatMul", ["narrow", "narrow_t"], ["scores"]),
        layer("mix", "Softmax", ["scores"], ["shares"]),
        layer("mix", "MatMul", ["shares", "narrow"], ["mixed"]),
        layer("last", "MatMul", ["mixed", "last_weight"], ["embed"]),
    ]
    frames = helper.make_tensor_value_info("frames", TensorProto.UINT8, ["F", 8, 8, 3])
    embed = helper.make_tensor_value_info("embed", real, ["F", 64, 5])
    graph = helper.make_graph(nodes, "network", [frames], [embed], weights + shapes)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def layer(name, operator, inputs, outputs, **attributes):
    node = helper.make_node(operator, inputs, outputs, name=f"{name}/{operator}/{outputs[0]}", **attributes)
    node.metadata_props.add(key="layer", value=name)
    return node


def recipe(*exceptions, dtype="float16", operators=("Conv", "Gemm", "MatMul")):
    careful = (CarefulLayers("image_encoder", exceptions, dtype, "a test"),) if exceptions else ()
    return Recipe("mine", "", {"image_encoder": NetworkPrecision(dtype, operators)}, careful)


def pictures(count, seed=0):
    random = np.random.default_rng(seed)
    return [{"frames": random.integers(0, 60, (1, 8, 8, 3), np.uint8)} for _ in range(count)]


def quantized(tmp_path, wanted, *, dtype="float16", method="minmax"):
    source, target = write_network(tmp_path / "float.onnx", dtype), tmp_path / "int8.onnx"
    ranges = Calibration(pictures(4), method).ranges(source, activations_in(source, wanted, "image_encoder"), folder=tmp_path / "cache")
    return source, target, quantize_graph(source, target, wanted, "image_encoder", ranges)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("method", METHODS)
def test_it_computes_nearly_the_same(tmp_path, dtype, method):
    source, target, layers = quantized(tmp_path, recipe(dtype=dtype), dtype=dtype, method=method)
    assert layers == ["conv", "first", "second", "last"]
    onnx.checker.check_model(onnx.load(target), full_check=True)
    picture = pictures(1, seed=9)[0]
    wanted, found = (OnnxModel(path).run(picture)["embed"].astype(np.float64) for path in (source, target))
    error = np.sqrt(((found - wanted) ** 2).mean()) / wanted.std()
    assert 1e-4 < error < (0.15 if method == "entropy" else 0.08)  # of few values a histogram says little
    (row,) = check_quantized("image_encoder", source, target, picture)
    assert row.passed


def test_weights_are_stored_in_int8_and_scales_have_the_graphs_dtype(tmp_path):
    _, target, _ = quantized(tmp_path, recipe())
    stored = {tensor.name: tensor for tensor in onnx.load(target).graph.initializer}
    assert not set(WEIGHTS) & set(stored)
    for name, axis in (("conv_weight", 0), ("first_weight", 1), ("second_weight", 0), ("last_weight", 1)):
        values, scales = (numpy_helper.to_array(stored[f"{name}/{axis}/{part}"]) for part in ("stored", "scale"))
        assert values.dtype == np.int8
        assert scales.dtype == np.float16
        assert len(scales) == WEIGHTS[name][axis]  # one per output channel
        others = tuple(index for index in range(values.ndim) if index != axis)
        assert (np.abs(values.astype(int)).max(axis=others) >= 126).all()


def test_products_of_two_computed_tensors_are_never_quantised(tmp_path):
    path = write_network(tmp_path / "m.onnx")
    assert [node.name for node in quantizable_nodes(onnx.load(path), recipe(), "image_encoder")] == [
        "conv/Conv/map",
        "first/MatMul/hidden",
        "second/Gemm/narrow_rows",
        "last/MatMul/embed",
    ]


def test_a_recipe_chooses_operators_and_leaves_layers_out(tmp_path):
    _, target, layers = quantized(tmp_path, recipe("conv", "la*", operators=("Conv", "MatMul")))
    assert layers == ["first"]
    assert sum(node.op_type == "QuantizeLinear" for node in onnx.load(target).graph.node) == 1


@pytest.mark.parametrize("only", ["conv", "first", "second", "last"])
def test_one_layer_alone_can_be_quantised(tmp_path, only):
    source, target, layers = quantized(tmp_path, recipe(*({"conv", "first", "second", "last"} - {only})))
    assert layers == [only]
    assert check_quantized("image_encoder", source, target, pictures(1)[0])[0].passed


def test_an_exception_that_means_nothing_is_refused(tmp_path):
    path = write_network(tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"recipe mine: image_encoder has no layer neck.\* that could be quantised"):
        activations_in(path, recipe("neck.*"), "image_encoder")
    with pytest.raises(ModelError, match="nothing is left to quantise in image_encoder"):
        activations_in(path, recipe("*"), "image_encoder")


def test_layers_in_float32_need_not_be_products(tmp_path):
    """Norms can be excepted, too; a layer in float32 is not quantised."""
    path = write_network(tmp_path / "m.onnx")
    careful = (
        CarefulLayers("image_encoder", ("*.norm",), "float32", "a test"),
        CarefulLayers("image_encoder", ("last",), "float32", "one"),
    )
    mixed = Recipe("mine", "", {"image_encoder": NetworkPrecision("float16", ("Conv", "Gemm", "MatMul"))}, careful)
    assert activations_in(path, mixed, "image_encoder") == ["image", "cells", "active_rows"]


def test_ranges_are_found_once_for_the_same_graph_pictures_and_method(tmp_path, monkeypatch):
    path = write_network(tmp_path / "m.onnx")
    names = activations_in(path, recipe(), "image_encoder")
    measured = []
    measure = Calibration._measure
    monkeypatch.setattr(Calibration, "_measure", lambda self, *rest: measured.append(self.method) or measure(self, *rest))
    cache, seen = tmp_path / "cache", []
    first = Calibration(pictures(2), "minmax").ranges(path, names, folder=cache, on_progress=lambda done, total: seen.append((done, total)))
    again = Calibration(pictures(2), "minmax").ranges(path, names, folder=cache)
    assert again == first
    assert seen == [(1, 2), (2, 2)]
    assert measured == ["minmax"]
    others = [Calibration(pictures(2, seed=1), "minmax"), Calibration(pictures(2), "percentile"), Calibration(pictures(3), "minmax")]
    for other in others:
        other.ranges(path, names, folder=cache)
    assert len(measured) == 4
    (kept, *_) = cache.glob("*.json")
    kept.write_text(json.dumps(first)[:-5])  # cut short
    for calibration in (Calibration(pictures(2), "minmax"), *others):
        calibration.ranges(path, names, folder=cache)
    assert len(measured) == 5


def test_ranges_are_found_anew_with_another_percentile_or_onnx_runtime(tmp_path, monkeypatch):
    """What was found with other bins or by another calibrator is another range."""
    measured = []
    monkeypatch.setattr(Calibration, "_measure", lambda self, *_: measured.append(self.method) or {"image": (-1.0, 1.0)})
    path, options = write_network(tmp_path / "m.onnx"), calibrating._OPTIONS["percentile"]
    for name, value in (("percentile", 99.99), ("percentile", 99.9), ("num_bins", 512)):
        monkeypatch.setitem(calibrating._OPTIONS, "percentile", {**options, name: value})
        Calibration(pictures(1), "percentile").ranges(path, ["image"], folder=tmp_path)
    monkeypatch.setattr(onnxruntime, "__version__", "0.1")
    Calibration(pictures(1), "percentile").ranges(path, ["image"], folder=tmp_path)
    assert len(measured) == 4


def test_ranges_are_those_of_the_values(tmp_path):
    path = write_network(tmp_path / "m.onnx", "float32")
    feeds = pictures(3)
    ranges = Calibration(feeds, "minmax").ranges(path, ["image"], folder=tmp_path)
    most = max(float(feed["frames"].max()) for feed in feeds)
    assert max(map(abs, ranges["image"])) == pytest.approx(most)
    narrower = Calibration(feeds, "percentile").ranges(path, ["image"], folder=tmp_path)
    assert max(map(abs, narrower["image"])) <= most * 1.01


def test_calibration_that_cannot_work_is_refused(tmp_path):
    with pytest.raises(ModelError, match="calibration 'guess' is unknown: choose one of entropy, percentile, minmax"):
        Calibration(pictures(1), "guess")
    with pytest.raises(ModelError, match="at least one picture"):
        Calibration([], "minmax")
    path = write_network(tmp_path / "m.onnx")
    with pytest.raises(ExportError, match=r"m\.onnx could not be calibrated: "):
        Calibration([{"frames": np.zeros((1, 8, 8, 3), np.float32)}], "minmax").ranges(path, ["image"], folder=tmp_path)
