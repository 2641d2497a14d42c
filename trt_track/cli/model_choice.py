"""Which bundle a command uses: the one that was named, else the best that is there, and how to get a better one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from trt_track.errors import BundleError

if TYPE_CHECKING:
    from trt_track.engines.backends import Machine
    from trt_track.engines.bundle import Bundle
    from trt_track.engines.library import LibraryBundle


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """What the user said of the model."""

    bundle: Path | None = None
    model: str | None = None
    size: int | None = None
    precision: str | None = None

    def check(self) -> None:
        """Refuse options that contradict each other.

        Raises:
            BundleError: says which.
        """
        if self.bundle is not None and self.model is not None:
            raise BundleError("give either --bundle FOLDER or --model NAME, not both")
        if self.model is None and (self.size is not None or self.precision is not None):
            raise BundleError("--size and --precision choose among the bundles of a model: name it with --model NAME")

    def check_there(self) -> None:
        """Look that what was named is there, without a look at the machine, whose libraries take memory.

        Raises:
            BundleError: there is no such bundle, it is damaged, or it is a detector's.
        """
        from trt_track.engines.backends import Machine
        from trt_track.engines.library import find_bundle

        if self.bundle is not None:
            _tracker(self.bundle)
        elif self.model is not None:
            unseen = Machine({}, {}, None, "nobody looked")
            _tracker(find_bundle(self.model, image_size=self.size, precision=self.precision, machine=unseen))

    def open(self, backend: str, machine: Machine) -> Bundle:
        """Open the bundle that was named; where none was, choose one and say which in one line on stderr.

        Raises:
            BundleError: there is no such bundle, it is damaged, or it is a detector's.
        """
        from trt_track.engines.bundle import Bundle
        from trt_track.engines.library import best_bundle, find_bundle

        self.check()
        if self.bundle is not None:
            return _tracker(self.bundle)
        if self.model is not None:
            found = find_bundle(self.model, image_size=self.size, precision=self.precision, backend=backend, machine=machine)
            return Bundle.open(found)
        best = best_bundle(backend=backend, machine=machine)
        opened = Bundle.open(best.folder)
        typer.echo(f"model: {describe_choice(best)}", err=True)
        return opened


def _tracker(folder: Path) -> Bundle:
    """Open a bundle that can track.

    Raises:
        BundleError: it cannot, or is damaged.
    """
    from trt_track.engines.bundle import Bundle

    opened = Bundle.open(folder)
    _ = opened.model  # a detector's has none
    return opened


def describe_choice(best: LibraryBundle) -> str:
    """Say in one line which bundle was chosen and how to get a better one."""
    from trt_track.engines.library import EMBEDDED

    embedded = best.model == EMBEDDED
    what = f"{best.image_size} px, a small demonstration model" if embedded else f"{best.image_size} px, {best.precision}"
    advice = _advice(best)
    return f"{best.model} ({what}){f'; {advice}' if advice else ''}"


def _advice(best: LibraryBundle) -> str:
    """Say how to get a better model than the one that was chosen, by what is nearest at hand; nothing where it is the best one."""
    from trt_track.engines.library import EMBEDDED, OFFICIAL, library_bundles

    better = OFFICIAL[: OFFICIAL.index(best.model)] if best.model in OFFICIAL else OFFICIAL
    exported = {bundle.model for bundle in library_bundles()}
    cached = [name for name in better if name not in exported and _is_cached(name)]
    if cached:
        return f"weights of {cached[0]} are in the cache: trt-track export {cached[0]} makes it usable"
    if best.model != EMBEDDED:
        return "for a better one: trt-track models list" if better else ""
    passed_over = [name for name in better if name in exported]
    if passed_over:  # or it would have been chosen
        return f"{passed_over[0]} is there in fp16 alone, without engines for this machine: trt-track export {passed_over[0]} makes fp32"
    name = "sam2.1-hiera-tiny"
    return f"for a better one: pip install 'trt-track[export]' && trt-track models pull {name} && trt-track export {name}"


def _is_cached(name: str) -> bool:
    from trt_track.export.catalogue import CATALOGUE
    from trt_track.export.download import cache_folder

    return (cache_folder() / CATALOGUE[name].file_name).is_file()
