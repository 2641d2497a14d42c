"""Drift curves as SVG: values over frames, limits as dashed lines, flips as ticks. Colours are classes that the page's style fills."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 1000, 64, 76, 10, 22
_HEIGHTS: Final = {"IoU": 190, "boundary F": 120}
_MARK_ROW: Final = 16
_LINE: Final = 13
"""Height of a line of text."""
_MOST_POINTS: Final = 800
"""Of one curve; beyond, each point is the least of several frames."""
_HEAD_ROOM: Final = 0.06
_STEPS: Final = (1, 2, 5, 10)


@dataclass(frozen=True, slots=True)
class Curve:
    """Values over frames, in a colour of the page's palette."""

    name: str
    color: str
    """A class."""
    frames: Sequence[int]
    values: Sequence[float]
    spacing: int = 1
    """Frames from one point to the next at most; where it is more, the line breaks."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A horizontal line."""

    name: str
    value: float


@dataclass(frozen=True, slots=True)
class Marks:
    """Frames to be marked in a row of their own."""

    name: str
    color: str
    frames: Sequence[int]


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where values lie in a panel."""

    first: int
    last: int
    low: float
    high: float
    height: int

    def x(self, frame: float) -> float:
        return _LEFT + (frame - self.first) / max(self.last - self.first, 1) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return _TOP + (self.high - value) / (self.high - self.low) * (self.height - _TOP - _BOTTOM)


def draw_curves(title: str, curves: Sequence[Curve], limits: Sequence[Limit] = ()) -> str:
    """Return a panel as an SVG element.

    Args:
        title: one of "IoU" and "boundary F".
        curves: at least one, with at least one value.
        limits: what they must not fall under.
    """
    thinned = [_thinned(curve) for curve in curves]
    least = min(*(min(curve.values) for curve in thinned), *(limit.value for limit in limits), 1.0)
    low = max(0.0, least - max(1 - least, 1e-4) * 2 * _HEAD_ROOM)
    high = 1 + (1 - low) * _HEAD_ROOM
    frames = [frame for curve in curves for frame in curve.frames]
    panel = _Frame(min(frames), max(frames), low, high, _HEIGHTS[title])
    lines = _limits(panel, sorted(limits, key=lambda limit: -limit.value))
    parts = [*_grid(panel), *lines, *(_line(panel, curve) for curve in thinned)]
    return _svg(panel.height, f"{title} over frames", parts)


def draw_marks(rows: Sequence[Marks], first: int, last: int) -> str:
    """Return rows of ticks as an SVG element; a row without a frame is left out, and nothing is drawn without any."""
    shown = [row for row in rows if row.frames]
    panel = _Frame(first, last, 0, 1, 0)
    parts = []
    for number, row in enumerate(shown):
        y = number * _MARK_ROW + 3
        lines = "".join(f"M{panel.x(frame):.1f} {y}v{_MARK_ROW - 6}" for frame in row.frames)
        told = f"{row.name}: {', '.join(map(str, row.frames[:50]))}{' …' if len(row.frames) > 50 else ''}"
        parts.append(f'<text class="tick-y" x="{_LEFT - 7}" y="{y + 9}">{escape(row.name)}</text>')
        parts.append(f'<path class="mark {row.color}" d="{lines}"><title>{escape(told)}</title></path>')
    return _svg(len(shown) * _MARK_ROW, "flips over frames", parts) if shown else ""


def _svg(height: int, label: str, parts: Iterable[str]) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def _thinned(curve: Curve) -> Curve:
    """Return a curve of few points that hides no bad frame: each is the least of its neighbours."""
    step = math.ceil(len(curve.frames) / _MOST_POINTS)
    if step == 1:
        return curve
    places = [
        min(range(start, min(start + step, len(curve.frames))), key=curve.values.__getitem__) for start in range(0, len(curve.frames), step)
    ]
    return Curve(curve.name, curve.color, [curve.frames[i] for i in places], [curve.values[i] for i in places], 2 * step)


def _line(panel: _Frame, curve: Curve) -> str:
    path: list[str] = []
    before = None
    for frame, value in zip(curve.frames, curve.values, strict=True):
        follows = before is not None and frame - before <= curve.spacing
        path.append(f"{'L' if follows else 'M'}{panel.x(frame):.1f} {panel.y(value):.1f}")
        before = frame
    worst = min(range(len(curve.values)), key=curve.values.__getitem__)
    x, y, told = panel.x(curve.frames[worst]), panel.y(curve.values[worst]), f"{curve.values[worst]:.4f} on frame {curve.frames[worst]}"
    dot = f'<circle class="dot {curve.color}" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>least {escape(curve.name)}: {told}</title></circle>'
    return f'<path class="line {curve.color}" d="{"".join(path)}"><title>{escape(curve.name)}</title></path>{dot}'


def _limits(panel: _Frame, limits: Sequence[Limit]) -> list[str]:
    """Draw lines from the highest down, each with its name on the right; names that would overlap move down."""
    parts, free = [], 0.0
    for limit in limits:
        y = panel.y(limit.value)
        free = max(y, free)
        parts.append(f'<path class="limit" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text class="limit-name" x="{_WIDTH - _RIGHT + 6}" y="{free + 4:.1f}">{escape(limit.name)} {limit.value:g}</text>')
        free += _LINE
    return parts


def _grid(panel: _Frame) -> list[str]:
    bottom = panel.height - _BOTTOM
    parts = []
    for value in _ticks(panel.low, 1, 4):
        y = panel.y(value)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text class="tick-y" x="{_LEFT - 7}" y="{y + 4:.1f}">{round(value, 6):g}</text>')
    for frame in _ticks(panel.first, panel.last, 8, whole=True):
        parts.append(f'<text class="tick-x" x="{panel.x(frame):.1f}" y="{bottom + 16}">{frame:.0f}</text>')
    return parts


def _ticks(low: float, high: float, most: int, *, whole: bool = False) -> list[float]:
    """Return up to `most` + 1 round numbers from `low` to `high`."""
    raw = max((high - low) / most, 1e-9)
    power = 10 ** math.floor(math.log10(raw))
    step = next(step * power for step in _STEPS if step * power >= raw * (1 - 1e-9))
    step = max(step, 1) if whole else step
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]
