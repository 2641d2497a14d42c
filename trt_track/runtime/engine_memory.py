"""What engines take of a GPU's memory, as TensorRT told when it built them.

`engine_memory.json` has the figures of the models that everybody can export, made by benchmarks/engine_memory.py; a bundle with engines of
its own has figures of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from trt_track.engines.engine_record import EngineRecord
from trt_track.errors import ModelError
from trt_track.specs import GRAPHS

ENGINE_MEMORY: Final = Path(__file__).with_suffix(".json")
OBJECT_BATCHES: Final = (1, 2, 4, 8, 16)
"""Objects of one batch that engines were built for."""
SHARED: Final = "sam2"
"""Stands for every official model in rows of graphs that are the same in all of them."""
PRECISION: Final = "fp16"
TURING: Final = 75
"""Compute capability whose engines are others; those of all later GPUs take nearly the same."""
_MARGIN: Final = 1.05
_FIXED_BYTES: Final = 32 << 20
"""A batch takes in proportion to its objects, and a part that does not depend on them; both were measured to be smaller than this."""


@dataclass(frozen=True, slots=True)
class EngineFigures:
    """GPU memory of one engine, in bytes."""

    weights: int
    activation: int
    """Work space while it runs."""


def shared_name(model: str) -> str:
    """Return which models a model has its graphs beside the image encoder in common with: those of the name returned."""
    return SHARED if model.startswith(("sam2-hiera-", "sam2.1-hiera-")) else model


def measured_name(model: str) -> str:
    """Return the model whose image encoder was measured: the two versions have the same one."""
    return model.replace("sam2-", "sam2.1-") if model.startswith("sam2-hiera-") else model


def measured_figures(model: str, size: int, *, sm: int, objects: int) -> dict[str, EngineFigures]:
    """Return what the six engines of a model take, from the table.

    Args:
        model: a name of the catalogue, or `pico`.
        size: side of the square that the model sees, in pixels.
        sm: compute capability of the GPU times ten.
        objects: of one batch, 1 to 16; between batches that were measured, in proportion.

    Raises:
        ModelError: the table does not have this model in this size.
    """
    found = {}
    for graph in GRAPHS:
        name = measured_name(model) if graph == "image_encoder" else shared_name(model)
        rows = _rows().get((name, str(size), graph, _target(sm)), ())
        if not rows:
            known = ", ".join(f"{name} at {side} px" for name, side in known_models())
            raise ModelError(f"what {model} takes at {size} px was not measured: choose one of {known}")
        found[graph] = _interpolated(rows, objects)
    return found


def detector_figures(detector: str, frame: str, *, sm: int) -> dict[str, EngineFigures]:
    """Return what the engines of a detector take for one frame a call, from the table; empty where it does not have them.

    Args:
        detector: a name like `grounding-dino-tiny`.
        frame: height and width of its frames, like `800x1333`.
        sm: as above.
    """
    rows = {graph: _rows().get((detector, frame, graph, _target(sm)), ()) for graph in ("text_encoder", "detector")}
    return {graph: _interpolated(found, 1) for graph, found in rows.items() if found}


def recorded_figures(records: Mapping[str, EngineRecord], objects: int) -> dict[str, EngineFigures] | None:
    """Return what the engines of a bundle take, from their records; None where one does not say.

    Args:
        records: of every graph.
        objects: of one batch, at most what the engines were built for.
    """
    found = {}
    for graph in GRAPHS:
        record = records.get(graph)
        if record is None or record.weights_bytes is None or record.activation_bytes is None or objects > record.limits.objects:
            return None
        found[graph] = EngineFigures(record.weights_bytes, _scaled(record.activation_bytes, record, objects))
    return found


def _scaled(activation: int, record: EngineRecord, objects: int) -> int:
    """Return the work space for fewer objects than an engine was built for."""
    if record.graph == "image_encoder" or objects == record.limits.objects:
        return activation
    return min(activation, int(_MARGIN * activation * objects / record.limits.objects) + _FIXED_BYTES)


def known_models() -> list[tuple[str, int]]:
    """Return name and size in pixels of every model in the table, in its order."""
    return list(dict.fromkeys((name, int(size)) for name, size, graph, _ in _rows() if graph == "image_encoder"))


def known_detectors() -> list[tuple[str, str]]:
    """Return name and frame of every detector in the table, those with larger frames first."""
    found = dict.fromkeys((name, frame) for name, frame, graph, _ in _rows() if graph == "detector")
    return sorted(found, key=lambda one: (one[0], -int(one[1].partition("x")[0])))


@cache
def _rows() -> dict[tuple[str, str, str, str], tuple[tuple[int, EngineFigures], ...]]:
    """Read the table: by model, size, graph and target, the objects of a batch and what it takes, few objects first."""
    found: dict[tuple[str, str, str, str], list[tuple[int, EngineFigures]]] = {}
    rows: list[dict[str, Any]] = json.loads(ENGINE_MEMORY.read_text(encoding="utf-8"))["engines"]
    for row in rows:
        figures = EngineFigures(row["weights_bytes"], row["activation_bytes"])
        found.setdefault((row["model"], row["size"], row["graph"], row["target"]), []).append((row["objects"] or 1, figures))
    return {key: tuple(sorted(values, key=lambda value: value[0])) for key, values in found.items()}


def _target(sm: int) -> str:
    return f"sm{TURING}" if sm == TURING else "sm89"


def _interpolated(rows: Sequence[tuple[int, EngineFigures]], objects: int) -> EngineFigures:
    """Return the figures of a batch: the first ones for fewer objects than were measured, the last ones for more."""
    for (few, less), (many, more) in pairwise(rows):
        if few < objects < many:
            share = (objects - few) / (many - few)
            return EngineFigures(max(less.weights, more.weights), less.activation + int(share * (more.activation - less.activation)))
    return next((figures for most, figures in rows if objects <= most), rows[-1][1])
