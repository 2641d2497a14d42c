"""`trt-track export`: PyTorch -> a bundle of ONNX graphs, each checked against upstream before the bundle appears."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from trt_track.errors import ModelError, ParityError
from trt_track.specs import PRECISIONS

if TYPE_CHECKING:
    from torch import nn

    from trt_track.engines.manifest import Description
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
Precision = Annotated[str, typer.Option(help="fp32 for ONNX Runtime on the CPU, fp16 for TensorRT.")]
Out = Annotated[Path | None, typer.Option(help="The bundle's folder; by default in the library, where `run --model` finds it.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the bundle that is there.")]


def export(  # noqa: PLR0913, PLR0917 - the command's options
    model: Model,
    checkpoint: Checkpoint = None,
    random_weights: Seed = None,
    config: Config = None,
    size: Size = None,
    precision: Precision = "fp32",
    out: Out = None,
    overwrite: Overwrite = False,
) -> None:
    """Export a SAM 2 model as a bundle of six ONNX graphs."""
    if precision not in PRECISIONS:
        raise ModelError(f"precision {precision!r} is unknown: choose one of {', '.join(PRECISIONS)}")
    with export_extra():
        from trt_track.export.local_models import config_of, weights_of
        from trt_track.export.upstream import build_model, model_spec
    if checkpoint is not None and random_weights is not None:
        raise ModelError("give either --checkpoint or --random-weights, not both")
    own = config_of(model) if config is None else config
    source = None if random_weights is not None else checkpoint or weights_of(model)
    predictor = build_model(own, size)
    spec = model_spec(predictor, model)
    description = _description(predictor, spec, precision, load_weights(predictor, source, random_weights))
    from trt_track.engines.library import bundle_folder

    target = out or bundle_folder(model, spec.image_size, precision)
    write_bundle(predictor, description, target, overwrite=overwrite)
    typer.echo(target)


def write_bundle(predictor: nn.Module, description: Description, target: Path, *, overwrite: bool) -> None:
    """Trace, check and seal every graph of a model.

    Raises:
        ParityError: a graph differs from upstream by more than its tolerance; no bundle is written.
        BundleError: the folder is taken.
    """
    from trt_track.cli.progress import progress_bar
    from trt_track.engines.bundle import Bundle
    from trt_track.export.graphs import build_modules, is_fused
    from trt_track.export.tracing import FUSED_OPSET, PLAIN_OPSET, trace
    from trt_track.export.upstream import model_spec
    from trt_track.export.upstream_graphs import UpstreamGraphs
    from trt_track.parity.graph_check import check_file
    from trt_track.specs import graph_specs

    precision, model = description.precision, model_spec(predictor, description.model.name)
    specs = graph_specs(model, precision)
    upstream = UpstreamGraphs(predictor)
    with Bundle.create(target, description, overwrite=overwrite) as draft, progress_bar(model.name) as advance:
        modules = build_modules(predictor, precision)
        for done, (name, module) in enumerate(modules.items()):
            advance(done, len(modules), name)
            path = draft.onnx_path(name)
            opset = FUSED_OPSET if is_fused(name, precision) else PLAIN_OPSET
            trace(module, specs[name], path, opset=opset, compact=precision == "fp32")
            require_parity(check_file(path, specs[name], upstream, precision=precision))
            draft.add(specs[name])
        advance(len(modules), len(modules), "checked against upstream")


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
            f"of the range, the tolerance is {worst.tolerance:.0e}: no bundle was written"
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


def _description(predictor: Any, spec: ModelSpec, precision: str, source: tuple[str, str | None]) -> Description:
    from trt_track.engines.manifest import Description
    from trt_track.export.graphs import graph_dtype
    from trt_track.export.tracing import FUSED_OPSET, PLAIN_OPSET
    from trt_track.specs import GRAPHS

    return Description(
        model=spec,
        precision=precision,
        dtypes={graph: str(graph_dtype(graph, precision)).removeprefix("torch.") for graph in GRAPHS},
        opset=FUSED_OPSET if precision == "fp16" else PLAIN_OPSET,
        source=source[0],
        source_sha256=source[1],
        tools={package: metadata.version(package) for package in ("torch", "onnx", "onnxscript", "sam2")},
        fill_hole_area=int(predictor.fill_hole_area),
    )
