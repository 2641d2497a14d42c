"""Table of Grounding DINO at its real sizes: export, distance from transformers, time and memory on the CPU, and engines; needs no GPU.

    python benchmarks/detector_table.py
    python benchmarks/detector_table.py --cases grounding-dino-tiny:800x1333:9 --targets sm89 --bundles bundles --resume

A case is a model, the size of its frames, and how many pairs of a real frame and a prompt are compared in FP32. Weights come from a
seed: speed and the engines' structure do not depend on them, and each part of the model has its share in the result. Both precisions are
exported exactly as `trt-track export-detector` does, its check on a frame of noise included; FP16 is that of the backbone alone.

FP32: every pair against transformers, then seconds per frame and peak memory of ONNX Runtime by itself. FP16: one pair, whose deviation is
that of half precision, then both graphs compiled for every GPU family. Each step runs in a process of its own, whose peak of resident
memory (VmHWM) and CPU seconds are told; on a machine that has other work the CPU seconds are what counts. All cores of this process are
used, `taskset -c 0` and OMP_NUM_THREADS=1 give it one.

The JSON file is written after every figure, a failure is recorded and the table goes on. With `--resume` what the file has is kept and only
the rest is measured. Exit code 1 when anything failed or differs from transformers by more than it may.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Final

import typer
from compilation import FLAVOUR, engines_table
from detector_steps import FRAMES, PROMPTS, Order, compare_pairs, compile_graph, export_bundle, time_frames
from material import SEED
from result_file import open_report
from rich.console import Console
from rich.table import Table

from trt_track.bench.worker import messages
from trt_track.engines.bundle import Bundle
from trt_track.engines.manifest import MANIFEST
from trt_track.specs import PRECISIONS, Limits

FP16_PAIRS: Final = 1
STEPS: Final = {"fp32": ("export", "parity", "speed"), "fp16": ("export", "engines", "parity")}

Cases = Annotated[str, typer.Option(help="MODEL:HEIGHTxWIDTH:PAIRS with commas between.")]
Precisions = Annotated[str, typer.Option(help="fp32, fp16, or both with a comma between.")]
Targets = Annotated[str, typer.Option(help="GPU families with commas between.")]
Bundles = Annotated[
    Path | None, typer.Option(help="Folder to keep bundles in; one that is there is taken, its export not timed; default: a temporary one.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Keep the figures that the JSON file has and measure the rest.")]
Out = Annotated[Path | None, typer.Option(help="The JSON file; default: benchmarks/results/detector_table.json.")]

DEFAULT_CASES: Final = "grounding-dino-tiny:800x1333:9,grounding-dino-tiny:544x960:1,grounding-dino-base:800x1333:1"


def detector_table(  # noqa: PLR0913, PLR0917 - the command's options
    cases: Cases = DEFAULT_CASES,
    precisions: Precisions = "fp32,fp16",
    targets: Targets = "sm75,sm86,sm89,sm120",
    bundles: Bundles = None,
    resume: Resume = False,
    out: Out = None,
) -> None:
    """Measure every case in FP32, then in FP16."""
    wanted = tuple(target.strip() for target in targets.split(","))
    report = open_report("detector_table", out)
    rows = _known_rows(report.path) if resume else {}

    def write() -> None:
        report.write({"settings": _settings(wanted), "rows": list(rows.values())})

    with TemporaryDirectory(prefix="detector-table-") as scratch:
        orders = list(_orders(cases, wanted, bundles or Path(scratch)))
        for order in [order for order in orders if order.precision in precisions.split(",")]:
            row = rows.setdefault(f"{order.model} {order.frame} {order.precision}", _new_row(order))
            for kind, content in _measured(order, row):
                _add(row, kind, content)
                write()
                typer.echo(f"{order.model} {order.frame} {order.precision}: {kind} {json.dumps(content)}")
    write()
    for row in rows.values():
        _print(row)
    failures = sum(len(row["failures"]) + sum(not pair["passed"] for pair in row["parity"]) for row in rows.values())
    typer.echo(f"{len(rows)} rows, {failures} failures: {report.path}")
    raise typer.Exit(1 if failures else 0)


def _orders(cases: str, targets: tuple[str, ...], bundles: Path) -> Iterator[Order]:
    """Read the cases: FP32 of each, then FP16."""
    bundles.mkdir(parents=True, exist_ok=True)
    most = len(FRAMES) * len(PROMPTS)
    for text in cases.split(","):
        model, frame, pairs = (*text.strip().split(":"), "", "")[:3]
        if not pairs.isdecimal() or not 1 <= int(pairs) <= most:
            raise typer.BadParameter(
                f"{text}: give MODEL:HEIGHTxWIDTH:PAIRS with 1 to {most} pairs, for example {DEFAULT_CASES.split(',')[0]}"
            )
        for precision in PRECISIONS:
            yield Order(model, frame, precision, int(pairs) if precision == "fp32" else FP16_PAIRS, targets, bundles)


def _settings(targets: tuple[str, ...]) -> dict[str, Any]:
    """Return what holds for every row."""
    note = "seconds and build_s are wall time, upper bounds where load_1_min says that other work ran beside; cpu_s are the step's own"
    limits = {"frames": Limits().frames}
    return {"weights": f"random, seed {SEED}", "flavour": FLAVOUR, "limits": limits, "targets": targets, "note": note}


def _new_row(order: Order) -> dict[str, Any]:
    names = {"model": order.model, "frame": order.frame, "precision": order.precision}
    return {**names, "export": None, "parity": [], "speed": None, "engines": [], "steps": [], "failures": []}


def _known_rows(path: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of an earlier run, without what failed: that is tried again."""
    if not path.is_file():
        return {}
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return {f"{row['model']} {row['frame']} {row['precision']}": {**row, "failures": []} for row in rows}


def _add(row: dict[str, Any], kind: str, content: Any) -> None:
    if isinstance(row[kind], list):
        row[kind].append(content)
    else:
        row[kind] = content


def _measured(order: Order, row: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Do what the row lacks, step by step, and yield what comes."""
    steps = STEPS[order.precision]
    if not (order.folder / MANIFEST).is_file():
        yield from messages(export_bundle, order)
    if not (order.folder / MANIFEST).is_file():
        return
    if "engines" in steps:
        known = {(engine["graph"], engine["target"]) for engine in row["engines"]}
        for target in order.targets:
            for graph in Bundle.open(order.folder).manifest.graphs:
                if (graph, target) not in known:
                    yield from messages(compile_graph, replace(order, graph=graph, target=target))
    if len(row["parity"]) < order.pairs:
        row["parity"] = []
        yield from messages(compare_pairs, order)
    if "speed" in steps and row["speed"] is None:
        yield from messages(time_frames, order)


def _print(row: dict[str, Any]) -> None:
    console = Console(width=140, highlight=False, markup=False)
    console.print(f"\n{row['model']} {row['frame']} {row['precision']}")
    if export := row["export"]:
        parts = ", ".join(f"{graph} {mb:.1f} MB" for graph, mb in export["onnx_mb"].items())
        console.print(f"export {export['seconds']:.0f} s, of it tracing {export['trace_s']:.0f}, checking {export['check_s']:.0f}; {parts}")
    if row["parity"]:
        console.print(_parity_table(row["parity"]))
    if speed := row["speed"]:
        console.print(
            f"{speed['s_per_frame']:.1f} s per frame ({speed['cpu_s_per_frame']:.1f} of CPU), peak memory {speed['peak_mb']:.0f} MB"
        )
    if row["engines"]:
        console.print(engines_table(row["engines"]))
        for engine in row["engines"]:
            memory = ", ".join(f"{kind} {engine[f'{kind}_mb']:.0f} MB" for kind in ("weights", "activation") if f"{kind}_mb" in engine)
            console.print(f"{engine['graph']} {engine['target']}: GPU memory {memory}; built with {engine['peak_mb']:.0f} MB")
    for failure in row["failures"]:
        console.print(f"FAILED: {failure}")


def _parity_table(pairs: list[dict[str, Any]]) -> Table:
    table = Table("clip", "frame", "tokens", "choice of cells", "logits", "boxes", "other words", "", box=None, pad_edge=False)
    for pair in pairs:
        errors = (f"{pair[name]:.2e}" for name in ("cells", "logits", "boxes"))
        verdict = "ok" if pair["passed"] else "FAILED"
        table.add_row(pair["clip"], str(pair["number"]), str(pair["tokens"]), *errors, str(pair["words"]), verdict)
    return table


if __name__ == "__main__":
    typer.run(detector_table)
