"""Bundles that are wrong and sealed."""

import hashlib
import json

import numpy as np
import onnx
from onnx import numpy_helper


def perturb(bundle, graph, factor):
    """Scale one large weight matrix of a graph, and the manifest's hash with it."""
    path = bundle / "onnx" / f"{graph}.onnx"
    model = onnx.load(path)
    weights = max(model.graph.initializer, key=lambda tensor: np.prod(tensor.dims) * (tensor.data_type == onnx.TensorProto.FLOAT))
    values = numpy_helper.to_array(weights) * np.float32(factor)
    weights.CopyFrom(numpy_helper.from_array(values, weights.name))
    onnx.save(model, path)
    manifest = json.loads((bundle / "manifest.json").read_text())
    content = path.read_bytes()
    manifest["graphs"][graph]["onnx"] |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
