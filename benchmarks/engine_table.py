"""Table of engines: every model, every graph, every GPU family, compiled ahead of time by TensorRT for RTX; no GPU is needed.

    python benchmarks/engine_table.py
    python benchmarks/engine_table.py --models sam2.1-hiera-tiny --precision fp32,fp16,bf16,int8
    python benchmarks/engine_table.py --models sam2.1-hiera-tiny,sam2.1-hiera-large --size 1024 --targets sm75,sm86,sm89,sm120

Each model gets random weights (the engines' structure does not depend on them), is exported exactly as `trt-track export` does,
the check of every graph against upstream included, and built graph by graph. The table says how long tracing and checking took, since
FP16 on a CPU is slow and the check runs there. Each model runs in a process of its own, so that what a compiler does to its process
costs one model at most; a failure is recorded and the table goes on. The JSON file is written after every model, and a model's bundle is
deleted before the next. Exit code 1 when anything failed.
"""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from compilation import FAILURES, FLAVOUR, build_engine, engines_table, onnx_sizes, timed
from material import random_bundle
from result_file import open_report
from rich.console import Console

from trt_track.bench.worker import Send, messages
from trt_track.engines.bundle import Bundle
from trt_track.export.catalogue import CATALOGUE, find_model
from trt_track.specs import Limits

Models = Annotated[str, typer.Option(help="Models of the catalogue with commas between, or `all`.")]
Size = Annotated[int, typer.Option(help="Side in pixels of the square that the model sees.")]
Precision = Annotated[str, typer.Option(help="Recipes of precision with commas between.")]
Targets = Annotated[str, typer.Option(help="GPU families with commas between.")]
Objects = Annotated[int, typer.Option(min=1, max=64, help="The largest batch of objects to build for.")]
Work = Annotated[Path | None, typer.Option(help="Folder for the bundles while they exist; default: a temporary one.")]
Out = Annotated[Path | None, typer.Option(help="The JSON file; default: benchmarks/results/engine_table.json.")]


@dataclass(frozen=True, slots=True)
class Order:
    """What to build of one model."""

    model: str
    size: int
    precision: str
    targets: tuple[str, ...]
    objects: int
    work: Path | None


def engine_table(  # noqa: PLR0913, PLR0917 - the command's options
    models: Models = "all",
    size: Size = 1024,
    precision: Precision = "fp16",
    targets: Targets = "sm75,sm86,sm89,sm120",
    objects: Objects = 16,
    work: Work = None,
    out: Out = None,
) -> None:
    """Export and build every model for every GPU family."""
    names = list(CATALOGUE) if models == "all" else [find_model(name.strip()).name for name in models.split(",")]
    wanted = tuple(target.strip() for target in targets.split(","))
    report, rows = open_report("engine_table", out), []
    settings = {"size": size, "flavour": FLAVOUR, "max_objects": objects, "targets": wanted}
    for name, recipe in product(names, precision.split(",")):
        # SM 7.5 has no bfloat16: `trt-track build` refuses it
        fit = tuple(target for target in wanted if (recipe, target) != ("bf16", "sm75"))
        rows.append(_model_row(Order(name, size, recipe, fit, objects, work)))
        report.write({"settings": settings, "models": rows})
        _print(rows[-1])
    failures = sum(len(row["failures"]) for row in rows)
    engines = sum(len(row["engines"]) for row in rows)
    typer.echo(f"{engines} engines of {len(rows)} models, {failures} failures: {report.path}")
    raise typer.Exit(1 if failures else 0)


def _model_row(order: Order) -> dict[str, Any]:
    """Work on one model in a process of its own and collect what it says."""
    row: dict[str, Any] = {"model": order.model, "precision": order.precision, "export": None, "engines": [], "failures": []}
    started = time.perf_counter()
    # The folder is ours, so that it goes away even when the process dies.
    with TemporaryDirectory(prefix="engine-table-", dir=order.work) as folder:
        for kind, content in messages(_work, replace(order, work=Path(folder))):
            if kind == "export":
                row["export"] = content
            else:
                row[kind].append(content)
    row["total_s"] = round(time.perf_counter() - started, 1)
    return row


def _work(order: Order, send: Send) -> None:
    """Export and build one model, and send rows as they come."""
    if order.work is None:
        raise ValueError("the folder was not made")
    try:
        send("export", _export(order, order.work))
    except FAILURES as error:
        send("failures", {"step": "export", "reason": str(error)})
        return
    bundle = Bundle.open(order.work / f"{order.model}-{order.size}-{order.precision}")
    for target in order.targets:
        for graph in bundle.manifest.graphs:
            try:
                send("engines", build_engine(bundle, graph, target, Limits(objects=order.objects)))
            except FAILURES as error:
                send("failures", {"step": "build", "graph": graph, "target": target, "reason": str(error)})


def _export(order: Order, folder: Path) -> dict[str, Any]:
    """Export as the command does, and time its parts."""
    spent: dict[str, dict[str, float]] = defaultdict(dict)
    started = time.perf_counter()
    with ExitStack() as stack:
        stack.enter_context(timed("trt_track.export.tracing.trace", spent["trace_s"], graph_argument=1))
        stack.enter_context(timed("trt_track.parity.graph_check.check_file", spent["check_s"], graph_argument=1))
        bundle = Bundle.open(random_bundle(order.model, order.size, folder, precision=order.precision))
    seconds = time.perf_counter() - started
    sizes = onnx_sizes(bundle)
    totals = {key: round(sum(by_graph.values()), 1) for key, by_graph in spent.items()}
    return {"seconds": round(seconds, 1), **totals, "onnx_mb": round(sum(sizes.values()), 3), "onnx_mb_by_graph": sizes, "by_graph": spent}


def _print(row: dict[str, Any]) -> None:
    console = Console(width=140, highlight=False, markup=False)
    if export := row["export"]:
        console.print(
            f"{row['model']} {row['precision']}: "
            f"export {export['seconds']:.1f} s (tracing {export['trace_s']:.1f}, checking {export['check_s']:.1f}), "
            f"ONNX {export['onnx_mb']:.1f} MB, all {row['total_s']:.0f} s"
        )
    console.print(engines_table(row["engines"]))
    for failure in row["failures"]:
        console.print(f"FAILED: {failure}")


if __name__ == "__main__":
    typer.run(engine_table)
