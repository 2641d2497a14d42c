"""The user's library: where exported bundles lie when no folder is named."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

import platformdirs

from trt_track.engines.manifest import MANIFEST
from trt_track.errors import BundleError
from trt_track.specs import PRECISIONS

CACHE_VARIABLE: Final = "TRT_TRACK_CACHE"


def library_folder() -> Path:
    """Return the folder of all bundles: below `TRT_TRACK_CACHE` where that is set, else below the user's cache folder."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return (Path(chosen) if chosen else Path(platformdirs.user_cache_dir("trt-track"))) / "bundles"


def bundle_folder(model: str, image_size: int, precision: str) -> Path:
    """Return where the bundle of a model belongs in the library."""
    return library_folder() / f"{model}-{image_size}-{precision}"


def find_bundle(model: str | Path, *, image_size: int | None = None, precision: str | None = None) -> Path:
    """Return a bundle's folder.

    Args:
        model: the folder itself, or the name of a model in the library.
        image_size: which size, where the library has several; 1024 first, then the largest.
        precision: which precision; by default in the order of `specs.PRECISIONS`.

    Raises:
        BundleError: there is none; the message says how to make one.
    """
    if (Path(model) / MANIFEST).is_file():
        return Path(model)
    name = str(model)
    found = [
        (wanted, size, folder)
        for wanted, kind in enumerate(PRECISIONS)
        for folder in library_folder().glob("*")
        if precision in {None, kind} and (size := _size(folder, name, kind)) and image_size in {None, size}
    ]
    if not found:
        raise BundleError(
            f"no bundle of {name!r} in {library_folder()}: run trt-track models pull {name} and trt-track export {name}, "
            "or name a folder with --bundle"
        )
    return min(found, key=lambda item: (item[1] != 1024, -item[1], item[0]))[2]


def _size(folder: Path, name: str, precision: str) -> int:
    """Read the image size from the name of a library folder; 0 where it is another model's."""
    found = re.fullmatch(f"{re.escape(name)}-([0-9]+)-{precision}", folder.name)
    return int(found[1]) if found and (folder / MANIFEST).is_file() else 0
