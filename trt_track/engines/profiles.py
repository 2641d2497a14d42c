"""Which sizes an engine is built for: fewest, usual and most of every named size of a graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self, TypeAlias

from trt_track.detector_specs import MIN_TOKENS, DetectorSpec
from trt_track.errors import EngineBuildError
from trt_track.specs import GraphSpec, Limits, ModelSpec, TensorSpec

Range: TypeAlias = tuple[int, int, int]
"""Fewest, usual, most."""
Shapes: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""The same three of a whole tensor."""

USUAL_TOKENS: Final = 16
"""Of a usual prompt: five or six words, their full stops, the two at the ends."""
USUAL_SIDE: Final = 1080
"""Side of a usual video in pixels, for which the mask's upscaling is tuned."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Fewest, usual and most of each input: its shape, and the value of inputs that are themselves sizes."""

    shapes: Mapping[str, Shapes]
    values: Mapping[str, Range]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote; raises KeyError, TypeError or ValueError for anything else."""
        shapes = {name: _three(tuple(map(int, shape)) for shape in item) for name, item in data["shapes"].items()}
        return cls(shapes, {name: _three(map(int, item)) for name, item in data["values"].items()})

    def to_json(self) -> dict[str, Any]:
        """Return the profile as JSON values."""
        shapes = {name: [list(shape) for shape in item] for name, item in self.shapes.items()}
        return {"shapes": shapes, "values": {name: list(item) for name, item in self.values.items()}}


def _three(items: Any) -> tuple[Any, Any, Any]:
    fewest, usual, most = items
    return fewest, usual, most


def size_ranges(model: ModelSpec | DetectorSpec, limits: Limits) -> dict[str, Range]:
    """Return fewest, usual and most of every named size.

    Usual is the steady state of tracking: one object, all its recent memories and pointers, no more than one click.
    The banks are allocated whole, so their usual size is their largest.
    """
    if isinstance(model, DetectorSpec):
        return {"F": (1, limits.frames, limits.frames), "T": (MIN_TOKENS, min(USUAL_TOKENS, model.max_tokens), model.max_tokens)}
    return {
        "F": (1, limits.frames, limits.frames),
        "B": (1, 1, max(2, limits.objects)),  # for a batch that can only be one, TensorRT for RTX has no fused attention
        "N": (1, min(model.memory_frames, limits.memories), limits.memories),
        "P": (1, min(model.pointer_frames, limits.pointers_attended), limits.pointers_attended),
        "K": (1, 1, limits.clicks),
        "pages": (1, limits.pages, limits.pages),
        "pointers": (1, limits.pointers, limits.pointers),
    }


def value_ranges(limits: Limits) -> dict[str, Range]:
    """Return fewest, usual and most of the inputs whose value is a size.

    A video may stand upright, so both of its sides may be as large as the larger one.
    """
    most = max(limits.video_wh)
    side = (1, min(USUAL_SIDE, most), most)
    return {"video_height": side, "video_width": side}


def graph_profile(spec: GraphSpec, model: ModelSpec | DetectorSpec, limits: Limits) -> Profile:
    """Derive a graph's profile from its contract.

    Raises:
        EngineBuildError: the contract has a named size that has no range.
    """
    sizes, values = size_ranges(model, limits), value_ranges(limits)
    shapes = {tensor.name: _shapes(spec.name, tensor, sizes) for tensor in spec.inputs}
    return Profile(shapes, {tensor.name: values[tensor.name] for tensor in spec.inputs if tensor.name in values})


def _shapes(graph: str, tensor: TensorSpec, sizes: Mapping[str, Range]) -> Shapes:
    unknown = [dim for dim in tensor.shape if isinstance(dim, str) and dim not in sizes]
    if unknown:
        raise EngineBuildError(f"graph {graph!r}: input {tensor.name!r} has sizes without a range: {', '.join(map(str, unknown))}")
    return _three(tensor.concrete({name: span[which] for name, span in sizes.items()}) for which in range(3))
