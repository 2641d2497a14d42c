"""Region similarity J and boundary accuracy F of masks: the door to `trackeval`, which the extra `eval` installs.

Both are those of DAVIS (F. Perazzi et al., "A benchmark dataset and evaluation methodology for video object segmentation", 2016): J is
the IoU of the masks; F is the harmonic mean of precision and recall of their outlines, where pixels count as equal that are not further
apart than 0.8 % of the frame's diagonal.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pycocotools import mask as rle

from trt_track.errors import ModelError

Mask = npt.NDArray[np.bool_]

_BOUND: Final = 0.008
"""Of the diagonal."""


def boundary_f(found_hw: Mask, truth_hw: Mask) -> float:
    """Return F of one mask, 0 to 1; 1 where both are empty.

    Args:
        found_hw: (H, W) bool.
        truth_hw: (H, W) bool.

    Raises:
        ModelError: trackeval is not installed.
    """
    return float(f_of_frames([encoded(found_hw)], [encoded(truth_hw)])[0])


def encoded(mask_hw: Mask) -> Any:
    """Return a mask as COCO's run lengths, which is how masks of a whole sequence are kept."""
    return rle.encode(np.asfortranarray(mask_hw, np.uint8))


def j_of_frames(found: Sequence[Any], truth: Sequence[Any]) -> npt.NDArray[np.float64]:
    """Return J of one object on each frame (T,); 1 where both masks are empty.

    Args:
        found: T masks of `encoded`.
        truth: T masks of `encoded`.

    Raises:
        ModelError: trackeval is not installed.
    """
    frames: npt.NDArray[np.float64] = _metric()._compute_j([[mask] for mask in truth], [[mask] for mask in found], 1, 1, len(truth))[0, 0]
    return frames


def f_of_frames(found: Sequence[Any], truth: Sequence[Any]) -> npt.NDArray[np.float64]:
    """Return F of one object on each frame; see `j_of_frames`."""
    frames: npt.NDArray[np.float64] = _metric()._compute_f([[mask] for mask in truth], [[mask] for mask in found], 0, 0, _BOUND)
    return frames


@cache
def _metric() -> Any:
    try:
        import cv2  # noqa: F401 - trackeval imports both only when it is asked
        import skimage.morphology  # noqa: F401
        from trackeval.metrics import JAndF
    except ImportError as error:
        raise ModelError(f"{error.name} is missing: pip install 'trt-track[eval]'") from error
    return JAndF()
