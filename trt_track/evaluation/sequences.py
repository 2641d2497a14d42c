"""Where the frames and the annotations of sequences lie: a folder in DAVIS form, or one clip with a folder of masks beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from trt_track.errors import VideoError

VOID: Final = 255
"""Value of pixels that belong to nobody and are not judged."""
_CLIPS: Final = (".mp4", ".mkv", ".mov", ".avi", ".webm")
_PICTURES: Final = (".jpg", ".jpeg", ".png")
_FRAMES, _MASKS, _SETS = "JPEGImages", "Annotations", "ImageSets"


@dataclass(frozen=True, slots=True)
class AnnotatedSequence:
    """One sequence."""

    name: str
    clip: Path
    """A video file or a folder of frames."""
    masks: dict[int, Path]
    """Palette images by the place of their frame in the clip, from 0."""

    def mask(self, frame: int, size_hw: tuple[int, int] | None = None) -> npt.NDArray[np.uint8]:
        """Read an annotation (H, W) uint8: the object's id at each pixel, 0 for none, `VOID` for pixels that are not judged.

        Args:
            frame: one that has an annotation.
            size_hw: what its size must be; None for any.

        Raises:
            VideoError: the file is damaged, no palette or grey image, or of another size.
        """
        path = self.masks[frame]
        try:
            with Image.open(path) as image:
                ids = np.asarray(image)
        except (OSError, SyntaxError, ValueError) as error:
            raise VideoError(f"{path} cannot be read as a mask: {error}") from error
        if ids.ndim != 2 or ids.dtype != np.uint8:
            raise VideoError(f"{path} is no mask: expected a palette image or a grey one of 8 bits, got {ids.dtype}{list(ids.shape)}")
        if size_hw is not None and ids.shape != size_hw:
            raise VideoError(f"{path} has {ids.shape[1]} x {ids.shape[0]} pixels, its frames {size_hw[1]} x {size_hw[0]}")
        return ids


def find_sequences(folder: Path, *, image_set: str | None = None, names: Sequence[str] = ()) -> list[AnnotatedSequence]:
    """Find the sequences of a folder.

    Args:
        folder: with `JPEGImages/480p`, `Annotations/480p` and `ImageSets` (480p, or the one resolution that is there), or with a clip or a
            folder `frames` and a folder `masks`.
        image_set: which list of `ImageSets`, such as "2017/val"; by default all sequences that have annotations.
        names: only these; by default all.

    Raises:
        VideoError: it is no such folder, or something that was asked for is not in it.
    """
    if (folder / _MASKS).is_dir():
        found = _davis(folder, image_set)
    elif (folder / "masks").is_dir() and image_set is None:
        found = {folder.resolve().name: _single(folder)}
    else:
        raise VideoError(f"{folder} holds no sequences: expected {_FRAMES}/480p and {_MASKS}/480p, or a clip and a folder `masks`")
    for name in names:
        if name not in found:
            raise VideoError(f"{folder} has no sequence {name!r}: it has {', '.join(found)}")
    return [found[name] for name in names or found]


def _davis(folder: Path, image_set: str | None) -> dict[str, AnnotatedSequence]:
    frames, masks = (_resolution(folder / kind) for kind in (_FRAMES, _MASKS))
    names = sorted(path.name for path in masks.iterdir() if path.is_dir()) if image_set is None else _listed(folder, image_set)
    if not names:
        raise VideoError(f"{masks} holds no sequences")
    return {name: _sequence(name, _existing(frames / name), _existing(masks / name)) for name in names}


def _resolution(folder: Path) -> Path:
    """Return the folder of 480p, or the only one that is there."""
    inside = sorted(path for path in folder.glob("*") if path.is_dir())
    chosen = [path for path in inside if path.name == "480p"] or inside
    if len(chosen) != 1:
        raise VideoError(f"{folder}: expected a folder 480p, or a single other one; it has {', '.join(p.name for p in inside) or 'none'}")
    return chosen[0]


def _listed(folder: Path, image_set: str) -> list[str]:
    """Read the names of a set: a line each, or in the form of 2016 the path of a frame and of its mask in a line."""
    path = folder / _SETS / f"{image_set}.txt"
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        known = sorted(file.relative_to(folder / _SETS).with_suffix("").as_posix() for file in (folder / _SETS).rglob("*.txt"))
        raise VideoError(f"no image set {path}: {error.strerror}; there are {', '.join(known) or 'none'}") from error
    entries = [line.split()[0] for line in lines if line.strip()]
    return list(dict.fromkeys(Path(entry).parent.name if "/" in entry else entry for entry in entries))


def _single(folder: Path) -> AnnotatedSequence:
    clips = sorted(path for path in folder.iterdir() if path.suffix.lower() in _CLIPS)
    clips += [folder / name for name in ("frames", "images") if (folder / name).is_dir()]
    if len(clips) != 1:
        told = ", ".join(path.name for path in clips) or "none"
        raise VideoError(f"{folder}: expected one video file or a folder `frames` beside `masks`; it has {told}")
    return _sequence(folder.resolve().name, clips[0], folder / "masks")


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise VideoError(f"{folder} is missing")
    return folder


def _sequence(name: str, clip: Path, folder: Path) -> AnnotatedSequence:
    """Put masks to frames: to those of the same number where frames are files, which need not begin at 0 nor be without gaps."""
    masks = {int(path.stem): path for path in sorted(folder.glob("*.png")) if path.stem.isdigit()}
    if not masks:
        raise VideoError(f"{folder} holds no masks; expected files like 00000.png")
    if not clip.is_dir():
        return AnnotatedSequence(name, clip, masks)
    numbers = sorted(int(path.stem) for path in clip.iterdir() if path.suffix.lower() in _PICTURES and path.stem.isdigit())
    places = {number: place for place, number in enumerate(numbers)}
    if unframed := sorted(masks.keys() - places.keys()):
        raise VideoError(f"{masks[unframed[0]]}: no frame of that number is in {clip}")
    return AnnotatedSequence(name, clip, {places[number]: path for number, path in masks.items()})
