"""INT8 by Q/DQ pairs in front of products, in the form that TensorRT and ONNX Runtime both take.

Activations get one symmetric scale each, weights one per output channel and are stored in INT8. What a product gives is not quantised: the
residual sums, LayerNorm, softmax and activation functions behind it stay in the graph's own dtype. Scales have that dtype, too, as strongly
typed networks want it. (The quantiser of ONNX Runtime, whose calibrators find the ranges, writes a zero point of another type than the
values where a single layer is quantised, as the search for sensitive layers does.)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

from trt_track.errors import ModelError
from trt_track.export.layer_names import belongs_to, layer_of
from trt_track.recipe import Recipe

Ranges = Mapping[str, tuple[float, float]]
"""Least and largest value of each activation."""

_STEPS: Final = 127
"""Of INT8 to each side of zero; -128 is not used, so that negative values have the same scale."""


def quantizable_nodes(model: onnx.ModelProto, recipe: Recipe, network: str) -> list[onnx.NodeProto]:
    """Return the operators of a network that a recipe quantises: of the kinds that it names, with a constant weight, in no exception.

    Raises:
        ModelError: an exception in the network's dtype covers no such operator, or none are left.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    operators = recipe.of(network).quantize
    found = [
        node
        for node in model.graph.node
        if node.op_type in operators and len(node.input) > 1 and node.input[1] in weights and belongs_to(network, layer_of(node))
    ]
    kept = [node for node in found if recipe.quantizes(network, layer_of(node))]
    widened = recipe.own_layers(network)  # which may be norms, too
    for one in recipe.exceptions:
        if one.network == network and one not in widened and not any(one.covers(network, layer_of(node)) for node in found):
            raise ModelError(f"recipe {recipe.name}: {network} has no layer {', '.join(one.layers)} that could be quantised")
    if not kept:
        raise ModelError(f"recipe {recipe.name}: nothing is left to quantise in {network}")
    return kept


def activations_in(path: Path, recipe: Recipe, network: str) -> list[str]:
    """Return the tensors, each once, that the operators which a recipe quantises read beside their weights.

    Raises:
        ModelError: see `quantizable_nodes`.
    """
    return list(dict.fromkeys(node.input[0] for node in quantizable_nodes(onnx.load(path), recipe, network)))


def quantize_graph(source: Path, target: Path, recipe: Recipe, network: str, ranges: Ranges) -> list[str]:
    """Write an ONNX file anew so that a network's operators compute in INT8; return the names of their layers.

    Args:
        source: the file, without external data.
        target: the file to write.
        recipe: which operators of which layers.
        network: one of `recipe.NETWORKS`.
        ranges: of every activation that they read.

    Raises:
        ModelError: see `quantizable_nodes`.
    """
    model = onnx.load(source)
    nodes = quantizable_nodes(model, recipe, network)
    writer = _Writer(model)
    for node in nodes:
        node.input[0] = writer.activation(node, ranges)
        node.input[1] = writer.weight(node)
    writer.finish()
    onnx.save(model, target)
    return [layer_of(node) for node in nodes]


class _Writer:
    """Adds constants and Q/DQ nodes to a model, each pair once."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self.real = {name: helper.tensor_dtype_to_np_dtype(tensor.data_type) for name, tensor in self.weights.items()}
        self.made: dict[str, str] = {}
        self.pairs: dict[str, list[onnx.NodeProto]] = {}
        """What is to stand right behind the node that writes a tensor."""

    def activation(self, node: onnx.NodeProto, ranges: Ranges) -> str:
        """Return the name of what a product reads beside its weight after it was rounded to INT8."""
        name = node.input[0]
        if name not in self.made:
            scale = self._constant(f"{name}/scale", self._scale(np.abs(ranges[name]).max(), node))
            zero = self._constant(f"{name}/zero", np.zeros((), np.int8))
            self.made[name] = f"{name}/dequantized"
            self.pairs[name] = [
                helper.make_node("QuantizeLinear", [name, scale, zero], [f"{name}/quantized"], name=f"{name}/quantize"),
                helper.make_node("DequantizeLinear", [f"{name}/quantized", scale, zero], [self.made[name]], name=f"{name}/dequantize"),
            ]
        return self.made[name]

    def weight(self, node: onnx.NodeProto) -> str:
        """Return the name of a product's weight after it was stored in INT8."""
        name, axis = node.input[1], _output_axis(node)
        own = f"{name}/{axis}"
        if own not in self.made:
            values = numpy_helper.to_array(self.weights[name]).astype(np.float32)
            others = tuple(index for index in range(values.ndim) if index != axis)
            scales = self._scale(np.abs(values).max(axis=others), node)
            across = scales.astype(np.float32).reshape([-1 if index == axis else 1 for index in range(values.ndim)])
            stored = self._constant(f"{own}/stored", np.clip(np.rint(values / across), -_STEPS, _STEPS).astype(np.int8))
            scale = self._constant(f"{own}/scale", scales)
            zero = self._constant(f"{own}/zero", np.zeros(scales.shape, np.int8))
            self.made[own] = f"{own}/dequantized"
            pair = helper.make_node("DequantizeLinear", [stored, scale, zero], [self.made[own]], name=f"{own}/dequantize", axis=axis)
            self.pairs.setdefault("", []).append(pair)
        return self.made[own]

    def finish(self) -> None:
        """Put the pairs where their tensors exist, and drop float weights that nothing reads any more."""
        nodes = list(self.pairs.pop("", []))
        for tensor in self.graph.input:
            nodes += self.pairs.pop(tensor.name, [])
        for node in self.graph.node:
            nodes += [node, *(pair for name in node.output for pair in self.pairs.pop(name, []))]
        read = {name for node in nodes for name in node.input} | {tensor.name for tensor in self.graph.output}
        kept = [tensor for tensor in self.graph.initializer if tensor.name in read]
        del self.graph.node[:], self.graph.initializer[:]
        self.graph.node.extend(nodes)
        self.graph.initializer.extend(kept)

    def _scale(self, most: Any, node: onnx.NodeProto) -> np.ndarray[Any, np.dtype[Any]]:
        """Return the size of a step for values up to `most`, in the dtype that a product computes in.

        The least one still has 16 steps of float16 in it.
        """
        least = float(np.finfo(np.float16).smallest_subnormal) * 16
        return np.maximum(np.asarray(most, np.float64) / _STEPS, least).astype(self.real[node.input[1]])

    def _constant(self, name: str, value: np.ndarray[Any, np.dtype[Any]]) -> str:
        self.graph.initializer.append(numpy_helper.from_array(value, name))
        return name


def _output_axis(node: onnx.NodeProto) -> int:
    """Return the axis of a product's weight that counts its output channels."""
    if node.op_type == "Conv":
        return 0
    turned = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return 0 if turned else 1
