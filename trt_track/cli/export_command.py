"""`trt-track export`: PyTorch -> a bundle of ONNX graphs, each checked against upstream before the bundle appears."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from trt_track.cli.calibration_data import CalibrationData
from trt_track.errors import ModelError, ParityError
from trt_track.recipe import NETWORKS, Recipe

if TYPE_CHECKING:
    from torch import nn

    from trt_track.cli.calibration_data import Specs
    from trt_track.engines.manifest import Description
    from trt_track.export.calibration import Calibration
    from trt_track.parity.measures import Deviation
    from trt_track.specs import ModelSpec

_WAITING: Final = "OMP_WAIT_POLICY"
"""How PyTorch's threads wait for each other."""

Model = Annotated[
    str, typer.Argument(help="A model of the catalogue (`trt-track models list`), or a name of your own together with --config.")
]
Checkpoint = Annotated[Path | None, typer.Option(help="Weights in the official format; by default what `models pull` downloaded.")]
Seed = Annotated[int | None, typer.Option("--random-weights", help="Make weights from this seed instead: for structure, speed and parity.")]
Config = Annotated[Path | None, typer.Option(help="A SAM 2 model file in upstream's YAML form.")]
Size = Annotated[
    int | None, typer.Option(help="Side in pixels of the square that the model sees: 1024, 512 or 256; default: the model's own.")
]
Precision = Annotated[
    str, typer.Option(metavar="RECIPE", help="fp32 for ONNX Runtime on the CPU; fp16, bf16 or int8 for TensorRT; or a recipe's .toml file.")
]
Calibrate = Annotated[
    Path | None, typer.Option(help="A clip, or a folder of pictures or clips, to quantise for; default: photographs of scikit-image.")
]
Method = Annotated[str, typer.Option("--calibration", help="How ranges follow from the values: entropy, percentile or minmax.")]
Pictures = Annotated[int, typer.Option("--calibration-frames", min=1, help="Pictures to calibrate with at most.")]
Out = Annotated[Path | None, typer.Option(help="The bundle's folder; by default in the library, where `run --model` finds it.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the bundle that is there.")]


def export(  # noqa: PLR0913, PLR0917 - the command's options
    model: Model,
    checkpoint: Checkpoint = None,
    random_weights: Seed = None,
    config: Config = None,
    size: Size = None,
    precision: Precision = "fp32",
    calibrate: Calibrate = None,
    calibration: Method = "percentile",
    calibration_frames: Pictures = 32,
    out: Out = None,
    overwrite: Overwrite = False,
) -> None:
    """Export a SAM 2 model as a bundle of six ONNX graphs."""
    recipe = Recipe.read(precision)
    data = CalibrationData(calibrate, calibration, calibration_frames)
    if calibrate is not None:
        require_quantized(recipe, set(NETWORKS) - {"backbone"})
    with export_extra():
        from trt_track.export.local_models import config_of, weights_of
        from trt_track.export.upstream import build_model, model_spec
    if checkpoint is not None and random_weights is not None:
        raise ModelError("give either --checkpoint or --random-weights, not both")
    own = config_of(model) if config is None else config
    source = None if random_weights is not None else checkpoint or weights_of(model)
    predictor = build_model(own, size)
    spec = model_spec(predictor, model)
    description = _description(predictor, spec, recipe, load_weights(predictor, source, random_weights), data.told(recipe))
    from trt_track.engines.library import bundle_folder

    target = out or bundle_folder(model, spec.image_size, recipe.name)
    write_bundle(predictor, description, target, data=data, overwrite=overwrite)
    typer.echo(target)


def require_quantized(recipe: Recipe, networks: Collection[str]) -> None:
    """Refuse calibration that nothing would use.

    Raises:
        ModelError: the recipe quantises none of these networks.
    """
    if not any(recipe.of(network).quantize for network in networks):
        raise ModelError(f"--calibrate: recipe {recipe.name} quantises nothing here; take --precision int8, or leave it out")


def write_bundle(
    predictor: nn.Module, description: Description, target: Path, *, data: CalibrationData | None = None, overwrite: bool = False
) -> None:
    """Trace, check, quantise where the recipe says so, check that, and seal every graph of a model.

    Args:
        predictor: upstream's, with its weights.
        description: what the manifest says, the recipe included.
        target: the bundle's folder.
        data: what quantised networks are calibrated with; default: photographs.
        overwrite: whether a bundle that is there is replaced.

    Raises:
        ParityError: a graph differs by more than its tolerance; no bundle is written.
        BundleError: the folder is taken.
    """
    from trt_track.cli.progress import progress_bar
    from trt_track.engines.bundle import Bundle
    from trt_track.export.upstream import model_spec
    from trt_track.specs import graph_specs

    recipe, model = Recipe.from_json(description.recipe), model_spec(predictor, description.model.name)
    specs = graph_specs(model, recipe.features, recipe.memory)
    with Bundle.create(target, description, overwrite=overwrite) as draft, progress_bar(model.name) as advance:
        graphs = {name: (spec, draft.onnx_path(name)) for name, spec in specs.items()}
        write_graphs(predictor, graphs, recipe, advance)
        quantize_graphs(graphs, model, recipe, data or CalibrationData(), advance)
        for spec in specs.values():
            draft.add(spec)
        advance(len(specs), len(specs), "checked against upstream")


def write_graphs(predictor: nn.Module, graphs: Specs, recipe: Recipe, advance: Callable[[int, int, str], None]) -> None:
    """Trace every graph, not quantised, and check it.

    Raises:
        ExportError: a graph cannot be traced.
        ParityError: a graph differs from upstream by more than its tolerance.
    """
    from trt_track.export.graphs import build_modules, is_fused
    from trt_track.export.tracing import FUSED_OPSET, PLAIN_OPSET, trace
    from trt_track.export.upstream_graphs import UpstreamGraphs
    from trt_track.parity.graph_check import check_file
    from trt_track.parity.thresholds import Thresholds

    upstream, thresholds = UpstreamGraphs(predictor), Thresholds.read()
    for done, (name, module) in enumerate(build_modules(predictor, recipe).items()):
        advance(done, len(graphs), name)
        (spec, path), precision = graphs[name], recipe.of(name)
        opset = FUSED_OPSET if is_fused(name, recipe) else PLAIN_OPSET
        trace(module, spec, path, opset=opset, compact=precision.told == "float32")
        require_parity(check_file(path, spec, upstream, limits=thresholds.traced(precision.dtype)))


def quantize_graphs(
    graphs: Specs, model: ModelSpec, recipe: Recipe, data: CalibrationData, advance: Callable[[int, int, str], None]
) -> None:
    """Calibrate and quantise the graphs that a recipe wants in INT8, each checked against what it was before.

    Raises:
        ModelError: calibration lacks pictures, or the recipe names layers that are not there.
        ParityError: a graph differs from what it was by more than its tolerance.
    """
    from trt_track.parity.quantization_check import check_quantized

    networks = [name for name in graphs if recipe.of(name).quantize]
    tracked = [name for name in networks if name != "image_encoder"]
    calibrations = data.of_tracking(graphs, model, tracked) if tracked else {}
    if "image_encoder" in networks:
        calibrations["image_encoder"] = data.of_frames((model.image_size, model.image_size))
    for name, calibration in calibrations.items():
        path = graphs[name][1]
        before = quantize_file(path, recipe, name, calibration, advance)
        require_parity(check_quantized(name, before, path, calibration.feeds[0]))
        before.unlink()


def quantize_file(path: Path, recipe: Recipe, network: str, calibration: Calibration, advance: Callable[[int, int, str], None]) -> Path:
    """Calibrate and quantise a network of one ONNX file in place; return where it lies as it was before."""
    from trt_track.export.quantization import activations_in, quantize_graph

    activations = activations_in(path, recipe, network)
    ranges = calibration.ranges(path, activations, on_progress=lambda done, total: advance(done, total, f"{network}, calibration"))
    before = path.rename(path.with_name(f"{path.stem}.float.onnx"))
    quantize_graph(before, path, recipe, network, ranges)
    return before


def require_parity(rows: list[Deviation]) -> None:
    """Refuse rows that miss their tolerance.

    Raises:
        ParityError: names the worst one.
    """
    failed = [row for row in rows if not row.passed]
    if failed:
        worst = max(failed, key=lambda row: row.relative / row.tolerance)
        raise ParityError(
            f"{worst.case}, output {worst.output!r}: largest error {worst.absolute:.3g} at {worst.where} is {worst.relative:.2e} "
            f"of the range, the tolerance is {worst.tolerance:g}: no bundle was written"
        )


def load_weights(predictor: nn.Module, checkpoint: Path | None, seed: int | None) -> tuple[str, str | None]:
    """Fill a predictor with weights; return what the manifest says of their source: a name, and a SHA-256 where it is a file."""
    from trt_track.export.checkpoint import load_checkpoint
    from trt_track.export.random_weights import random_checkpoint

    if checkpoint is not None:
        return checkpoint.name, load_checkpoint(predictor, checkpoint)
    seed = 0 if seed is None else seed
    random_checkpoint(predictor, seed)
    return f"random weights, seed {seed}", None


@contextmanager
def export_extra() -> Iterator[None]:
    """Turn a missing PyTorch or sam2 into advice, and keep PyTorch's threads from waiting in a loop that takes the others' cores.

    PyTorch reads that from the environment when it is imported; processes that are started later get the user's own.

    Raises:
        ModelError: a package of the extra `export` is missing.
    """
    given = os.environ.get(_WAITING)
    os.environ.setdefault(_WAITING, "PASSIVE")
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("trt_track"):
            raise
        raise ModelError(f"{error.name} is missing: pip install 'trt-track[export]'") from error
    finally:
        if given is None:
            os.environ.pop(_WAITING, None)


def _description(predictor: Any, spec: ModelSpec, recipe: Recipe, source: tuple[str, str | None], calibration: str) -> Description:
    from trt_track.engines.manifest import Description
    from trt_track.export.graphs import is_fused
    from trt_track.export.tracing import FUSED_OPSET, PLAIN_OPSET
    from trt_track.specs import GRAPHS

    return Description(
        model=spec,
        precision=recipe.name,
        dtypes={graph: recipe.of(graph).told for graph in GRAPHS},
        opset=max(FUSED_OPSET if is_fused(graph, recipe) else PLAIN_OPSET for graph in GRAPHS),
        source=source[0],
        source_sha256=source[1],
        tools={package: metadata.version(package) for package in ("torch", "onnx", "onnxscript", "sam2")},
        fill_hole_area=int(predictor.fill_hole_area),
        recipe=recipe.to_json(),
        calibration=calibration,
    )
