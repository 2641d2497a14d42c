"""What the user asked to have measured, and what of it this machine can measure."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Final

from trt_track.bench.order import COMPILED, CPU, CUDA, OURS, SIDES
from trt_track.bench.prompts import MOST_OBJECTS
from trt_track.engines.backends import CPU as CPU_BACKEND
from trt_track.errors import ModelError, PromptError

PRECISIONS: Final = ("fp32", "bf16")
_NEEDED: Final = ("torch", "sam2")


def chosen_sides(text: str | None) -> tuple[str, ...] | None:
    """Read names with commas between; None for the default.

    Raises:
        ModelError: there is none, or one is unknown.
    """
    if text is None:
        return None
    names = _split(text)
    if unknown := [name for name in names if name not in SIDES]:
        raise ModelError(f"no side is called {unknown[0]!r}: choose from {', '.join(SIDES)}")
    if not names:
        raise ModelError(f"--sides names nothing to measure: choose from {', '.join(SIDES)}")
    return tuple(side for side in SIDES if side in names)


def chosen_objects(text: str) -> tuple[int, ...]:
    """Read numbers with commas between, in their order.

    Raises:
        PromptError: one is no number, or too large; or there is none.
    """
    words = _split(text)
    if not words or not all(word.isdecimal() and 1 <= int(word) <= MOST_OBJECTS for word in words):
        raise PromptError(f"--objects {text!r}: give numbers from 1 to {MOST_OBJECTS} with commas between")
    return tuple(dict.fromkeys(int(word) for word in words))


def chosen_precision(name: str) -> str | None:
    """Read upstream's precision; None where the device decides.

    Raises:
        ModelError: it is unknown.
    """
    if name == "auto":
        return None
    if name not in PRECISIONS:
        raise ModelError(f"upstream's precision {name!r} is unknown: choose auto, {' or '.join(PRECISIONS)}")
    return name


def upstream_device(backend: str, *, ours: bool) -> str:
    """Return where upstream computes: beside ours on the same device, else on the best there is.

    Args:
        backend: what runs ours.
        ours: whether ours is measured at all.
    """
    if ours:
        return CPU if backend == CPU_BACKEND else CUDA
    if find_spec("torch") is None:
        return CPU
    import torch

    return CUDA if torch.cuda.is_available() else CPU


def available_sides(asked: Sequence[str] | None, device: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the sides to measure, and why others are left out.

    Args:
        asked: what the user named; None for the default.
        device: where upstream computes.

    Raises:
        ModelError: PyTorch or sam2 is missing, and upstream was not ruled out.
    """
    sides, left_out = tuple(asked or SIDES), {}
    if asked is None and device == CPU:
        sides = tuple(side for side in sides if side != COMPILED)
        left_out[COMPILED] = "torch.compile with max-autotune is for GPUs: name it in --sides to try it on a CPU"
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing and sides != (OURS,):
        raise ModelError(f"{missing[0]} is missing: pip install 'trt-track[export]', or measure ours alone with --sides ours")
    return sides, left_out


def _split(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
