"""The limits of every comparison: shipped in `thresholds.toml`, changed key by key by a file of the user."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from trt_track.errors import ModelError

_SHIPPED: Final = Path(__file__).with_suffix(".toml")
RECIPES: Final = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "int8": "int8"}
"""The shipped recipe whose least exact dtype each is, the most exact first."""
_SIGNED: Final = ("slope",)
_WHOLE: Final = ("slope_frames", "small_pixels", "words")
_FRACTIONS: Final = ("least_iou", "filled_iou", "mean_iou", "mean_f")
_OPTIONAL: Final = ("mean_f", "choice_flips", "presence_flips")
"""Of tracks; off unless a file names them."""
_BY_RECIPE: Final = "track"


@dataclass(frozen=True, slots=True)
class OutputLimits:
    """Largest error of a graph's outputs, as a fraction of the reference's range of values."""

    memory: float
    """Of a memory."""
    mask: float
    """Of a mask: the share of pixels that differ."""
    other: float
    """Of every other output."""

    def of(self, output: str) -> float:
        """Return the limit of one output, by its name."""
        return {"memory": self.memory, "mask": self.mask}.get(output, self.other)


@dataclass(frozen=True, slots=True)
class TrackLimits:
    """What a track may differ by; `thresholds.toml` says what each is."""

    logits: float
    least_iou: float
    filled_iou: float
    mean_iou: float
    slope: float
    slope_frames: int
    small_pixels: int
    mean_f: float | None = None
    choice_flips: float | None = None
    presence_flips: float | None = None

    def too_small(self, pixels: int) -> bool:
        """Tell whether a reference's mask has too few pixels for another one to be judged by its IoU with it."""
        return pixels < self.small_pixels

    @property
    def of_drift(self) -> str:
        """What a drift run is held to, in words."""
        told = f"mean IoU {self.mean_iou:g}, least IoU {self.least_iou:g}, slope {self.slope:g} a frame from {self.slope_frames} frames on"
        told += "" if self.mean_f is None else f", boundary F {self.mean_f:g}"
        for kind, most in (("presence", self.presence_flips), ("choice", self.choice_flips)):
            told += "" if most is None else f", {most:g} {kind} flips per 1,000 object-frames"
        return f"{told}; not judged where the reference's mask has under {self.small_pixels} pixels" if self.small_pixels else told


@dataclass(frozen=True, slots=True)
class DetectorLimits:
    """What a detector's frame may differ by."""

    cells: float
    logits: float
    boxes: float
    words: int


@dataclass(frozen=True, slots=True)
class Thresholds:
    """All limits."""

    content: Mapping[str, Mapping[str, Any]]
    """As the TOML has them, the user's keys in place."""
    own: Mapping[str, Mapping[str, Any]]
    """What the user's file names."""
    file: Path | None = None
    """The user's file."""

    @classmethod
    def read(cls, path: Path | None = None) -> Self:
        """Read the shipped limits, and a user's file over them.

        Raises:
            ModelError: the file cannot be read, or a key or a value in it makes no sense; the message names it.
        """
        shipped = tomllib.loads(_SHIPPED.read_text(encoding="utf-8"))
        if path is None:
            return cls(shipped, {})
        own = _read(path)
        try:
            return cls(_changed(shipped, own), own, path)
        except ValueError as error:
            raise ModelError(f"thresholds {path}: {error}") from None

    def traced(self, dtype: str) -> OutputLimits:
        """Return the limits of a graph that computes in a dtype: was it traced right?"""
        return OutputLimits(**self.content["graph"][dtype])

    def wanted(self, graph: str, dtype: str) -> OutputLimits:
        """Return the limits that a graph is held to whatever its recipe says: is it as exact as SAM 2 needs it?"""
        allowed = self.content["judged_as"][graph]
        return self.traced(dtype if dtype in allowed else allowed[-1])

    def less_than_allowed(self, dtypes: Mapping[str, str]) -> dict[str, list[str]]:
        """Return the graphs that compute in less than SAM 2 needs, each with the dtypes that it may have. It takes no upstream to tell."""
        allowed = {graph: [dtype for dtype in self.content["judged_as"][graph] if dtype in RECIPES] for graph in dtypes}
        return {graph: allowed[graph] for graph, dtype in dtypes.items() if dtype not in allowed[graph]}

    def of_graphs(self, dtypes: Mapping[str, str]) -> dict[str, OutputLimits]:
        """Return `wanted` of every graph of a tracker, from its dtypes by name."""
        return {graph: self.wanted(graph, dtype) for graph, dtype in dtypes.items()}

    def track_table(self, precision: str, dtypes: Iterable[str]) -> str:
        """Return the name of the table that a recipe is held to: its own, else that of its least exact dtype."""
        return precision if precision in self.content[_BY_RECIPE] else RECIPES[least_exact(dtypes)]

    def track(self, precision: str, dtypes: Iterable[str]) -> TrackLimits:
        """Return the limits of a recipe's tracks; what its own table leaves out has its least exact dtype's limits.

        Args:
            precision: the recipe's name.
            dtypes: of its graphs.
        """
        tables = self.content[_BY_RECIPE]
        return TrackLimits(**{**tables[RECIPES[least_exact(dtypes)]], **tables.get(precision, {})})

    def detector(self, dtypes: Iterable[str]) -> DetectorLimits:
        """Return the limits of a detector whose networks compute in these dtypes."""
        return DetectorLimits(**self.content["detector"][least_exact(dtypes)])


def least_exact(dtypes: Iterable[str]) -> str:
    """Return the least exact of several dtypes, float32 for none."""
    order = list(RECIPES)
    return order[max((order.index(dtype) for dtype in dtypes), default=0)]


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"thresholds {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"thresholds {path} are no TOML: {error}") from error


def _changed(shipped: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the shipped limits with the user's in place; raises ValueError for what makes no sense."""
    changed = {name: dict(tables) for name, tables in shipped.items()}
    for section, tables in own.items():
        _known(section, shipped, "")
        _table(section, tables)
        for name, value in tables.items():
            key = f"{section}.{name}"
            if section == "judged_as":
                _known(name, shipped[section], f"{section}.")
                _names(key, value, shipped["graph"])
                changed[section][name] = value
            else:
                changed[section][name] = {**shipped[section].get(name, {}), **_limits(shipped[section], section, name, value)}
    return changed


def _limits(tables: Mapping[str, Any], section: str, name: str, value: Any) -> dict[str, float]:
    """Check one table of limits; that of a track may have the name of any recipe."""
    if section != _BY_RECIPE:
        _known(name, tables, f"{section}.")
    _table(f"{section}.{name}", value)
    keys = [*next(iter(tables.values())), *(_OPTIONAL if section == _BY_RECIPE else ())]
    for key, limit in value.items():
        _known(key, keys, f"{section}.{name}.")
        _number(f"{section}.{name}.{key}", key, limit)
    return dict(value)


def _known(key: str, known: Iterable[str], where: str) -> None:
    if key not in known:
        raise ValueError(f"{where}{key} is unknown: choose from {', '.join(known)}")


def _table(key: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"{key} must be a table, got {value!r}")


def _names(key: str, value: Any, known: Iterable[str]) -> None:
    if not (isinstance(value, list) and value and all(one in known for one in value)):
        raise ValueError(f"{key} must be a list of {', '.join(known)}, got {value!r}")


def _number(where: str, key: str, value: Any) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not (whole or (isinstance(value, float) and key not in _WHOLE)) or math.isnan(value):
        raise ValueError(f"{where} must be a {'whole ' if key in _WHOLE else ''}number, got {value!r}")
    if value < 0 and key not in _SIGNED:
        raise ValueError(f"{where} must be 0 or more, got {value!r}")
    if value > 1 and key in _FRACTIONS:
        raise ValueError(f"{where} is {'an F' if key == 'mean_f' else 'an IoU'}, 0 to 1, got {value!r}")
