"""Which layers of a quantised image encoder cost masks, and how many of them must be left out.

First each layer is quantised alone and what the graph gives is compared with what it gave; then the worst k layers are left out together,
the clip is tracked, and the masks are compared. k is found by halving. That supposes that masks get better with k, which nearly ties
between candidate masks can upset: so every k that was tried is told with what it came to.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx

from trt_track.engines.bundle import Bundle
from trt_track.engines.onnx_model import OnnxModel
from trt_track.engines.onnxruntime_session import OnnxRuntimeSession
from trt_track.errors import ModelError
from trt_track.export.calibration import Feed
from trt_track.export.layer_names import layer_of
from trt_track.export.quantization import Ranges, activations_in, quantizable_nodes, quantize_graph
from trt_track.parity.measures import mask_iou
from trt_track.recipe import QUANTIZABLE, CarefulLayers, NetworkPrecision, Recipe
from trt_track.runtime.held_clip import HeldClip
from trt_track.runtime.prompts import Prompt
from trt_track.runtime.tracker import Tracker, Video

NETWORK: Final = "image_encoder"

Masks = list[dict[int, npt.NDArray[np.bool_]]]
"""Of each frame, by object id."""


@dataclass(frozen=True, slots=True)
class LayerError:
    """What it costs to quantise one layer alone."""

    layer: str
    error: float
    """Root mean square error of the graph's output that suffers most, over the standard deviation of that output."""
    output: str
    """Which output that is."""
    weights: float
    """The layer's share of the weights that could be quantised."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """What it costs to quantise all layers but some."""

    kept: int
    """How many layers are left out, the worst ones."""
    mean_iou: float
    """Of the masks with those of the bundle that nothing was quantised in."""
    least_iou: float


class EncoderStudy:
    """The image encoder of a bundle, of which layers are quantised and others left out."""

    def __init__(self, bundle: Bundle, folder: Path) -> None:
        """Look which layers there are.

        Args:
            bundle: a tracker's, not quantised.
            folder: for files that are made on the way.

        Raises:
            ModelError: the bundle is quantised already, or computes in bfloat16, in which nothing can be.
        """
        about = bundle.manifest.description
        if "int8" in about.dtypes.values():
            raise ModelError(f"{bundle.folder} is quantised already: give the fp16 or fp32 bundle that a recipe is looked for")
        given = Recipe.from_json(about.recipe)
        self.networks = {**given.networks, NETWORK: NetworkPrecision(given.of(NETWORK).dtype, QUANTIZABLE)}
        self.bundle, self.folder, self.source = bundle, folder, bundle.onnx_path(NETWORK)
        model = onnx.load(self.source)
        nodes = quantizable_nodes(model, self.recipe("all"), NETWORK)
        self.layers = tuple(dict.fromkeys(layer_of(node) for node in nodes))
        """By name, in the graph's order."""
        sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in model.graph.initializer}
        self._weights = {layer: sum(sizes[node.input[1]] for node in nodes if layer_of(node) == layer) for layer in self.layers}

    def recipe(self, name: str, kept: Sequence[LayerError] = ()) -> Recipe:
        """Return the bundle's recipe with its image encoder quantised but for some layers."""
        dtype = self.networks[NETWORK].dtype
        told = [f"quantised alone, it changes {one.output} by {one.error:.2%} of its standard deviation" for one in kept]
        careful = tuple(CarefulLayers(NETWORK, (one.layer,), dtype, why) for one, why in zip(kept, told, strict=True))
        return Recipe(name, f"INT8 for {self.bundle.model.name}, found by trt-track sensitivity.", self.networks, careful)

    def activations(self) -> list[str]:
        """Return the tensors whose range is needed."""
        return activations_in(self.source, self.recipe("all"), NETWORK)

    def quantized(self, ranges: Ranges, kept: Collection[str]) -> Path:
        """Write the encoder with all layers quantised but these; the file before is overwritten."""
        dtype = self.networks[NETWORK].dtype
        careful = (CarefulLayers(NETWORK, tuple(kept), dtype, "tried"),) if kept else ()
        target = self.folder / "candidate.onnx"
        quantize_graph(self.source, target, Recipe("tried", "", self.networks, careful), NETWORK, ranges)
        return target

    def layer_errors(self, ranges: Ranges, feeds: Sequence[Feed]) -> Iterator[LayerError]:
        """Quantise each layer alone and yield what that costs, in the graph's order."""
        wanted = _outputs(self.source, feeds)
        total = sum(self._weights.values())
        for layer in self.layers:
            found = _outputs(self.quantized(ranges, [other for other in self.layers if other != layer]), feeds)
            errors = {name: _error(found[name], wanted[name]) for name in wanted}
            worst = max(errors, key=lambda name: errors[name])
            yield LayerError(layer, errors[worst], worst, self._weights[layer] / total)

    @contextmanager
    def tracker(self, encoder: Path | None = None) -> Generator[Tracker]:
        """Open the bundle on the CPU, with another file as its image encoder."""
        graphs = {name: (spec, self.bundle.onnx_path(name)) for name, spec in self.bundle.specs.items()}
        if encoder is not None:
            graphs[NETWORK] = graphs[NETWORK][0], encoder
        with Tracker(OnnxRuntimeSession(graphs), self.bundle.model) as tracker:
            yield tracker


def track_masks(tracker: Tracker, clip: HeldClip, prompts: Sequence[Prompt]) -> Masks:
    """Track a prompted clip and return its masks."""
    video = Video(tracker, clip)
    video.add_prompts(prompts)
    return [dict(zip(result.object_ids, result.masks.astype(bool), strict=True)) for result in video.propagate()]


def compare_masks(kept: int, found: Masks, wanted: Masks) -> Candidate:
    """Compare all masks of two tracks of one clip from the same prompts."""
    ious = [mask_iou(found[frame][number], mask) for frame, masks in enumerate(wanted) for number, mask in masks.items()]
    return Candidate(kept, float(np.mean(ious)), min(ious))


def fewest_kept(most: int, wanted_iou: float, measure: Callable[[int], Candidate]) -> tuple[Candidate, list[Candidate]]:
    """Find the fewest layers that must be left out for a mean IoU.

    Args:
        most: layers that can be left out.
        wanted_iou: the mean IoU to reach.
        measure: tracks with so many layers left out.

    Returns:
        The candidate with the fewest layers left out of those that reached it, or the best one if none did; and all that were tried.
    """
    tried = [measure(0)]
    low, high = 0, most + 1  # too few, and one more than there are
    while tried[0].mean_iou < wanted_iou and high - low > 1:
        tried.append(measure((low + high) // 2))
        if tried[-1].mean_iou >= wanted_iou:
            high = tried[-1].kept
        else:
            low = tried[-1].kept
    reached = [one for one in tried if one.mean_iou >= wanted_iou]
    chosen = min(reached, key=lambda one: one.kept) if reached else max(tried, key=lambda one: one.mean_iou)
    return chosen, tried


def _outputs(path: Path, feeds: Sequence[Feed]) -> dict[str, list[npt.NDArray[np.float64]]]:
    model = OnnxModel(path)
    runs = [model.run(feed) for feed in feeds]
    return {name: [run[name].astype(np.float64) for run in runs] for name in runs[0]}


def _error(found: Sequence[npt.NDArray[np.float64]], wanted: Sequence[npt.NDArray[np.float64]]) -> float:
    return float(
        np.mean([np.sqrt(((one - other) ** 2).mean()) / max(other.std(), 1e-12) for one, other in zip(found, wanted, strict=True)])
    )
