"""A detector's graphs against transformers' model: which cells are chosen, then logits, boxes and words of every query.

What a query finds depends on its place among the chosen cells, and cells of nearly equal fit change places with the last bit of a
float. So the check has two parts: the cells that the graph chose are the best ones, to rounding; and from the graph's own choice,
transformers' model finds the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import Any, Final
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch

from trt_track.export.image_encoder import MEAN_RGB, STD_RGB
from trt_track.parity.thresholds import DetectorLimits
from trt_track.runtime.grounding_dino import GroundingDino

_BEST: Final = 20
"""Boxes whose words are compared."""


@dataclass(frozen=True, slots=True)
class DetectorDeviation:
    """The distance of one frame from transformers' result."""

    text: str
    cells: float
    """By how much the chosen cells fit worse than the best ones, largest difference in order of fit."""
    logits: float
    """Largest absolute error."""
    boxes: float
    """Largest absolute error, in shares of the frame."""
    words: int
    """Of the best boxes, how many have other words."""
    limits: DetectorLimits

    @property
    def passed(self) -> bool:
        """Whether all of it is within its limit."""
        found = (self.cells, self.logits, self.boxes, self.words)
        return all(got <= most for got, most in zip(found, astuple(self.limits), strict=True))


def check_detector(
    detector: GroundingDino, upstream: Any, frames_fhwc: npt.NDArray[np.uint8], *, limits: DetectorLimits
) -> list[DetectorDeviation]:
    """Compare frames of the model's size.

    Args:
        detector: with its prompt.
        upstream: transformers' `GroundingDinoForObjectDetection` with the same weights, float32, in evaluation mode.
        frames_fhwc: (F, h, w, 3) uint8 RGB.
        limits: of each frame.
    """
    return [_check_frame(detector, upstream, frame, limits) for frame in frames_fhwc]


def _check_frame(detector: GroundingDino, upstream: Any, frame_hwc: npt.NDArray[np.uint8], limits: DetectorLimits) -> DetectorDeviation:
    logits, boxes, cell = (array[0] for array in detector.run(frame_hwc[None]))
    with _chosen(cell) as shortfalls:
        wanted_logits, wanted_boxes = run_upstream(upstream, frame_hwc, detector.prompt.token)
    best = np.argsort(-wanted_logits.max(axis=1))[:_BEST]
    level = _gap(wanted_logits[best])
    words = [[detector.reader.words(detector.prompt, table[i] > level) for table in (logits, wanted_logits)] for i in best]
    return DetectorDeviation(
        text=detector.prompt.text,
        cells=max(shortfalls),
        logits=float(np.abs(logits - wanted_logits).max()),
        boxes=float(np.abs(boxes - wanted_boxes).max()),
        words=sum(ours != theirs for ours, theirs in words),
        limits=limits,
    )


def run_upstream(
    upstream: Any, frame_hwc: npt.NDArray[np.uint8], token: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return transformers' logits (Q, T) and boxes (Q, 4) of one frame."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN_RGB, STD_RGB))
    pixels = (torch.from_numpy(frame_hwc.copy())[None].permute(0, 3, 1, 2).float() / 255 - mean) / std
    with torch.no_grad():
        outputs = upstream(pixel_values=pixels, input_ids=torch.from_numpy(token.astype(np.int64))[None])
    return outputs.logits[0, :, : len(token)].numpy(), outputs.pred_boxes[0].numpy()


@contextmanager
def _chosen(cell: npt.NDArray[np.int32]) -> Iterator[list[float]]:
    """Let transformers' model begin at these cells (Q,), its own choice being a `torch.topk`; yield by how much they fit worse."""
    shortfalls: list[float] = []
    index = torch.from_numpy(cell.astype(np.int64))[None]
    topk = torch.topk

    def choose(fit: torch.Tensor, count: int, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
        best = topk(fit, count, dim=dim).values
        ours = fit.gather(1, index)
        distinct = index.unique().numel() == count
        shortfalls.append(float((best - ours).abs().max()) if distinct else float("inf"))
        return ours, index

    with mock.patch.object(torch, "topk", choose):
        yield shortfalls


def _gap(logits: npt.NDArray[np.float32]) -> float:
    """Return a logit that is far from all of these, near their middle: a threshold that rounding moves no word over."""
    values = np.unique(logits)
    middle = values[len(values) // 4 : 3 * len(values) // 4 + 1]
    return float(middle[np.diff(middle).argmax() :][:2].mean()) if len(middle) > 1 else float(values.mean())
