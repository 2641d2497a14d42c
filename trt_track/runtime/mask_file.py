"""A mask from an image file: gray, black-and-white, or a palette PNG with one index per object."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from trt_track.errors import PromptError


def read_mask(path: str | Path, object_id: int) -> npt.NDArray[np.bool_]:
    """Return where an image marks an object.

    Args:
        path: a gray image, in which everything but 0 is the object; or a palette image (as in DAVIS), in which pixels are object ids: with
            one id in it, that is the object; with several, the one equal to `object_id`.
        object_id: the object that is asked for.

    Returns:
        (H, W) bool.

    Raises:
        PromptError: the file cannot be read, is in colour, or has several ids and not this one.
    """
    mode, values = _read_pixels(Path(path))
    if values.ndim == 3:
        if values.shape[2] != 3 or (values != values[:, :, :1]).any():
            raise PromptError(f"mask {path} is a colour image ({mode}): give a gray or a palette image, 0 outside the object")
        values = values[:, :, 0]
    ids = np.unique(values[values != 0]).tolist() if mode == "P" else []
    if len(ids) > 1:
        if object_id not in ids:
            raise PromptError(f"mask {path} has the objects {', '.join(map(str, ids))} but no {object_id}: use one of these ids")
        return np.asarray(values == object_id)
    return np.asarray(values != 0)


def _read_pixels(path: Path) -> tuple[str, npt.NDArray[np.generic]]:
    """Return an image's mode and its pixels (H, W) or (H, W, channels); palette images as indices."""
    try:
        with Image.open(path) as image:
            return image.mode, np.asarray(image)
    except FileNotFoundError as error:
        raise PromptError(f"mask {path} does not exist") from error
    except (Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise PromptError(f"mask {path} cannot be read as an image: {error}") from error
