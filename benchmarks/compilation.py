"""What the tables of engines share: seconds of an export's parts, one engine's row, and the table of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final
from unittest import mock

from rich.table import Table

from trt_track.engines.bundle import Bundle
from trt_track.engines.tensorrt_builder import build_engines
from trt_track.errors import TrtTrackError
from trt_track.specs import Limits

FLAVOUR: Final = "tensorrt-rtx"
FAILURES: Final = (TrtTrackError, RuntimeError, MemoryError)
"""What ends a step and not the table."""


def build_engine(bundle: Bundle, graph: str, target: str, limits: Limits) -> dict[str, Any]:
    """Compile one graph alone, so that one that fails does not hide others; return its row.

    Raises:
        TrtTrackError: it cannot be compiled.
    """
    alone = Bundle(bundle.folder, replace(bundle.manifest, graphs={graph: bundle.record(graph)}))
    (built,) = build_engines(alone, flavour=FLAVOUR, targets=[target], limits=limits)
    return {"graph": graph, "target": target, "build_s": built.build_s, "mb": round(built.engine.bytes / 1e6, 3)}


def onnx_sizes(bundle: Bundle) -> dict[str, float]:
    """Return the MB of each graph's files."""
    return {name: round(sum(file.bytes for file in record.files) / 1e6, 3) for name, record in bundle.manifest.graphs.items()}


@contextmanager
def timed(name: str, seconds: dict[str, float], *, graph_argument: int) -> Iterator[None]:
    """Note the seconds that each call of a function took under the name of the graph (or model) that is one of its arguments."""
    module, _, function = name.rpartition(".")
    original: Callable[..., Any] = getattr(__import__(module, fromlist=[function]), function)

    def measured(*args: Any, **options: Any) -> Any:
        started = time.perf_counter()
        result = original(*args, **options)
        seconds[args[graph_argument].name] = round(time.perf_counter() - started, 2)
        return result

    with mock.patch(name, measured):
        yield


def engines_table(engines: Sequence[dict[str, Any]]) -> Table:
    """Return graphs down, targets across, seconds and MB in the cells."""
    targets = list(dict.fromkeys(engine["target"] for engine in engines))
    table = Table("graph", *(f"{target} s, MB" for target in targets), box=None, pad_edge=False)
    for graph in dict.fromkeys(engine["graph"] for engine in engines):
        found = {engine["target"]: f"{engine['build_s']:.1f}, {engine['mb']:.1f}" for engine in engines if engine["graph"] == graph}
        table.add_row(graph, *(found.get(target, "failed") for target in targets))
    return table
