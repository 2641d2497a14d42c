"""Which layers of a quantised image encoder cost masks, and how many of them must be left out.

First each layer is quantised alone and what the graph gives is compared with what it gave. Errors of several layers add up by their
squares, and what leaving one out costs is its weights, which stay twice as large: so layers are left out in the order of squared error per
weight. Then the first k of them are left out together, and the clips are tracked and judged as `trt-track parity` judges them; a candidate
that misses the least IoU is tracked no further. k is found by halving. That supposes that masks get better with k, which nearly ties
between candidate masks can upset: so every k that was tried is told with what it came to.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

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
from trt_track.parity.clip_drift import ClipDrift
from trt_track.parity.drift import BoundaryMeasure, Reference, Seen, follow, seen_in
from trt_track.parity.thresholds import TrackLimits
from trt_track.recipe import QUANTIZABLE, CarefulLayers, NetworkPrecision, Recipe
from trt_track.runtime.results import FrameResult
from trt_track.runtime.tracker import Tracker, Video

NETWORK: Final = "image_encoder"
_EXACT: Final = "exact"
"""What the reference is called."""


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

    @property
    def per_weight(self) -> float:
        """What leaving it out is worth: its squared error over its weights."""
        return self.error**2 / self.weights


@dataclass(frozen=True, slots=True)
class Candidate:
    """What it costs to quantise all layers but some."""

    kept: int
    """How many layers are left out, the first ones in their order."""
    mean_iou: float | None
    """Of the masks with those of the reference, of the worst object; of the frames up to the end of the last clip, or to a mask that misses
    its limit. None where no mask was large enough."""
    least_iou: float | None
    failures: tuple[str, ...]
    """Which limits are missed, in words."""

    @property
    def passed(self) -> bool:
        """Whether it is within every limit."""
        return not self.failures

    @classmethod
    def of_clips(cls, kept: int, drifts: Sequence[ClipDrift]) -> Self:
        """Sum up the clips, as far as they were tracked."""
        objects = [one for drift in drifts for one in drift.summaries]
        means = [one.mean_iou for one in objects if one.mean_iou is not None]
        least = [one.least_iou for one in objects if one.least_iou is not None]
        failures = tuple(failure for drift in drifts for failure in drift.all_failures())
        return cls(kept, min(means, default=None), min(least, default=None), failures)


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
    def tracker(self, encoder: Path) -> Generator[Tracker]:
        """Open the bundle on the CPU, with another file as its image encoder."""
        graphs = {name: (spec, self.bundle.onnx_path(name)) for name, spec in self.bundle.specs.items()}
        graphs[NETWORK] = graphs[NETWORK][0], encoder
        with Tracker(OnnxRuntimeSession(graphs), self.bundle.model) as tracker:
            yield tracker


class KeptTrack:
    """What a tracker saw of a clip, frame by frame, for any number of comparisons; masks are kept as bits."""

    def __init__(self, results: Iterable[FrameResult]) -> None:
        """Keep results that have their logits."""
        self._frames: dict[int, dict[int, tuple[Seen, npt.NDArray[np.uint8]]]] = {}
        self._size_hw = (0, 0)
        for result in results:
            self._size_hw = result.masks.shape[1:]
            nothing = np.zeros((0, 0), bool)
            self._frames[result.frame_index] = {
                number: (Seen(nothing, seen.logits.copy(), seen.present, seen.chosen), np.packbits(seen.mask_hw))
                for number, seen in seen_in(result).items()
            }

    def __call__(self, frame: int) -> dict[int, Seen]:
        """Return what it saw on a frame, by object id."""
        height, width = self._size_hw
        return {
            number: Seen(
                np.unpackbits(bits, count=height * width).reshape(height, width).astype(bool), seen.logits, seen.present, seen.chosen
            )
            for number, (seen, bits) in self._frames[frame].items()
        }


def compare_clip(
    video: Video, name: str, reference: Reference, limits: TrackLimits, *, measure: BoundaryMeasure | None = None
) -> ClipDrift:
    """Track a prompted clip beside a reference, up to the first mask that misses the least IoU.

    Args:
        video: with its prompts.
        name: of the clip.
        reference: with the same prompts.
        limits: that it is judged by.
        measure: of outlines, where they are limited.
    """
    drift = ClipDrift(name, _EXACT, [], [])
    with closing(follow(video, {_EXACT: reference}, measure=measure)) as frames:
        for frame in frames:
            drift.rows.extend(frame.rows[_EXACT])
            if any(row.iou < limits.least_iou and not limits.too_small(row.pixels) for row in frame.rows[_EXACT]):
                break
    drift.damage = video.damage
    drift.judge(limits)
    return drift


def fewest_kept(most: int, measure: Callable[[int], Candidate]) -> tuple[Candidate | None, list[Candidate]]:
    """Find the fewest layers that must be left out for a candidate to be within all limits.

    Args:
        most: layers that can be left out.
        measure: tracks with so many layers left out.

    Returns:
        The candidate with the fewest layers left out of those that passed, None if none did; and all that were tried.
    """
    tried = [measure(0)]
    low, high = 0, most + 1  # too few, and one more than there are
    while not tried[0].passed and high - low > 1:
        tried.append(measure((low + high) // 2))
        if tried[-1].passed:
            high = tried[-1].kept
        else:
            low = tried[-1].kept
    return min((one for one in tried if one.passed), key=lambda one: one.kept, default=None), tried


def _outputs(path: Path, feeds: Sequence[Feed]) -> dict[str, list[npt.NDArray[np.float64]]]:
    model = OnnxModel(path)
    runs = [model.run(feed) for feed in feeds]
    return {name: [run[name].astype(np.float64) for run in runs] for name in runs[0]}


def _error(found: Sequence[npt.NDArray[np.float64]], wanted: Sequence[npt.NDArray[np.float64]]) -> float:
    return float(
        np.mean([np.sqrt(((one - other) ** 2).mean()) / max(other.std(), 1e-12) for one, other in zip(found, wanted, strict=True)])
    )
