"""Which layer of the model each operator of a graph belongs to, kept in the ONNX file: recipes and reports speak of layers."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import onnx
    import onnx_ir

_KEY: Final = "layer"
_SCOPES: Final = "pkg.torch.onnx.name_scopes"


def name_layers(model: onnx_ir.Model) -> None:
    """Leave of all that the exporter noted at operators and values only the layer's name.

    The rest, such as the lines of source that an operator comes from, would make files larger and different from machine to machine.
    """
    for node in model.graph.all_nodes():
        scopes: list[str] = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
        node.metadata_props.clear()
        if len(scopes) > 1 and scopes[-2]:  # the last one is the function that the layer calls
            node.metadata_props[_KEY] = scopes[-2]
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()


def layer_of(node: onnx.NodeProto | Any) -> str:
    """Return the layer that an operator of a file belongs to; empty where it belongs to the whole graph."""
    return next((entry.value for entry in node.metadata_props if entry.key == _KEY), "")


def belongs_to(network: str, layer: str) -> bool:
    """Tell whether a layer of a graph is part of a network: `backbone` is one part of `detector`, every other network is a whole graph."""
    return network != "backbone" or layer.startswith("backbone.")
