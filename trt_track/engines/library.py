"""The user's library: where exported bundles lie when no folder is named, and which of them is meant."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import platformdirs

from trt_track.engines.backends import AUTO, Machine, inspect_machine, runs_on_gpu
from trt_track.engines.bundle import Bundle
from trt_track.engines.manifest import MANIFEST, read_manifest
from trt_track.errors import BundleError
from trt_track.models import PICO, PICO_BUNDLE
from trt_track.recipe import RECIPE_NAME, recipe_rank

CACHE_VARIABLE: Final = "TRT_TRACK_CACHE"
EMBEDDED: Final = PICO.name
"""Name of the model that the package carries."""
OFFICIAL: Final = tuple(f"{family}-hiera-{size}" for size in ("large", "base-plus", "small", "tiny") for family in ("sam2.1", "sam2"))
"""The official models, the best first: a larger one before a smaller one, of the same size the later one."""


@dataclass(frozen=True, slots=True)
class LibraryBundle:
    """A bundle by what the name of its folder says."""

    model: str
    image_size: int
    precision: str
    folder: Path


@dataclass(frozen=True, slots=True)
class LibraryDetector:
    """A detector's bundle by what the name of its folder says."""

    model: str
    frame_hw: tuple[int, int]
    precision: str
    folder: Path


def cache_folder() -> Path:
    """Return the folder of everything that can be made again: `TRT_TRACK_CACHE` where that is set, else the user's cache folder."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("trt-track"))


def library_folder() -> Path:
    """Return the folder of all bundles, in `cache_folder`."""
    return cache_folder() / "bundles"


def bundle_folder(model: str, image_size: int, precision: str) -> Path:
    """Return where the bundle of a model belongs in the library."""
    return library_folder() / f"{model}-{image_size}-{precision}"


def detector_folder(model: str, frame_hw: tuple[int, int], precision: str) -> Path:
    """Return where the bundle of a detector belongs in the library."""
    return library_folder() / f"{model}-{frame_hw[0]}x{frame_hw[1]}-{precision}"


def library_detectors() -> list[LibraryDetector]:
    """Return every detector of the library, by name; of one model the better first: FP32 before FP16, then the larger frame."""
    pattern = re.compile(f"(.+)-([0-9]+)x([0-9]+)-({RECIPE_NAME})")
    found = [
        LibraryDetector(parts[1], (int(parts[2]), int(parts[3])), parts[4], folder)
        for folder in library_folder().glob("*")
        if (parts := pattern.fullmatch(folder.name)) and (folder / MANIFEST).is_file()
    ]
    return sorted(found, key=lambda one: (one.model, recipe_rank(one.precision), -one.frame_hw[0] * one.frame_hw[1]))


def library_bundles() -> list[LibraryBundle]:
    """Return every tracker's bundle of the library, and the embedded one last."""
    return [*_exported(), *_embedded()]


def find_bundle(
    model: str | Path,
    *,
    image_size: int | None = None,
    precision: str | None = None,
    backend: str = AUTO,
    machine: Machine | None = None,
) -> Path:
    """Return a bundle's folder.

    Args:
        model: the folder itself, or the name of a model in the library, or `pico`.
        image_size: which size, where the library has several.
        precision: which precision, where the library has several.
        backend: what is to run it. One with engines that the backend (`auto`: any backend) can use here comes first; then 1024 before
            the largest size; then the order of `specs.PRECISIONS`, other recipes last.
        machine: what `inspect_machine` found; it looks when a bundle has engines and this is None.

    Raises:
        BundleError: there is none; the message says how to make one.
    """
    if (Path(model) / MANIFEST).is_file():
        return Path(model)
    name = str(model)
    found = [
        bundle
        for bundle in library_bundles()
        if bundle.model == name and image_size in {None, bundle.image_size} and precision in {None, bundle.precision}
    ]
    if not found:
        raise BundleError(_explain_absence(name))
    engines = _Engines(backend, machine)
    return min(found, key=lambda bundle: (not engines.usable(bundle), *_order(bundle))).folder


def best_bundle(*, backend: str = AUTO, machine: Machine | None = None) -> LibraryBundle:
    """Return the bundle to use where no model is named: the best official model of the library that runs well here, else `pico`.

    Bundles with engines that can be used here come first, whatever their model; without engines only FP32 runs well.

    Args:
        backend: what is to run it; see `find_bundle`.
        machine: what `inspect_machine` found; see `find_bundle`.

    Raises:
        BundleError: there is none, not even the embedded one.
    """
    engines = _Engines(backend, machine)
    ranked = [
        ((bundle.model == EMBEDDED, not usable, _rank(bundle.model), *_order(bundle)), bundle)
        for bundle in library_bundles()
        if bundle.model in {*OFFICIAL, EMBEDDED} and ((usable := engines.usable(bundle)) or bundle.precision == "fp32")
    ]
    if not ranked:
        raise BundleError("name the model: this installation lacks the embedded one, give --bundle FOLDER or --model NAME")
    return min(ranked, key=lambda item: item[0])[1]


class _Engines:
    """Knows which bundles have engines for this machine, and looks at the machine once, when the first bundle has some."""

    def __init__(self, backend: str, machine: Machine | None) -> None:
        self.backend, self.machine = backend, machine

    def usable(self, bundle: LibraryBundle) -> bool:
        """Tell whether the backend can use engines of the bundle here; a damaged bundle has none."""
        if not (bundle.folder / "engines").is_dir():
            return False
        self.machine = self.machine or inspect_machine()
        try:
            return runs_on_gpu(Bundle.open(bundle.folder), self.machine, self.backend)
        except BundleError:
            return False


def _order(bundle: LibraryBundle) -> tuple[bool, int, int]:
    """Order the bundles of one model."""
    return bundle.image_size != 1024, -bundle.image_size, recipe_rank(bundle.precision)


def _rank(model: str) -> int:
    return OFFICIAL.index(model) if model in OFFICIAL else len(OFFICIAL)


def _exported() -> Iterator[LibraryBundle]:
    pattern = re.compile(f"(.+)-([0-9]+)-({RECIPE_NAME})")
    for folder in sorted(library_folder().glob("*")):
        if (parts := pattern.fullmatch(folder.name)) and (folder / MANIFEST).is_file():
            yield LibraryBundle(parts[1], int(parts[2]), parts[3], folder)


def _embedded() -> Iterator[LibraryBundle]:
    if (PICO_BUNDLE / MANIFEST).is_file():
        embedded = Bundle(PICO_BUNDLE, read_manifest(PICO_BUNDLE))
        yield LibraryBundle(EMBEDDED, embedded.model.image_size, embedded.manifest.description.precision, PICO_BUNDLE)


def _explain_absence(name: str) -> str:
    if name == EMBEDDED:
        return f"no bundle of {name!r} of that size and precision: the embedded one is fp32, trt-track export {name} makes others"
    return (
        f"no bundle of {name!r} in {library_folder()}: run trt-track models pull {name} and trt-track export {name}, "
        "or name a folder with --bundle"
    )
