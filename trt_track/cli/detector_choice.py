"""Which detector a command uses, and what it looks for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from trt_track.errors import BundleError, PromptError

if TYPE_CHECKING:
    from trt_track.runtime.detections import Detector

_BEST_FIRST: Final = ("grounding-dino-base", "grounding-dino-tiny")


@dataclass(frozen=True, slots=True)
class DetectorOptions:
    """What the user said of the detector."""

    text: str | None = None
    """What a Grounding DINO looks for."""
    detector: str | None = None
    """A folder, or a name in the library."""
    classes: str | None = None
    """Which classes of another detector, with commas between."""
    box_threshold: float | None = None
    text_threshold: float | None = None

    @property
    def asked(self) -> bool:
        """Whether there is anything to detect."""
        return self.text is not None or self.detector is not None

    def arguments(self) -> list[str]:
        """Return the options as `trt-track detect` takes them."""
        pairs = {
            "--text": self.text,
            "--detector": self.detector,
            "--classes": self.classes,
            "--box-threshold": self.box_threshold,
            "--text-threshold": self.text_threshold,
        }
        return [part for name, value in pairs.items() if value is not None for part in (name, str(value))]

    def open(self, backend: str, threads: int | None) -> Detector:
        """Load the detector.

        Raises:
            PromptError: nothing to look for, or what cannot be looked for with this detector.
            BundleError: there is no such detector.
        """
        from trt_track.engines.manifest import MANIFEST

        if not self.asked:
            raise PromptError('nothing to detect: say what with --text "person. dog.", or name a detector with --detector FOLDER')
        folder = self._folder()
        if not (folder / MANIFEST).is_file():
            return self._open_yolo(folder, threads)
        from trt_track.engines.bundle import Bundle
        from trt_track.runtime.grounding_dino import BOX_THRESHOLD, TEXT_THRESHOLD, GroundingDino, TextQuery

        bundle = Bundle.open(folder)
        name = bundle.detector.name
        if self.text is None or self.classes is not None:
            raise PromptError(f'{name} looks for what a text names: give --text "person. dog.", not --classes')
        query = TextQuery(self.text, self.box_threshold or BOX_THRESHOLD, self.text_threshold or TEXT_THRESHOLD)
        return GroundingDino.open(bundle, query, backend=backend, threads=threads)

    def _open_yolo(self, folder: Path, threads: int | None) -> Detector:
        from trt_track.runtime.yolo_detector import open_yolo_detector

        if self.text is not None or self.text_threshold is not None:
            raise PromptError(f"{folder} is no detector for text prompts: choose classes of it with --classes person,dog")
        names = [name.strip() for name in (self.classes or "").split(",") if name.strip()]
        return open_yolo_detector(folder, classes=names, threshold=self.box_threshold, threads=threads)

    def _folder(self) -> Path:
        """Return the folder of the detector that was named, or of the best one of the library.

        Raises:
            BundleError: there is none.
        """
        from trt_track.engines.library import library_folder
        from trt_track.engines.manifest import MANIFEST

        if self.detector is not None and Path(self.detector).is_dir():
            return Path(self.detector)
        for name in _BEST_FIRST if self.detector is None else (self.detector,):
            found = sorted(folder for folder in library_folder().glob(f"{name}-*") if (folder / MANIFEST).is_file())
            if found:
                return min(found, key=lambda folder: folder.name.endswith("fp16"))
        wanted = self.detector or "a detector for text prompts"
        advice = "trt-track export-detector grounding-dino-tiny makes one"
        raise BundleError(f"{wanted} is neither a folder nor in {library_folder()}: {advice}")
