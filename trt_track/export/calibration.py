"""The range of every activation that is quantised, found by running a graph on pictures of the kind that it will see."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx

from trt_track.errors import ExportError, ModelError
from trt_track.export.download import cache_folder
from trt_track.export.quantization import Ranges

METHODS: Final = ("entropy", "percentile", "minmax")
"""How a range follows from the values: least divergence of the rounded histogram from the exact one (S. Migacz, "8-bit inference with
TensorRT", 2017), 99.99 % of the values, or all of them."""
_OPTIONS: Final[Mapping[str, Mapping[str, Any]]] = {
    "entropy": {"symmetric": True, "num_bins": 2048, "num_quantized_bins": 128},
    "percentile": {"symmetric": True, "num_bins": 2048, "percentile": 99.99},
    "minmax": {"symmetric": True},
}
"""Of ONNX Runtime's calibrators."""
_WIDE: Final = "{}/wide"

Feed = Mapping[str, "np.ndarray[Any, Any]"]
"""The inputs of one call of a graph, by name."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a graph is calibrated with."""

    feeds: Sequence[Feed]
    method: str = "entropy"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ModelError(f"calibration {self.method!r} is unknown: choose one of {', '.join(METHODS)}")
        if not self.feeds:
            raise ModelError("calibration needs at least one picture")

    def ranges(
        self, path: Path, activations: Sequence[str], *, folder: Path | None = None, on_progress: Callable[[int, int], None] | None = None
    ) -> Ranges:
        """Return the range of each activation, from the cache where the same ONNX Runtime calibrated the same graph with the same inputs.

        Args:
            path: of the graph, not quantised.
            activations: names of tensors inside of it.
            folder: of the cache; by default beside the downloaded checkpoints.
            on_progress: called with the inputs done and the inputs in all.

        Raises:
            ExportError: ONNX Runtime could not run the graph.
        """
        kept = (folder or cache_folder() / "calibration") / f"{self._key(path, activations)}.json"
        try:
            return {name: (low, high) for name, (low, high) in json.loads(kept.read_text(encoding="utf-8")).items()}
        except (OSError, ValueError, AttributeError):  # not there, or cut short
            pass
        found = self._measure(path, activations, on_progress)
        kept.parent.mkdir(parents=True, exist_ok=True)
        draft = kept.with_suffix(".draft")
        draft.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        draft.replace(kept)
        return found

    def _key(self, path: Path, activations: Iterable[str]) -> str:
        import onnxruntime

        digest = hashlib.sha256(path.read_bytes())
        digest.update(json.dumps([onnxruntime.__version__, self.method, _OPTIONS[self.method], *activations]).encode())
        for feed in self.feeds:
            for name, array in sorted(feed.items()):
                digest.update(f"{name} {array.dtype} {array.shape}".encode())
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def _measure(self, path: Path, activations: Sequence[str], on_progress: Callable[[int, int], None] | None) -> Ranges:
        with tempfile.TemporaryDirectory() as work:
            try:
                calibrator = _calibrator(self.method, _widened(path, activations, Path(work) / "widened.onnx"), activations)
                for done, feed in enumerate(self.feeds, start=1):
                    with redirect_stdout(StringIO()):
                        calibrator.collect_data(_OneFeed(feed))  # one by one: it holds all that it has run until it counts
                    if on_progress:
                        on_progress(done, len(self.feeds))
                with redirect_stdout(StringIO()):
                    found = calibrator.compute_data()
            except Exception as error:  # ONNX Runtime raises a type of its own for every status
                raise ExportError(f"{path.name} could not be calibrated: {error or type(error).__name__}") from error
            return {name: _range(found[_WIDE.format(name)]) for name in activations}


class _OneFeed:
    """A `CalibrationDataReader` of one call."""

    def __init__(self, feed: Feed) -> None:
        self._waiting: list[Feed] = [feed]

    def get_next(self) -> Feed | None:
        return self._waiting.pop() if self._waiting else None


def _widened(path: Path, activations: Sequence[str], target: Path) -> Path:
    """Write a graph that has the activations in float32, too: half precision has too few numbers for the bins of a histogram."""
    model = onnx.load(path)
    for name in activations:
        model.graph.node.append(onnx.helper.make_node("Cast", [name], [_WIDE.format(name)], to=onnx.TensorProto.FLOAT))
    onnx.save(model, target)
    return target


def _range(data: Any) -> tuple[float, float]:
    return float(np.min(data.lowest)), float(np.max(data.highest))


def _calibrator(method: str, path: Path, activations: Sequence[str]) -> Any:
    """Make ONNX Runtime's calibrator of a kind that looks at these activations alone."""
    from onnxruntime.quantization import calibrate

    kinds = {"entropy": calibrate.EntropyCalibrater, "percentile": calibrate.PercentileCalibrater, "minmax": calibrate.MinMaxCalibrater}
    base: Any = kinds[method]

    class OfActivations(base):  # type: ignore[misc]  # it is picked above
        def select_tensors_to_calibrate(self, model: Any) -> tuple[set[str], dict[str, Any]]:
            return {_WIDE.format(name) for name in activations}, super().select_tensors_to_calibrate(model)[1]

    calibrator = OfActivations(str(path), augmented_model_path=str(path.with_name("augmented.onnx")), **_OPTIONS[method])
    calibrator.augment_graph()
    calibrator.create_inference_session()
    return calibrator
