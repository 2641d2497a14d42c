"""GPU memory of every engine, as TensorRT for RTX tells it when it builds: the table that `trt-track plan` reads; no GPU is needed.

    python benchmarks/engine_memory.py
    python benchmarks/engine_memory.py --models sam2.1-hiera-tiny:512 --detectors "" --targets sm89

Each model gets random weights (what an engine takes does not depend on them) and is exported in FP16 as `trt-track export` does. The image
encoder is built once, as it knows nothing of objects. The other graphs are the same for all models of one family and size, so they are
built once for these, for batches of 1, 2, 4, 8 and 16 objects. Detectors are built for one frame a call, as `trt-track build` does.

Rows are merged into the table that is there, and it is written after every model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from compilation import FAILURES, FLAVOUR
from material import random_bundle, random_detector

from trt_track.bench.worker import Send, messages
from trt_track.engines.bundle import Bundle
from trt_track.engines.tensorrt_builder import build_engines
from trt_track.engines.tensorrt_door import GraphCompiler
from trt_track.runtime.engine_memory import ENGINE_MEMORY, OBJECT_BATCHES, shared_name
from trt_track.specs import Limits

MODELS = "sam2.1-hiera-tiny:1024,sam2.1-hiera-tiny:512,pico:256,sam2.1-hiera-small:1024,sam2.1-hiera-base-plus:1024,sam2.1-hiera-large:1024"
DETECTORS = "grounding-dino-tiny:800x1333,grounding-dino-tiny:544x960,grounding-dino-base:800x1333"
KEY = ("model", "size", "graph", "precision", "target", "objects")
"""What tells one row from another."""

Models = Annotated[str, typer.Option(help="Models and sizes, like sam2.1-hiera-tiny:1024, with commas between.")]
Detectors = Annotated[str, typer.Option(help="Detectors and sizes of their frames, like grounding-dino-tiny:800x1333.")]
Targets = Annotated[str, typer.Option(help="GPU families with commas between.")]
Work = Annotated[Path | None, typer.Option(help="Folder for the bundles; those that lie there are used. Default: a temporary one.")]
Out = Annotated[Path, typer.Option(help="The table.")]


@dataclass(frozen=True, slots=True)
class Order:
    """What to build of one model or detector."""

    model: str
    size: str
    targets: tuple[str, ...]
    with_shared: bool
    """Whether its graphs beside the image encoder are built too; False where another model's are the same."""
    work: Path


def engine_memory(
    models: Models = MODELS, detectors: Detectors = DETECTORS, targets: Targets = "sm75,sm89", work: Work = None, out: Out = ENGINE_MEMORY
) -> None:
    """Build engines and note what they take."""
    rows = {_key(row): row for row in (json.loads(out.read_text(encoding="utf-8"))["engines"] if out.exists() else [])}
    failures = 0
    with TemporaryDirectory(prefix="engine-memory-") as temporary:
        wanted = tuple(target.strip() for target in targets.split(","))
        for order in _orders(f"{models},{detectors}", wanted, work or Path(temporary)):
            for kind, content in messages(_work, order):
                if kind == "engine":
                    rows[_key(content)] = content
                else:
                    typer.echo(f"FAILED: {order.model} {order.size}: {content}", err=True)
                    failures += 1
            _write(out, [rows[key] for key in sorted(rows, key=str)])
            typer.echo(f"{order.model} {order.size}: {len(rows)} rows")
    raise typer.Exit(1 if failures else 0)


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the table, a line for each engine."""
    head = {"made_by": "python benchmarks/engine_memory.py", "flavour": FLAVOUR, "version": GraphCompiler(FLAVOUR).version}
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    path.write_text(json.dumps(head, indent=1).removesuffix("\n}") + f',\n "engines": [\n{lines}\n ]\n}}\n', encoding="utf-8")


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in KEY)


def _orders(names: str, targets: tuple[str, ...], work: Path) -> Iterator[Order]:
    known = set()
    for name in filter(None, (name.strip() for name in names.split(","))):
        model, size = name.split(":")
        yield Order(model, size, targets, (shared_name(model), size) not in known, work)
        known.add((shared_name(model), size))


def _work(order: Order, send: Send) -> None:
    """Export one model, build its engines and send a row for each."""
    bundle = _bundle(order)
    for target in order.targets:
        for graph in bundle.manifest.graphs:
            shared = graph not in {"image_encoder", "text_encoder", "detector"}
            if shared and not order.with_shared:
                continue
            for objects in OBJECT_BATCHES if shared else (1,):
                name = shared_name(order.model) if shared else order.model
                row = {"model": name, "size": order.size, "graph": graph, "precision": "fp16", "target": target}
                row |= {"objects": objects if shared else None}
                try:
                    send("engine", {**row, **_memory(bundle, graph, target, objects)})
                except FAILURES as error:
                    send("failures", {**row, "reason": str(error)})


def _memory(bundle: Bundle, graph: str, target: str, objects: int) -> dict[str, int | None]:
    """Build one engine and return what it takes."""
    alone = Bundle(bundle.folder, replace(bundle.manifest, graphs={graph: bundle.record(graph)}))
    (built,) = build_engines(alone, flavour=FLAVOUR, targets=[target], limits=Limits(objects=objects))
    return {"weights_bytes": built.weights_bytes, "activation_bytes": built.activation_bytes}


def _bundle(order: Order) -> Bundle:
    folder = order.work / f"{order.model}-{order.size}-fp16"
    if not (folder / "manifest.json").exists():
        if "x" in order.size:
            random_detector(order.model, order.size, order.work, precision="fp16")
        else:
            random_bundle(order.model, int(order.size), order.work, precision="fp16")
    return Bundle.open(folder)


if __name__ == "__main__":
    typer.run(engine_memory)
