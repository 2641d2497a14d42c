"""`trt-track build`: a bundle's graphs -> TensorRT engines, kept in the bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trt_track.errors import EngineBuildError

Folder = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder.")]
Backend = Annotated[str, typer.Option(help="tensorrt-rtx compiles ahead of time on any machine; tensorrt needs the GPU that it is for.")]
Target = Annotated[str, typer.Option(help="sm75, sm80, sm86, sm89, sm120, sm121 in any number with commas between, `all`, or `local`.")]
Objects = Annotated[int, typer.Option(min=1, max=64, help="The largest batch of objects to build for.")]
Frames = Annotated[
    int,
    typer.Option(
        min=1,
        max=16,
        help="Frames that one call of an image encoder or a detector takes: clips are then encoded so many frames at once, except with "
        "--latency, and frames to detect on are looked at together.",
    ),
]


def build(
    folder: Folder, backend: Backend = "tensorrt-rtx", target: Target = "local", max_objects: Objects = 16, frames: Frames = 1
) -> None:
    """Compile a bundle's graphs to TensorRT engines; what is up to date is left as it is."""
    from rich.console import Console
    from rich.table import Table

    from trt_track.cli.progress import progress_bar
    from trt_track.engines.bundle import Bundle
    from trt_track.engines.tensorrt_builder import build_engines, refuse_bfloat16
    from trt_track.specs import Limits

    bundle = Bundle.open(folder)
    targets = list(dict.fromkeys(name.strip() for name in target.split(",") if name.strip()))
    if not targets:
        raise EngineBuildError("--target names nothing to build for: choose from sm75, sm80, sm86, sm89, sm120, sm121, all and local")
    refuse_bfloat16(bundle, targets)  # before the first of them is built
    limits = Limits(objects=max_objects, frames=frames)
    table = Table("target", "graph", "seconds", "MB", box=None, pad_edge=False)
    for name in targets:
        with progress_bar(name) as advance:
            records = build_engines(bundle, flavour=backend, targets=[name], limits=limits, on_progress=advance)
        for record in records:
            table.add_row(name, record.graph, f"{record.build_s:.1f}", f"{record.engine.bytes / 1e6:.1f}")
    Console(width=100, markup=False, highlight=False).print(table)
