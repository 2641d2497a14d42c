"""A single ONNX file that no bundle describes: what it takes and gives is read from the file, and ONNX Runtime runs it on the CPU."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from trt_track.engines.onnxruntime_session import default_threads, first_line, load_graph, session_options
from trt_track.errors import EngineRunError, ModelError, TensorMismatchError
from trt_track.specs import Dim, GraphSpec, TensorSpec

_DTYPES: Final = {"float": "float32", "double": "float64"}
"""What ONNX Runtime calls a dtype, where numpy calls it otherwise."""


class OnnxModel:
    """A function from named arrays to named arrays, both on the host. Not thread-safe."""

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        """Load the file.

        Args:
            path: the ONNX file; weights outside it lie beside it.
            threads: cores to use, all that the process may use by default.

        Raises:
            ModelError: there is no such file, or ONNX Runtime refuses it.
        """
        if not path.is_file():
            raise ModelError(f"{path}: no such file")
        # Without a contract: it is read from the loaded file, below.
        try:
            self._engine = load_graph(str(path), path, session_options(threads or default_threads(), plan_memory=False))
        except EngineRunError as error:
            raise ModelError(f"{error}: the file is damaged, no ONNX file, or made for another runtime: export it again") from error
        inputs, outputs = self._engine.get_inputs(), self._engine.get_outputs()
        self.spec = GraphSpec(str(path), _tensors(inputs), _tensors(outputs))
        """The tensors as the file declares them, called by its path; a size that it leaves open is a name."""
        self.metadata: Mapping[str, str] = dict(self._engine.get_modelmeta().custom_metadata_map)
        """What its exporter wrote into the file."""

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the model.

        Args:
            inputs: an array for each input, by name, as `spec` says.

        Returns:
            Every output by name; new arrays, as their sizes are known only afterwards.

        Raises:
            TensorMismatchError: a name, shape or dtype is not the file's.
            EngineRunError: ONNX Runtime failed, or the model is closed.
        """
        if self._engine is None:
            raise EngineRunError(f"{self.spec.name} is closed: open it again")
        names = [tensor.name for tensor in self.spec.outputs]
        feed = self._checked(inputs)
        try:
            return dict(zip(names, self._engine.run(names, feed), strict=True))
        except Exception as error:  # onnxruntime raises a type of its own for every status
            raise EngineRunError(f"{self.spec.name} failed in ONNX Runtime: {first_line(error)}") from error

    def close(self) -> None:
        """Free the model and its work space."""
        self._engine = None

    def _checked(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        expected = {tensor.name: tensor for tensor in self.spec.inputs}
        if inputs.keys() != expected.keys():
            raise TensorMismatchError(f"{self.spec.name} takes {', '.join(expected)}; got {', '.join(inputs) or 'nothing'}")
        sizes: dict[str, int] = {}
        for name, tensor in expected.items():
            tensor.check(inputs[name].shape, inputs[name].dtype.name, sizes)
        return dict(inputs)


def _tensors(described: Iterable[Any]) -> tuple[TensorSpec, ...]:
    """Translate ONNX Runtime's descriptions."""
    return tuple(TensorSpec(one.name, _shape(one.name, one.shape), _dtype(one.type)) for one in described)


def _shape(name: str, shape: Iterable[Any] | None) -> tuple[Dim, ...]:
    """Name every open size; ONNX Runtime gives a name, None, or a number below 1."""
    return tuple(
        dim if isinstance(dim, int) and dim > 0 else dim if isinstance(dim, str) and dim else f"{name}.{axis}"
        for axis, dim in enumerate(shape or ())
    )


def _dtype(kind: str) -> str:
    """Turn `tensor(float)` into `float32`; what is no tensor keeps its name."""
    if not kind.startswith("tensor("):
        return kind
    name = kind.removeprefix("tensor(").removesuffix(")")
    return _DTYPES.get(name, name)
