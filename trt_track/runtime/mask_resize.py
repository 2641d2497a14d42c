"""A mask of the video's size at the model's size, as upstream resizes it, without PyTorch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trt_track.errors import PromptError


def mask_to_model(mask_hw: npt.NDArray[np.bool_], size: int) -> npt.NDArray[np.uint8]:
    """Resize a mask to the model's square, as upstream's `add_new_mask` does on an x86-64 CPU, to the bit.

    Upstream calls `interpolate(mode="bilinear", antialias=True, align_corners=False)` and keeps what reaches 0.5:
    https://github.com/facebookresearch/sam2/blob/2b90b9f5ceec907a1c18123530e92e794ad901a4/sam2/sam2_video_predictor.py#L311

    Args:
        mask_hw: (H, W) bool.
        size: side S of the square in pixels.

    Returns:
        (S, S) uint8, 1 inside the object.

    Raises:
        PromptError: nothing of the mask is left at that size.
    """
    columns = _resize_rows(np.ascontiguousarray(mask_hw.T, dtype=np.float32), size)  # along x first, as PyTorch does
    resized = _resize_rows(np.ascontiguousarray(columns.T), size) >= np.float32(0.5)
    if mask_hw.any() and not resized.any():
        height, width = mask_hw.shape
        pixels = int(mask_hw.sum())
        raise PromptError(f"the mask covers {pixels} pixels of {width}x{height} and vanishes at the model's {size}x{size}: draw it larger")
    return resized.astype(np.uint8)


def _resize_rows(values: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.float32]:
    """Resize (N, M) float32 along its first axis to (size, M)."""
    first, weights, count = _triangle_weights(len(values), size)
    total = values[first] * weights[:, :1]
    for tap in range(1, weights.shape[1]):
        old = values[np.minimum(first + tap, len(values) - 1)]
        rounded_twice = total + old * weights[:, tap : tap + 1]
        rounded_once = (total + old.astype(np.float64) * weights[:, tap : tap + 1]).astype(np.float32)
        total = np.where((tap <= _by_fours(count))[:, None], rounded_twice, rounded_once)
    return total


def _by_fours(count: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return how many of the `count` - 1 products after the first PyTorch's x86-64 build multiplies in groups of four.

    Those are rounded before they are added up; the rest of the compiled loop uses fused multiply-adds, which round once.
    """
    return (count - 1) // 4 * 4


def _triangle_weights(old: int, new: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Say which old rows make up each new row, and how much each counts.

    The rounding to float32 after each step is PyTorch's (aten/src/ATen/native/cpu/UpSampleKernel.cpp): masks have edges where the
    sum is 0.5 to the last bit.

    Returns:
        The first old row (new,), the weights of that row and the following (new, taps), and how many of them count (new,).
    """
    scale = np.float32(old) / np.float32(new)
    shrinks = scale >= 1
    support = scale if shrinks else np.float32(1)
    inverse = np.float32(1 / np.float64(scale)) if shrinks else np.float32(1)
    center = (np.float64(scale) * (np.arange(new) + 0.5)).astype(np.float32)
    first = np.maximum(((center - support).astype(np.float64) + 0.5).astype(np.int64), 0)
    stop = np.minimum(((center + support).astype(np.float64) + 0.5).astype(np.int64), old)
    taps = first[:, None] + np.arange(int((stop - first).max()))
    distance = ((taps.astype(np.float32) - center[:, None]).astype(np.float64) + 0.5) * np.float64(inverse)
    weights = np.maximum(np.float32(1) - np.abs(distance.astype(np.float32)), np.float32(0))
    weights[taps >= stop[:, None]] = 0
    total = np.add.accumulate(weights, axis=1, dtype=np.float32)[:, -1:]  # added up one after the other
    return first, (weights / total).astype(np.float32), stop - first
