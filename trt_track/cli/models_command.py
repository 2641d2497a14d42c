"""`trt-track models`: the catalogue, and downloads into the user's cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from trt_track.errors import ModelError

if TYPE_CHECKING:
    from rich.table import Table

models = typer.Typer(help="List the official models, download one.", no_args_is_help=True, rich_markup_mode=None)

PICO_PARAMETERS: Final = 6_421_458
"""Trainable weights of the embedded tracker."""
DETECTOR_PARAMETERS: Final = 3_704_347
"""Those of the embedded detector."""

Name = Annotated[str, typer.Argument(help="A model's name, as `trt-track models list` shows it.")]
Hash = Annotated[str | None, typer.Option("--sha256", help="The hash to trust, for a model whose hash the catalogue does not state.")]


@models.command("list")
def list_models() -> None:
    """List the official models and the embedded ones, trackers and detectors: parameters, licence, and what of them is here already."""
    from rich.console import Console
    from rich.table import Table

    from trt_track.export.catalogue import CATALOGUE
    from trt_track.export.download import cache_folder
    from trt_track.models import PICO

    table = Table("model", "parameters", "download", "licence", "SHA-256", "in the cache", box=None, pad_edge=False)
    for name, model in CATALOGUE.items():
        size = f"{model.size_bytes / 1e6:.0f} MB" if model.size_bytes else "unknown"
        cached = "yes" if (cache_folder() / model.file_name).is_file() else "no"
        table.add_row(name, f"{model.parameters / 1e6:.0f} M", size, model.licence, model.sha256 or "unknown", cached)
    table.add_row(PICO.name, f"{PICO_PARAMETERS / 1e6:.0f} M", "none", "Apache-2.0", _pico_sha256() or "unknown", "embedded")
    console = Console(width=160, markup=False, highlight=False)
    console.print(table)
    console.print()
    console.print(_detector_table())


def _detector_table() -> Table:
    """Return the official detectors, those of the user's own that are in the library, and the embedded one."""
    from rich.table import Table

    from trt_track.cli.detector_choice import OFFICIAL_DETECTORS
    from trt_track.engines.library import library_detectors
    from trt_track.engines.manifest import MANIFEST
    from trt_track.models import GROUNDING_DINO_PICO, GROUNDING_DINO_PICO_BUNDLE

    exported: dict[str, list[str]] = {name: [] for name in OFFICIAL_DETECTORS}
    for one in library_detectors():
        exported.setdefault(one.model, []).append(f"{one.frame_hw[0]}x{one.frame_hw[1]} {one.precision}")
    table = Table("detector", "parameters", "download", "licence", "in the library", box=None, pad_edge=False)
    for name, forms in exported.items():
        weights = OFFICIAL_DETECTORS.get(name)
        facts = (f"{weights / 1e6:.0f} M", "by the export", "Apache-2.0") if weights else ("your own", "none", "your own")
        table.add_row(name, *facts, ", ".join(forms) or f"no: trt-track export-detector {name}")
    if (GROUNDING_DINO_PICO_BUNDLE / MANIFEST).is_file():
        table.add_row(GROUNDING_DINO_PICO.name, f"{DETECTOR_PARAMETERS / 1e6:.0f} M", "none", "Apache-2.0", "embedded")
    return table


def _pico_sha256() -> str | None:
    """Return what the manifest says of the weights that the embedded bundle was exported from."""
    from trt_track.engines.manifest import read_manifest
    from trt_track.models import PICO_BUNDLE

    return read_manifest(PICO_BUNDLE).description.source_sha256


@models.command("pull")
def pull_model(name: Name, sha256: Hash = None) -> None:
    """Download a checkpoint into the cache, resuming where an earlier try stopped, and check its SHA-256."""
    from trt_track.cli.progress import progress_bar
    from trt_track.export.catalogue import find_model
    from trt_track.export.download import pull
    from trt_track.models import PICO

    if name == PICO.name:
        raise ModelError(f"{name} comes with the package, there is nothing to pull: use it with --model {name}")
    model = find_model(name)
    with progress_bar(name, unit="bytes") as advance:
        path = pull(model, sha256=sha256, on_progress=advance)
    typer.echo(path)
