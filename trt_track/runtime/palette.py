"""Colours: the palette of DAVIS mask files, and one vivid colour per object for overlays."""

from __future__ import annotations

import colorsys
from typing import Final

import numpy as np
import numpy.typing as npt

_GOLDEN_RATIO: Final = 0.6180339887
_FIRST_HUE: Final = 0.58  # blue; the second object becomes a yellow green, the third a pink


def davis_palette() -> npt.NDArray[np.uint8]:
    """Return (256, 3) uint8 RGB: the colours that DAVIS and Pascal VOC give to the values of a mask file.

    Bit 3 k + c of the value becomes bit 7 - k of channel c.
    """
    values = np.arange(256, dtype=np.uint8)[:, None]
    bits = np.arange(3, dtype=np.uint8)[None]
    colors = np.zeros((256, 3), np.uint8)
    for k in range(3):
        colors |= ((values >> (3 * k + bits)) & 1) << (7 - k)
    return colors


def object_color(object_id: int) -> tuple[int, int, int]:
    """Return the RGB colour of an object in overlays: always the same for an id, far from its neighbours' (golden ratio on the hue)."""
    hue = (_FIRST_HUE + (object_id - 1) * _GOLDEN_RATIO) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.75, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)
