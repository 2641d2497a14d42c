"""A quantised graph against what it was before, on a picture that it was calibrated with: were its ranges found and written right?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from trt_track.engines.onnx_model import OnnxModel
from trt_track.parity.measures import Deviation, compare_outputs
from trt_track.parity.thresholds import Thresholds


def check_quantized(name: str, before: Path, after: Path, feed: Mapping[str, np.ndarray]) -> list[Deviation]:
    """Compare every output of two ONNX files in ONNX Runtime on the CPU.

    Args:
        name: of the graph, for the table.
        before: the graph in floating point.
        after: the same graph, quantised.
        feed: an array for each input.
    """
    wanted, found = (OnnxModel(path).run(feed) for path in (before, after))
    return compare_outputs(f"{name} quantised", found, wanted, limits=Thresholds.read().traced("int8"))
