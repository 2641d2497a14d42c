"""Tiny ONNX graphs with the same kinds of tensors as the real ones, and bundles of them."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

from trt_track.engines.bundle import Bundle
from trt_track.engines.manifest import Description
from trt_track.specs import GraphSpec, ModelSpec, TensorSpec

ELEMENT = {
    "uint8": TensorProto.UINT8,
    "bool": TensorProto.BOOL,
    "float16": TensorProto.FLOAT16,
    "int32": TensorProto.INT32,
    "float32": TensorProto.FLOAT,
    "int64": TensorProto.INT64,
}

SUM = GraphSpec(
    "memory_sum",
    (
        TensorSpec("bank", ("pages", 8, 4, 4), "float16"),
        TensorSpec("page", ("B", "N"), "int32"),
        TensorSpec("negate", ("B",), "bool"),
    ),
    (TensorSpec("total", ("B", 8, 4, 4), "float16"),),
)
UPSCALE = GraphSpec(
    "upscale",
    (
        TensorSpec("mask_logits", ("B", 1, 8, 8), "float32"),
        TensorSpec("video_height", (1,), "int64"),
        TensorSpec("video_width", (1,), "int64"),
    ),
    (TensorSpec("mask", ("B", "H", "W"), "uint8"),),
)
FRAME = GraphSpec("frame", (TensorSpec("frames", ("F", 4, 4, 3), "uint8"),), (TensorSpec("image", ("F", 3, 4, 4), "float32"),))
REFUSED = GraphSpec("refused", (TensorSpec("points", ("B", 4), "float32"),), (TensorSpec("where", (2, "found"), "int64"),))
ATTENTION = GraphSpec(
    "attention",
    tuple(TensorSpec(name, ("B", 1, 64, 64), "float32") for name in ("queries", "keys", "values")),
    (TensorSpec("mixed", ("B", 1, 64, 64), "float32"),),
)

MODEL = ModelSpec("tiny", 64)
DESCRIPTION = Description(
    MODEL, "fp16", {"memory_sum": "float16"}, opset=20, source="random weights, seed 7", source_sha256=None, tools={"onnx": "1"}
)


def constant(name, value):
    return numpy_helper.from_array(np.asarray(value), name)


def sum_nodes():
    nodes = [
        helper.make_node("Gather", ["bank", "page"], ["picked"], axis=0),
        helper.make_node("ReduceSum", ["picked", "axis_1"], ["plus"], keepdims=0),
        helper.make_node("Neg", ["plus"], ["minus"]),
        helper.make_node("Unsqueeze", ["negate", "axes_123"], ["which"]),
        helper.make_node("Where", ["which", "minus", "plus"], ["total"]),
    ]
    return nodes, [constant("axis_1", [1]), constant("axes_123", [1, 2, 3])]


def upscale_nodes():
    nodes = [
        helper.make_node("Shape", ["mask_logits"], ["shape"]),
        helper.make_node("Slice", ["shape", "zero", "two"], ["batch"]),
        helper.make_node("Concat", ["batch", "video_height", "video_width"], ["size"], axis=0),
        helper.make_node("Resize", ["mask_logits", "", "", "size"], ["large"], mode="linear", coordinate_transformation_mode="half_pixel"),
        helper.make_node("Squeeze", ["large", "one"], ["flat"]),
        helper.make_node("Greater", ["flat", "threshold"], ["inside"]),
        helper.make_node("Cast", ["inside"], ["mask"], to=TensorProto.UINT8),
    ]
    return nodes, [constant("zero", [0]), constant("two", [2]), constant("one", [1]), constant("threshold", np.float32(0))]


def frame_nodes():
    nodes = [
        helper.make_node("Cast", ["frames"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["real"], ["image"], perm=[0, 3, 1, 2]),
    ]
    return nodes, []


def refused_nodes():
    return [helper.make_node("NonZero", ["points"], ["where"], name="find_points")], []


def attention_nodes():
    return [helper.make_node("Attention", ["queries", "keys", "values"], ["mixed"], name="attend")], []


NODES = {"attention": attention_nodes, "memory_sum": sum_nodes, "upscale": upscale_nodes, "frame": frame_nodes, "refused": refused_nodes}


def write_onnx(path, spec):
    nodes, constants = NODES[spec.name]()
    sides = [[helper.make_tensor_value_info(t.name, ELEMENT[t.dtype], list(t.shape)) for t in side] for side in (spec.inputs, spec.outputs)]
    graph = helper.make_graph(nodes, spec.name, *sides, constants)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10), str(path))


def write_bundle(folder, *specs, overwrite=False):
    with Bundle.create(folder, DESCRIPTION, overwrite=overwrite) as draft:
        for spec in specs:
            write_onnx(draft.onnx_path(spec.name), spec)
            draft.add(spec)
    return Bundle.open(folder)
