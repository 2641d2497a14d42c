"""An FP32 bundle as the reference of a drift run, a step for every frame."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Self

from trt_track.engines.bundle import Bundle
from trt_track.errors import ModelError
from trt_track.parity.drift import Seen, seen_in
from trt_track.runtime.results import FrameResult
from trt_track.runtime.tracker import Video


def open_reference(folder: Path, bundle: Bundle) -> Bundle:
    """Open the FP32 bundle that another one is compared with.

    Raises:
        ModelError: it is not in FP32, or was made of another model or other weights.
        BundleError: it is no bundle.
    """
    reference = Bundle.open(folder)
    theirs, ours = reference.manifest.description, bundle.manifest.description
    if set(theirs.dtypes.values()) != {"float32"}:
        raise ModelError(f"--reference {folder} computes in {theirs.precision}: give an FP32 bundle of the same weights")
    if reference.model.image_size != bundle.model.image_size:
        raise ModelError(
            f"--reference {folder} is of {reference.model.image_size} px, {bundle.folder} of {bundle.model.image_size} px: "
            f"export it with --size {bundle.model.image_size}"
        )
    for what in ("source_sha256", "source", "model"):
        if getattr(theirs, what) != getattr(ours, what):
            raise ModelError(f"--reference {folder}: {what} is {getattr(theirs, what)}, that of {bundle.folder} is {getattr(ours, what)}")
    return reference


class BundleReference:
    """Another bundle's tracker, a step for every frame that is asked for. A context manager."""

    def __init__(self, video: Video) -> None:
        """Use a clip with the same prompts."""
        self._video = video
        self._results: Iterator[FrameResult] = iter(())
        self._open = ExitStack()

    def __call__(self, frame: int) -> dict[int, Seen]:
        """Return what it sees on the next frame, which must be this one."""
        result = next(self._results, None)
        if result is None or result.frame_index != frame:
            raise ValueError(f"the reference is at frame {None if result is None else result.frame_index}, not {frame}")
        return seen_in(result)

    def __enter__(self) -> Self:
        self._results = self._open.enter_context(closing(self._video.propagate(keep_logits=True)))
        return self

    def __exit__(self, *exc: object) -> None:
        self._open.close()
