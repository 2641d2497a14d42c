"""Prompts as users write them: on the command line and in a JSON file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from trt_track.errors import PromptError
from trt_track.runtime.mask_file import read_mask
from trt_track.runtime.prompt import Prompt

_EXAMPLES: Final = {"box": "1:100,50,300,400", "point": "30@2:480,270,0", "mask": "1:first_frame.png"}


def parse_box(text: str) -> Prompt:
    """Read `[FRAME@]ID:x0,y0,x1,y1`, in pixels of the video; without a frame it is frame 0.

    Raises:
        PromptError: the text has another form.
    """
    frame, object_id, rest = _head(text, "box", "[FRAME@]ID:x0,y0,x1,y1")
    return Prompt(frame, object_id, box_xyxy_px=_floats(_numbers(rest, text, kind="box", counts=(4,))))


def parse_point(text: str) -> Prompt:
    """Read `[FRAME@]ID:x,y[,0|1]`, in pixels of the video; 1, inside the object, where no label is given.

    Raises:
        PromptError: the text has another form.
    """
    frame, object_id, rest = _head(text, "point", "[FRAME@]ID:x,y[,0|1]")
    x, y, label = [*_numbers(rest, text, kind="point", counts=(2, 3)), 1.0][:3]
    if label not in (0.0, 1.0):
        raise PromptError(f"point {text!r}: the third number is 1 (inside the object) or 0 (outside), got {label:g}")
    return Prompt(frame, object_id, _floats([[x, y]]), np.array([label], np.int32))


def parse_mask(text: str) -> Prompt:
    """Read `[FRAME@]ID:FILE.png` and that file.

    Raises:
        PromptError: the text has another form, or the file cannot be used.
    """
    frame, object_id, rest = _head(text, "mask", "[FRAME@]ID:FILE.png")
    return Prompt(frame, object_id, mask=read_mask(rest, object_id))


def read_prompts(path: str | Path) -> list[Prompt]:
    """Read `{"prompts": [{"frame": 0, "object": 1, "box": [..], "points": [[x, y], ..], "labels": [1, ..], "mask": "file.png"}]}`.

    Paths of masks are relative to the file. `"remove": true` ends an object; `frame` is 0 and labels are 1 where left out.

    Raises:
        PromptError: the file cannot be read or has another form; the message names the entry.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise PromptError(f"cannot read prompts {path}: {error.strerror}") from error
    except ValueError as error:
        raise PromptError(f"prompts {path} are no JSON: {error}") from error
    entries = content.get("prompts") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise PromptError(f'prompts {path} must be {{"prompts": [...]}}')
    return [_entry(entry, f"{path}, prompt {number}", path.parent) for number, entry in enumerate(entries, 1)]


def _entry(entry: Any, where: str, folder: Path) -> Prompt:
    """Read one entry of a prompt file."""
    _check_form(entry, where)
    points = entry.get("points", [])
    labels = entry.get("labels", [1] * len(points))
    try:
        return Prompt(
            entry.get("frame", 0),
            entry["object"],
            _floats(points).reshape(-1, 2),
            np.array(labels, np.int32),
            _floats(entry["box"]) if "box" in entry else None,
            read_mask(folder / entry["mask"], entry["object"]) if "mask" in entry else None,
            entry.get("remove", False),
        )
    except PromptError as error:
        raise PromptError(f"{where}: {error}") from error


def _check_form(entry: Any, where: str) -> None:
    """Refuse an entry with unknown keys, without an object, or with values of another form."""
    if not isinstance(entry, dict) or "object" not in entry:
        raise PromptError(f'{where}: expected {{"object": 1, ...}} with the keys {", ".join(_FORMS)}')
    for key, value in entry.items():
        if key not in _FORMS:
            raise PromptError(f"{where} has the unknown key {key!r}: the keys are {', '.join(_FORMS)}")
        fits, form = _FORMS[key]
        if not fits(value):
            raise PromptError(f"{where}: {key} must be {form}, got {json.dumps(value)}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_numbers(value: Any, count: int | None = None) -> bool:
    numbers = isinstance(value, list) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
    return numbers and (count is None or len(value) == count)


_FORMS: Final[dict[str, tuple[Callable[[Any], bool], str]]] = {
    "frame": (_is_whole, "a whole number"),
    "object": (_is_whole, "a whole number"),
    "box": (lambda value: _are_numbers(value, 4), "[x0, y0, x1, y1]"),
    "points": (lambda value: isinstance(value, list) and all(_are_numbers(point, 2) for point in value), "[[x, y], ...]"),
    "labels": (lambda value: isinstance(value, list) and all(_is_whole(label) and label in (0, 1) for label in value), "a list of 1 and 0"),
    "mask": (lambda value: isinstance(value, str), "the path of an image"),
    "remove": (lambda value: isinstance(value, bool), "true or false"),
}


def _floats(values: Any) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore"):  # what gets infinite is refused with the frame's size, by `check_prompts`
        return np.array(values, np.float32)


def _head(text: str, kind: str, form: str) -> tuple[int, int, str]:
    """Split `[FRAME@]ID:REST` into frame, id and rest."""
    found = re.fullmatch(r"(?:(\d{1,9})@)?(\d{1,9}):(.+)", text.strip(), re.DOTALL)
    if found is None:
        raise PromptError(f"{kind} {text!r} is not of the form {form}, for example {_EXAMPLES[kind]}")
    return int(found[1] or 0), int(found[2]), found[3]


def _numbers(rest: str, text: str, *, kind: str, counts: tuple[int, ...]) -> list[float]:
    """Read numbers that are parted by commas."""
    try:
        numbers = [float(part) for part in rest.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in counts:
        expected = " or ".join(map(str, counts))
        raise PromptError(f"{kind} {text!r}: expected {expected} numbers after the colon, for example {_EXAMPLES[kind]}")
    return numbers
