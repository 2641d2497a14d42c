"""What each recipe of precision costs in exactness and gives in size and speed, graph by graph; no GPU is needed.

    python benchmarks/precision_table.py
    python benchmarks/precision_table.py --models pico,sam2.1-hiera-tiny --recipes int8_cpu --size 512 --rounds 20

Each model is exported with weights from a seed (`pico` with its own) as `trt-track export` does. Every graph gets one input and is compared
with upstream in float32: the largest error of its outputs as a fraction of upstream's range of values. ONNX Runtime computes it on the CPU;
it has no bfloat16, so there every operator computes in float32 and is rounded. Then the image encoder is timed against that of FP32 on real
frames in turns, medians of `--rounds`. A recipe whose rest is in float32 (`int8_cpu`) shows what INT8 gives a CPU.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from compilation import onnx_sizes
from material import clip_path, random_bundle
from result_file import open_report
from rich.console import Console
from rich.table import Table

from trt_track.bench.worker import Send, messages
from trt_track.engines.bundle import Bundle
from trt_track.engines.library import EMBEDDED
from trt_track.engines.onnx_model import OnnxModel
from trt_track.engines.onnxruntime_session import OnnxRuntimeSession
from trt_track.parity.graph_check import QUICK, check_session
from trt_track.parity.thresholds import Thresholds
from trt_track.parity.weights import UpstreamModel
from trt_track.runtime.held_clip import HeldClip

INT8_CPU: Final = """
name = "int8_cpu"
about = "The image encoder's products in INT8, the rest in float32: for a CPU."
[networks]
image_encoder = { dtype = "float32", quantize = ["Conv", "Gemm", "MatMul"] }
[[exceptions]]
network = "image_encoder"
layers = ["trunk.patches", "trunk.stages.[01].*", "neck.*", "*.mlp.layers.1"]
dtype = "float32"
reason = "As in int8."
"""

_UNTIMED: Final = ("fp32", "bf16")
"""The measure itself, and what ONNX Runtime only imitates."""

Models = Annotated[str, typer.Option(help="Models of the catalogue with commas between.")]
Recipes = Annotated[str, typer.Option(help="Recipes with commas between.")]
Size = Annotated[int, typer.Option(help="Side in pixels of the square that a model sees; pico's is 256.")]
Timed = Annotated[str, typer.Option(help="Models whose image encoder is timed, with commas between.")]
Rounds = Annotated[int, typer.Option(min=0, help="Timed runs of the image encoder; 0 for none.")]
Out = Annotated[Path | None, typer.Option(help="The JSON file; default: benchmarks/results/precision_table.json.")]


@dataclass(frozen=True, slots=True)
class Order:
    """One model in one recipe, beside its FP32 form."""

    model: str
    recipe: str
    size: int
    rounds: int
    folder: Path


def precision_table(  # noqa: PLR0913, PLR0917 - the command's options
    models: Models = "pico,sam2.1-hiera-tiny,sam2.1-hiera-base-plus,sam2.1-hiera-large",
    recipes: Recipes = "fp16,bf16,int8,int8_cpu",
    timed: Timed = "pico,sam2.1-hiera-tiny",
    size: Size = 1024,
    rounds: Rounds = 5,
    out: Out = None,
) -> None:
    """Export, compare and time every model in every recipe."""
    report, rows = open_report("precision_table", out), []
    for model in models.split(","):
        side = 256 if model == EMBEDDED else size
        with tempfile.TemporaryDirectory(prefix="precision-table-") as folder:
            for recipe in recipes.split(","):
                row: dict[str, Any] = {"model": model, "size": side, "recipe": recipe}
                turns = rounds if model in timed.split(",") else 0
                row |= dict(messages(_work, Order(model, recipe, side, turns, Path(folder))))
                rows.append(row)
                report.write({"settings": {"rounds": rounds, "sizes": dict(QUICK)}, "rows": rows})
        _print([row for row in rows if row["model"] == model])


def _work(order: Order, send: Send) -> None:
    """Do one row in a process of its own."""
    bundle = _bundle(order, order.recipe)
    sizes = onnx_sizes(bundle)
    send("onnx_mb", round(sum(sizes.values()), 2))
    send("image_encoder_mb", sizes["image_encoder"])
    send("errors", _errors(bundle))
    if order.rounds and order.recipe not in _UNTIMED:
        send("encoder", _encoder_times(_bundle(order, "fp32"), bundle, order))


def _bundle(order: Order, recipe: str) -> Bundle:
    """Open the bundle of a recipe, exported first if it is not there yet."""
    folder = order.folder / f"{order.model}-{order.size}-{recipe}"
    if folder.is_dir():
        return Bundle.open(folder)
    if recipe == "int8_cpu":
        path = order.folder / "int8_cpu.toml"
        path.write_text(INT8_CPU, encoding="utf-8")
        recipe = str(path)
    if order.model != EMBEDDED:
        return Bundle.open(random_bundle(order.model, order.size, folder, precision=recipe, target=folder))
    from trt_track.cli.export_command import export

    with redirect_stdout(StringIO()):  # it prints the folder
        export(EMBEDDED, precision=recipe, out=folder)
    return Bundle.open(folder)


def _errors(bundle: Bundle) -> dict[str, dict[str, float]]:
    """Compare every graph with upstream: graph -> output -> largest error as a fraction of the range."""
    limits = Thresholds.read().of_graphs(bundle.manifest.description.dtypes)
    graphs = {name: (spec, bundle.onnx_path(name)) for name, spec in bundle.specs.items()}
    with OnnxRuntimeSession(graphs) as session:
        rows = check_session(session, UpstreamModel.of_bundle(bundle).build(), limits=limits, sizes=[QUICK])
    errors: dict[str, dict[str, float]] = {}
    for row in rows:
        errors.setdefault(row.case.split()[0], {})[row.output] = float(f"{row.relative:.2e}")
    return errors


def _encoder_times(exact: Bundle, low: Bundle, order: Order) -> dict[str, float]:
    """Time both image encoders in turns on frames of a real clip."""
    frames = [frame.model_rgb_hwc[None] for frame in HeldClip.read(clip_path(), size=order.size, frames=order.rounds + 1).held]
    encoders = {name: OnnxModel(bundle.onnx_path("image_encoder")) for name, bundle in (("fp32", exact), ("low", low))}
    seconds: dict[str, list[float]] = {name: [] for name in encoders}
    for frame in frames:
        for name, encoder in encoders.items():
            started = time.perf_counter()
            encoder.run({"frames": frame})
            seconds[name].append(time.perf_counter() - started)
    medians = {name: float(np.median(spent[1:])) for name, spent in seconds.items()}  # the first run warms up
    return {"fp32_s": round(medians["fp32"], 4), "low_s": round(medians["low"], 4), "speed": round(medians["fp32"] / medians["low"], 3)}


def _print(rows: list[Mapping[str, Any]]) -> None:
    table = Table("model", "px", "recipe", "ONNX MB", "encoder MB", "encoder x FP32", *rows[0]["errors"], box=None, pad_edge=False)
    for row in rows:
        speed = f"{row['encoder']['speed']:.2f}" if "encoder" in row else ""
        errors = [f"{max(outputs.values()):.1e}" for outputs in row["errors"].values()]
        table.add_row(
            row["model"], str(row["size"]), row["recipe"], f"{row['onnx_mb']:.1f}", f"{row['image_encoder_mb']:.1f}", speed, *errors
        )
    Console(width=180, highlight=False, markup=False).print(table)


if __name__ == "__main__":
    typer.run(precision_table)
