"""Table of engines: every model, every graph, every GPU family, compiled ahead of time by TensorRT for RTX; no GPU is needed.

    python benchmarks/engine_table.py
    python benchmarks/engine_table.py --models sam2.1-hiera-tiny,sam2.1-hiera-large --size 1024 --targets sm75,sm86,sm89,sm120

Each model gets random weights (the engines' structure does not depend on them), is exported in FP16 exactly as `trt-track export` does,
the check of every graph against upstream included, and built graph by graph. The table says how long tracing and checking took, since
FP16 on a CPU is slow and the check runs there. Each model runs in a process of its own, so that what a compiler does to its process
costs one model at most; a failure is recorded and the table goes on. The JSON file is written after every model, and a model's bundle is
deleted before the next. Exit code 1 when anything failed.
"""

from __future__ import annotations

import multiprocessing
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Final
from unittest import mock

import typer
from machine import Report
from material import random_bundle
from rich.console import Console
from rich.table import Table

from trt_track.engines.bundle import Bundle
from trt_track.engines.tensorrt_builder import build_engines
from trt_track.errors import TrtTrackError
from trt_track.export.catalogue import CATALOGUE, find_model
from trt_track.specs import Limits

FLAVOUR: Final = "tensorrt-rtx"

Models = Annotated[str, typer.Option(help="Models of the catalogue with commas between, or `all`.")]
Size = Annotated[int, typer.Option(help="Side in pixels of the square that the model sees.")]
Targets = Annotated[str, typer.Option(help="GPU families with commas between.")]
Objects = Annotated[int, typer.Option(min=1, max=64, help="The largest batch of objects to build for.")]
Work = Annotated[Path | None, typer.Option(help="Folder for the bundles while they exist; default: a temporary one.")]
Out = Annotated[Path | None, typer.Option(help="The JSON file; default: benchmarks/results/engine_table.json.")]


@dataclass(frozen=True, slots=True)
class Order:
    """What to build of one model."""

    model: str
    size: int
    targets: tuple[str, ...]
    objects: int
    work: Path | None


def engine_table(  # noqa: PLR0913, PLR0917 - the command's options
    models: Models = "all",
    size: Size = 1024,
    targets: Targets = "sm75,sm86,sm89,sm120",
    objects: Objects = 16,
    work: Work = None,
    out: Out = None,
) -> None:
    """Export and build every model for every GPU family."""
    names = list(CATALOGUE) if models == "all" else [find_model(name.strip()).name for name in models.split(",")]
    wanted = tuple(target.strip() for target in targets.split(","))
    report, rows = Report("engine_table", out), []
    settings = {"size": size, "precision": "fp16", "flavour": FLAVOUR, "max_objects": objects, "targets": wanted}
    for name in names:
        rows.append(_model_row(Order(name, size, wanted, objects, work)))
        report.write({"settings": settings, "models": rows})
        _print(rows[-1])
    failures = sum(len(row["failures"]) for row in rows)
    engines = sum(len(row["engines"]) for row in rows)
    typer.echo(f"{engines} engines of {len(rows)} models, {failures} failures: {report.path}")
    raise typer.Exit(1 if failures else 0)


def _model_row(order: Order) -> dict[str, Any]:
    """Work on one model in a process of its own and collect what it says."""
    row: dict[str, Any] = {"model": order.model, "export": None, "engines": [], "failures": []}
    started = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    # The folder is ours, so that it goes away even when the process dies.
    with TemporaryDirectory(prefix="engine-table-", dir=order.work) as folder:
        worker = context.Process(target=_work, args=(replace(order, work=Path(folder)), sender))
        worker.start()
        sender.close()
        for kind, content in _received(receiver):
            if kind == "export":
                row["export"] = content
            else:
                row[kind].append(content)
        worker.join()
    if worker.exitcode:
        row["failures"].append({"step": "process", "reason": f"it ended with exit code {worker.exitcode}"})
    row["total_s"] = round(time.perf_counter() - started, 1)
    return row


def _received(receiver: Connection) -> Iterator[tuple[str, Any]]:
    while True:
        try:
            yield receiver.recv()
        except EOFError:
            return


def _work(order: Order, sender: Connection) -> None:
    """Export and build one model, and send rows as they come."""
    if order.work is None:
        raise ValueError("the folder was not made")
    try:
        sender.send(("export", _export(order, order.work)))
    except (TrtTrackError, RuntimeError, MemoryError) as error:
        sender.send(("failures", {"step": "export", "reason": str(error)}))
        return
    bundle = Bundle.open(order.work / f"{order.model}-{order.size}-fp16")
    for target in order.targets:
        for graph, record in bundle.manifest.graphs.items():
            # One graph at a time, so that one that fails does not hide those after it.
            alone = Bundle(bundle.folder, replace(bundle.manifest, graphs={graph: record}))
            try:
                (built,) = build_engines(alone, flavour=FLAVOUR, targets=[target], limits=Limits(objects=order.objects))
                engine = {"graph": graph, "target": target, "build_s": built.build_s, "mb": round(built.engine.bytes / 1e6, 3)}
                sender.send(("engines", engine))
            except (TrtTrackError, RuntimeError, MemoryError) as error:
                sender.send(("failures", {"step": "build", "graph": graph, "target": target, "reason": str(error)}))


def _export(order: Order, folder: Path) -> dict[str, Any]:
    """Export as the command does, and time its parts."""
    spent: dict[str, dict[str, float]] = defaultdict(dict)
    started = time.perf_counter()
    with ExitStack() as stack:
        stack.enter_context(_timed("trt_track.export.tracing.trace", spent["trace_s"], graph_argument=1))
        stack.enter_context(_timed("trt_track.parity.graph_check.check_file", spent["check_s"], graph_argument=1))
        bundle = Bundle.open(random_bundle(order.model, order.size, folder, precision="fp16"))
    seconds = time.perf_counter() - started
    sizes = {name: round(sum(file.bytes for file in record.files) / 1e6, 3) for name, record in bundle.manifest.graphs.items()}
    totals = {key: round(sum(by_graph.values()), 1) for key, by_graph in spent.items()}
    return {"seconds": round(seconds, 1), **totals, "onnx_mb": round(sum(sizes.values()), 3), "onnx_mb_by_graph": sizes, "by_graph": spent}


@contextmanager
def _timed(name: str, seconds: dict[str, float], *, graph_argument: int) -> Iterator[None]:
    """Note the seconds that each call of a function took under the name of the graph that is one of its arguments."""
    module, _, function = name.rpartition(".")
    original: Callable[..., Any] = getattr(__import__(module, fromlist=[function]), function)

    def timed(*args: Any, **options: Any) -> Any:
        started = time.perf_counter()
        result = original(*args, **options)
        seconds[args[graph_argument].name] = round(time.perf_counter() - started, 2)
        return result

    with mock.patch(name, timed):
        yield


def _print(row: dict[str, Any]) -> None:
    console = Console(width=140, highlight=False, markup=False)
    if export := row["export"]:
        console.print(
            f"{row['model']}: export {export['seconds']:.1f} s (tracing {export['trace_s']:.1f}, checking {export['check_s']:.1f}), "
            f"ONNX {export['onnx_mb']:.1f} MB, all {row['total_s']:.0f} s"
        )
    targets = list(dict.fromkeys(engine["target"] for engine in row["engines"]))
    table = Table("graph", *(f"{target} s, MB" for target in targets), box=None, pad_edge=False)
    for graph in dict.fromkeys(engine["graph"] for engine in row["engines"]):
        found = {engine["target"]: f"{engine['build_s']:.1f}, {engine['mb']:.1f}" for engine in row["engines"] if engine["graph"] == graph}
        table.add_row(graph, *(found.get(target, "failed") for target in targets))
    console.print(table)
    for failure in row["failures"]:
        console.print(f"FAILED: {failure}")


if __name__ == "__main__":
    typer.run(engine_table)
