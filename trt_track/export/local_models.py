"""What belongs to a model's name on this machine: its configuration and its weights, official or embedded."""

from __future__ import annotations

from pathlib import Path

from trt_track.errors import ModelError
from trt_track.export.catalogue import CATALOGUE, find_model
from trt_track.export.download import cache_folder
from trt_track.models import PICO, PICO_CONFIG, PICO_WEIGHTS


def config_of(name: str) -> str | Path:
    """Return what `build_model` takes for a name.

    Raises:
        ModelError: there is no such model.
    """
    if name == PICO.name:
        return PICO_CONFIG
    try:
        return find_model(name).name
    except ModelError as error:
        raise ModelError(f"{error}; of a model of your own, give the YAML file with --config") from error


def weights_of(name: str) -> Path:
    """Return the weights that belong to a name: in the cache, or those of the embedded model.

    Raises:
        ModelError: there are none; says how to get them.
    """
    if name == PICO.name:
        return PICO_WEIGHTS
    if name not in CATALOGUE:
        raise ModelError(f"no weights for {name}: give --checkpoint FILE")
    path = cache_folder() / CATALOGUE[name].file_name
    if not path.is_file():
        raise ModelError(f"no weights of {name} in the cache: run trt-track models pull {name}, or give --checkpoint FILE")
    return path
