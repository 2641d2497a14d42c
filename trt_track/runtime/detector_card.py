"""What must be known of a detector beside its graph: classes, input size and threshold, from `detector.json` or from the ONNX file.

`detector.json` is `{"classes": ["person", ...] or {"0": "person", ...}, "size": 640 or [height, width], "threshold": 0.25}`. A key that
it lacks is taken from what Ultralytics' exporter writes into the ONNX file (`names`, `imgsz`); where both speak, the former holds.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from trt_track.engines.manifest import read_json
from trt_track.errors import ModelError

CARD_FILE: Final = "detector.json"
MODEL_FILE: Final = "detector.onnx"
DEFAULT_THRESHOLD: Final = 0.25
"""https://github.com/ultralytics/ultralytics/blob/v8.3.0/ultralytics/cfg/default.yaml: conf, for predict."""
MAX_SIDE: Final = 8192
"""Largest side of the model's input, in pixels: above it the number is a mistake."""
EXAMPLE: Final = f'write {CARD_FILE} with {{"classes": ["person", ...], "size": [height, width]}}'


@dataclass(frozen=True, slots=True)
class DetectorCard:
    """What `detector.json` and the ONNX file's metadata say."""

    classes: tuple[str, ...]
    """Name of each class, by index."""
    size_hw: tuple[int, int] | None = None
    """Pixels that `detector.json` states."""
    exported_hw: tuple[int, int] | None = None
    """Pixels that the exporter states: holds where `detector.json` and the graph say nothing."""
    threshold: float = DEFAULT_THRESHOLD
    """Boxes must score more."""


def read_card(folder: Path, metadata: Mapping[str, str]) -> DetectorCard:
    """Read `detector.json`, and what it lacks from the metadata of the ONNX file.

    Args:
        folder: where `detector.json` may lie.
        metadata: what Ultralytics' exporter wrote, Python literals as text
            (https://github.com/ultralytics/ultralytics/blob/v8.3.0/ultralytics/engine/exporter.py, `metadata`): `task`, `names`, `imgsz`.

    Raises:
        ModelError: not a model for detection, no classes, or a value that makes no sense.
        BundleError: `detector.json` is no JSON object.
    """
    path, inside = folder / CARD_FILE, f"the metadata of {folder / MODEL_FILE}"
    data = read_json(path, otherwise=EXAMPLE) if path.exists() else {}
    if unknown := data.keys() - {"classes", "size", "threshold"}:
        raise ModelError(f"{path} has unknown keys {', '.join(sorted(unknown))}: it may have classes, size and threshold")
    if (task := metadata.get("task", "detect")) != "detect":
        raise ModelError(f"{inside} says that it is a model for {task!r}: export one for detection")
    if "classes" not in data and "names" not in metadata:
        raise ModelError(f"nothing names the classes of {folder / MODEL_FILE}: {EXAMPLE}")
    return DetectorCard(
        _class_names(data["classes"], str(path)) if "classes" in data else _class_names(_literal(metadata, "names", inside), inside),
        _size(data["size"], str(path)) if "size" in data else None,
        _size(_literal(metadata, "imgsz", inside), inside) if "imgsz" in metadata and "size" not in data else None,
        checked_threshold(data.get("threshold", DEFAULT_THRESHOLD), f"the threshold in {path}"),
    )


def wanted_classes(asked: Sequence[str], known: Sequence[str], model: str) -> tuple[int, ...]:
    """Return the indexes of the classes asked for in ascending order, of all where none is named.

    Args:
        asked: names, upper or lower case.
        known: the model's names, by index; a name that stands there twice means both.
        model: what the message calls the model.

    Raises:
        ModelError: the model does not know a class.
    """
    folded = [name.casefold() for name in known]
    for name in asked:
        if name.casefold() not in folded:
            close = difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.5)
            names = list(dict.fromkeys(known[folded.index(one)] for one in close or folded))
            hint = f"did you mean {' or '.join(names)}?" if close else f"it knows {shortened(names)}"
            raise ModelError(f"{model} knows no class {name!r}: {hint}")
    meant = {name.casefold() for name in asked} or set(folded)
    return tuple(index for index, name in enumerate(folded) if name in meant)


def _literal(metadata: Mapping[str, str], key: str, where: str) -> Any:
    try:
        return ast.literal_eval(metadata[key])
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ModelError(f"{where} has {key} that cannot be read ({type(error).__name__}): {EXAMPLE}") from error


def _class_names(value: Any, where: str) -> tuple[str, ...]:
    """Turn a list, or a mapping from index to name, into names by index."""
    names = list(value) if isinstance(value, (list, tuple)) else []
    if isinstance(value, Mapping):
        by_index = {str(index): name for index, name in value.items()}
        if by_index.keys() != {str(index) for index in range(len(value))}:
            raise ModelError(f"{where} numbers its classes {shortened(list(by_index))}: expected 0, 1, 2 and so on without a gap")
        names = [by_index[str(index)] for index in range(len(value))]
    if not names or not all(isinstance(name, (str, int)) and str(name).strip() for name in names):
        raise ModelError(f'{where} does not name its classes: expected ["person", ...] or {{"0": "person", ...}}, each with a name')
    return tuple(str(name).strip() for name in names)


def _size(value: Any, where: str) -> tuple[int, int]:
    """Turn a side, or [height, width], into (height, width)."""
    sides = tuple(value) if isinstance(value, (list, tuple)) else (value, value)
    if len(sides) != 2 or not all(type(side) is int and 0 < side <= MAX_SIDE for side in sides):
        raise ModelError(f"{where} states the size {value!r}: expected 640 or [height, width], in pixels from 1 to {MAX_SIDE}")
    return sides


def checked_threshold(value: Any, where: str) -> float:
    """Return a threshold from 0 to less than 1.

    Raises:
        ModelError: it is none; the message calls it `where`.
    """
    if type(value) not in {int, float} or not 0 <= value < 1:
        raise ModelError(f"{where} is {value!r}: expected a number from 0 to less than 1")
    return float(value)


def shortened(names: Sequence[str], most: int = 12) -> str:
    """Return names for a message, the first ones of many."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
