"""What fits into so much GPU memory: which model, how many objects of one batch, which detector; and why not more."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from trt_track.detector_specs import DetectorSpec, detector_graph_specs
from trt_track.engines.bundle import Bundle
from trt_track.engines.engine_record import ALL, RECORD, EngineFolder
from trt_track.engines.host_memory import MemoryState
from trt_track.engines.library import EMBEDDED, OFFICIAL, LibraryBundle, library_bundles
from trt_track.engines.manifest import read_manifest
from trt_track.errors import ModelError
from trt_track.models import PICO_BUNDLE
from trt_track.recipe import Recipe
from trt_track.runtime.bank import conditioning_limits
from trt_track.runtime.batch_size import MOST_FRAMES, fitting_frames
from trt_track.runtime.engine_memory import (
    OBJECT_BATCHES,
    PRECISION,
    EngineFigures,
    detector_figures,
    known_detectors,
    known_models,
    measured_figures,
    measured_name,
    recorded_figures,
)
from trt_track.runtime.memory_plan import CONTEXT_BYTES, MemoryPlan, Part, TrackingTask, plan_memory
from trt_track.specs import DTYPE_BYTES, ModelSpec, graph_specs

_RANKS: Final = {name: rank for rank, name in enumerate(OFFICIAL)}


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be tracked."""

    video_wh: tuple[int, int]
    objects: int | None = None
    """At once; None for as many as fit in one batch."""
    model: str | None = None
    """None for any."""
    size: int | None = None
    """None for any."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A model with a batch of objects, and what that takes."""

    model: str
    size: int
    objects: int
    """At once."""
    batch: int
    plan: MemoryPlan


@dataclass(frozen=True, slots=True)
class DetectorChoice:
    """A detector with a batch of frames, and what that takes."""

    detector: str
    frame: str
    batch: int
    """Frames of a call, which its engines must have been built for."""
    plan: MemoryPlan


def tracking_choices(wish: Wish, *, free_bytes: int, sm: int) -> tuple[list[Choice], list[Choice]]:
    """Try every model with every batch.

    Args:
        wish: what is to be tracked.
        free_bytes: GPU memory.
        sm: compute capability of the GPU times ten.

    Returns:
        Of each model the largest batch that fits, the best model first; and the next larger batch of each, which does not fit.

    Raises:
        ModelError: what the model takes is not known.
    """
    fitting, too_large = [], []
    for name, size in _models(wish):
        refused = None
        for batch in _batches(wish.objects):
            choice = _choice(name, size, batch, wish, sm)
            if choice.plan.total_bytes <= free_bytes:
                fitting.append(choice)
                break
            refused = choice
        if refused is not None:
            too_large.append(refused)
    return fitting, too_large


def detector_choices(name: str | None, *, free_bytes: int, sm: int) -> tuple[list[DetectorChoice], list[DetectorChoice]]:
    """Try every detector, the best first; those that fit, and those that do not, with one frame a call.

    A batch is as large as detection makes it with that much memory, see `fitting_frames`, if the engines were built for so many frames.

    Args:
        name: None for any.
        free_bytes: GPU memory; detection and tracking come one after the other, each has it all.
        sm: compute capability of the GPU times ten.

    Raises:
        ModelError: no such detector was measured.
    """
    known = [one for one in known_detectors() if name in {None, one[0]}]
    if name is not None and not known:
        names = ", ".join(dict.fromkeys(detector for detector, _ in known_detectors()))
        raise ModelError(f"what {name} takes was not measured: choose one of {names}")
    found = [_detector_choice(*one, free_bytes=free_bytes, sm=sm) for one in known]
    return [one for one in found if one.plan.total_bytes <= free_bytes], [one for one in found if one.plan.total_bytes > free_bytes]


def _models(wish: Wish) -> list[tuple[str, int]]:
    """Return the models to try, the best first: what was measured, and of one that was named what the library has."""
    known = set(known_models())
    if wish.model is not None:
        own = {(one.model, one.image_size) for one in _bundles() if one.model == wish.model}
        known = {(wish.model, size) for name, size in known if name == measured_name(wish.model)} | own
    found = [(name, size) for name, size in known if wish.size in {None, size}]
    if not found:
        measured_ones = ", ".join(f"{name} at {size} px" for name, size in sorted(known_models(), key=_rank))
        asked = f"{wish.model or 'any model'}{f' at {wish.size} px' if wish.size else ''}"
        raise ModelError(f"what {asked} takes was not measured, and no bundle of the library says it: choose from {measured_ones}")
    return sorted(found, key=_rank)


def _rank(one: tuple[str, int]) -> tuple[int, int]:
    return _RANKS.get(one[0], len(_RANKS) + (one[0] == EMBEDDED)), -one[1]


def _batches(objects: int | None) -> list[int]:
    """Return the batches to try, the largest first."""
    most = OBJECT_BATCHES[-1] if objects is None else min(objects, OBJECT_BATCHES[-1])
    return sorted({most, *(batch for batch in OBJECT_BATCHES if batch < most)}, reverse=True)


def _choice(name: str, size: int, batch: int, wish: Wish, sm: int) -> Choice:
    model, objects = _spec(name, size), wish.objects or batch
    limits = conditioning_limits(model, objects, None)
    figures, frames = _figures(name, size, batch, sm)
    recipe = Recipe.read(PRECISION)
    task = TrackingTask(graph_specs(model, recipe.features, recipe.memory), model, limits, batch, wish.video_wh, frames)
    return Choice(name, size, objects, batch, plan_memory(task, figures))


def _spec(name: str, size: int) -> ModelSpec:
    for one in _bundles():
        if (one.model, one.image_size) == (name, size):
            return Bundle.open(one.folder).model
    if name == EMBEDDED:
        found = read_manifest(PICO_BUNDLE).description.model
        return found if isinstance(found, ModelSpec) else ModelSpec(name, size)
    return ModelSpec(name, size)


def _figures(name: str, size: int, batch: int, sm: int) -> tuple[dict[str, EngineFigures], int]:
    """Return what the engines take, and the frames that one call of the encoder is for.

    They are those of a bundle of the library, if it has some for this GPU that say so, else from the table.
    """
    for one in _bundles():
        if (one.model, one.image_size) == (name, size):
            for folder in _engine_folders(one, sm):
                if (figures := recorded_figures(folder.records, batch)) is not None:
                    return figures, min(record.limits.frames for record in folder.records.values())
    return measured_figures(name, size, sm=sm, objects=batch), 1


def _engine_folders(one: LibraryBundle, sm: int) -> Iterator[EngineFolder]:
    """Yield the engines of a bundle for a GPU, of the latest version first."""
    bundle = Bundle.open(one.folder)
    for target in (f"sm{sm}", ALL):
        for path in sorted(one.folder.glob(f"engines/*/{target}/{RECORD}"), reverse=True):
            flavour, _, version = path.parent.parent.name.rpartition("-")
            yield EngineFolder.at(bundle, flavour, version, target)


def _bundles() -> list[LibraryBundle]:
    return [one for one in library_bundles() if one.precision == PRECISION]


def _detector_choice(name: str, frame: str, *, free_bytes: int, sm: int) -> DetectorChoice:
    single = _detector_plan(name, frame, 1, sm)
    of_each, left = _detector_plan(name, frame, 2, sm).total_bytes - single.total_bytes, free_bytes - single.total_bytes
    after = MemoryState(held=single.total_bytes, peak=of_each, available=max(0, left))
    batch = fitting_frames(MemoryState(held=0, peak=0, available=free_bytes), after, 1, MOST_FRAMES)
    return DetectorChoice(name, frame, batch, _detector_plan(name, frame, batch, sm))


def _detector_plan(name: str, frame: str, batch: int, sm: int) -> MemoryPlan:
    """Add up what a detector takes; work space for several frames, which was not measured, in proportion to that for one."""
    engines = detector_figures(name, frame, sm=sm)
    height, width = map(int, frame.split("x"))
    spec = DetectorSpec(name, (height, width))
    tensors = {tensor.name: tensor for graph in detector_graph_specs(spec).values() for tensor in (*graph.inputs, *graph.outputs)}
    sizes = {"F": batch, "T": spec.max_tokens}
    nbytes = sum(math.prod(tensor.concrete(sizes)) * DTYPE_BYTES[tensor.dtype] for tensor in tensors.values())
    weights = [Part(f"weights of {graph}", figures.weights, "loaded once") for graph, figures in engines.items()]
    needs = (figures.activation * (batch if graph == "detector" else 1) for graph, figures in engines.items())
    space = Part("work space", max(needs), "one for both, as they run one after the other")
    buffers = Part("buffers", nbytes, "frames, the prompt, and what is found")
    return MemoryPlan((*weights, space, buffers, Part("CUDA", CONTEXT_BYTES, "an allowance: context, driver, kernels")))
