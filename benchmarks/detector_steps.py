"""The steps of `detector_table.py`: export, comparison with transformers, time on the CPU, engines; each for a process of its own."""

from __future__ import annotations

import os
import re
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from compilation import FAILURES, FLAVOUR, build_engine, onnx_sizes, timed
from material import SEED, clip_path, random_detector

from trt_track.bench.worker import Send
from trt_track.engines.backends import CPU, open_session
from trt_track.engines.bundle import Bundle
from trt_track.engines.engine_record import EngineFolder
from trt_track.engines.host_memory import host_memory
from trt_track.engines.tensorrt_door import GraphCompiler
from trt_track.runtime.grounding_dino import GroundingDino, TextQuery, scaled_frame
from trt_track.runtime.phrases import TOKENIZER, PromptReader
from trt_track.runtime.video import open_video
from trt_track.specs import Limits

FRAMES: Final = (("bikes", 0), ("bigbuckbunny", 60), ("bikes", 125))
"""Clip and number of each frame: street and cartoon, 640 x 272 and 1280 x 720."""
PROMPTS: Final = (
    "person. dog.",
    "red car. bicycle. tree.",
    "a man on a bicycle. a red car that turns left. traffic light. a white rabbit in the grass. green tree. road sign. the shadow of a "
    "wall. butterfly. window. a woman with a bag. street lamp. dog.",
)
"""The seeded tokenizer spells words in letters, so the last one is long."""
TIMED_FRAMES: Final = 3


@dataclass(frozen=True, slots=True)
class Order:
    """What to measure of one model at one size and precision."""

    model: str
    frame: str
    precision: str
    pairs: int
    targets: tuple[str, ...]
    bundles: Path
    graph: str = ""
    target: str = ""

    @property
    def folder(self) -> Path:
        """The bundle's."""
        return self.bundles / f"{self.model}-{self.frame}-{self.precision}"


@dataclass(frozen=True, slots=True)
class Pair:
    """What is compared at a time."""

    clip: str
    number: int
    text: str


@contextmanager
def _watched(order: Order, send: Send, step: str) -> Iterator[None]:
    """Tell what a step cost, and whether it failed."""
    names = {"step": step, **({"graph": order.graph, "target": order.target} if order.graph else {})}
    started = time.perf_counter()
    try:
        yield
    except FAILURES as error:
        send("failures", {**names, "reason": str(error)})
    cost = {"seconds": round(time.perf_counter() - started, 1), "cpu_s": round(time.process_time(), 1), "peak_mb": _peak_mb()}
    send("steps", {**names, **cost, "load_1_min": round(os.getloadavg()[0], 2)})


def _peak_mb() -> float | None:
    memory = host_memory()
    return round(memory.peak / 1e6, 1) if memory else None


def export_bundle(order: Order, send: Send) -> None:
    """Export as the command does, and time its parts."""
    with _watched(order, send, "export"):
        spent: dict[str, dict[str, float]] = defaultdict(dict)
        started = time.perf_counter()
        with ExitStack() as stack:
            stack.enter_context(timed("trt_track.export.tracing.trace", spent["trace_s"], graph_argument=1))
            stack.enter_context(timed("trt_track.cli.export_detector_command.require_detector_parity", spent["check_s"], graph_argument=1))
            bundle = Bundle.open(random_detector(order.model, order.frame, order.bundles, precision=order.precision))
        seconds = {key: round(sum(by_graph.values()), 1) for key, by_graph in spent.items()}
        sizes = onnx_sizes(bundle)
        send("export", {"seconds": round(time.perf_counter() - started, 1), **seconds, "onnx_mb": sizes})


def pairs(count: int) -> list[Pair]:
    """Return the first pairs: those whose frames and prompts are all different come first."""
    every = (Pair(*FRAMES[i], PROMPTS[(i + shift) % len(PROMPTS)]) for shift in range(len(PROMPTS)) for i in range(len(FRAMES)))
    return list(islice(every, count))


def _frame(clip: str, number: int, frame_hw: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Return one frame (h, w, 3) of a clip at the size of the model."""
    with open_video(clip_path(clip)) as source:
        (frame,) = source.frames(size=32, only={number}, keep_video=True)
    if frame.video_rgb_hwc is None:
        raise RuntimeError(f"{clip} gave frame {number} without its picture")
    return scaled_frame(frame.video_rgb_hwc, frame_hw)


def compare_pairs(order: Order, send: Send) -> None:
    """Compare pairs with transformers."""
    from trt_track.export.grounding_dino import official_config, seed_detector
    from trt_track.parity.detector_check import check_detector
    from trt_track.parity.thresholds import Thresholds

    with _watched(order, send, "parity"):
        bundle = Bundle.open(order.folder)
        limits = Thresholds.read().detector(bundle.manifest.description.dtypes.values())
        upstream = seed_detector(official_config(order.model), SEED).model
        reader = PromptReader(bundle.file_path(TOKENIZER), bundle.detector)
        with open_session(bundle, CPU) as session:
            for pair in pairs(order.pairs):
                detector = GroundingDino(session, reader, TextQuery(pair.text))
                picture = _frame(pair.clip, pair.number, bundle.detector.frame_hw)
                (found,) = check_detector(detector, upstream, picture[None], limits=limits)
                errors = {name: float(f"{value:.3g}") for name, value in asdict(found).items() if name in {"cells", "logits", "boxes"}}
                verdict = {"words": found.words, "passed": found.passed}
                send("parity", {**asdict(pair), "tokens": len(detector.prompt.token), **errors, **verdict})


def time_frames(order: Order, send: Send) -> None:
    """Time the detector by itself: a process without PyTorch, a frame to warm up, then one frame at a time."""
    with _watched(order, send, "speed"):
        bundle = Bundle.open(order.folder)
        detector = GroundingDino.open(bundle, TextQuery(PROMPTS[1]), backend=CPU)
        loaded_mb, wall_s, cpu_s = _peak_mb(), [], []
        for index in range(TIMED_FRAMES + 1):
            picture = _frame(*FRAMES[index % len(FRAMES)], bundle.detector.frame_hw)[None]
            started, cpu = time.perf_counter(), time.process_time()
            logits, boxes, _ = detector.run(picture)
            wall_s.append(time.perf_counter() - started)
            cpu_s.append(time.process_time() - cpu)
        detector.close()
        per_frame = {"s_per_frame": round(statistics.median(wall_s[1:]), 2), "cpu_s_per_frame": round(statistics.median(cpu_s[1:]), 2)}
        memory = {"loaded_peak_mb": loaded_mb, "peak_mb": _peak_mb()}
        spread = {"logits_std": round(float(logits.std()), 3), "boxes_std": round(float(boxes.std()), 3)}  # beside them errors are small
        send("speed", {**per_frame, "frames": TIMED_FRAMES, "text": PROMPTS[1], **memory, **spread})


def compile_graph(order: Order, send: Send) -> None:
    """Compile one graph for one family."""
    with _watched(order, send, "build"):
        bundle = Bundle.open(order.folder)
        folder = EngineFolder.at(bundle, FLAVOUR, GraphCompiler(FLAVOUR).version, order.target)
        if known := folder.records.get(order.graph):
            (folder.folder / known.engine.file).unlink(missing_ok=True)  # an engine that is up to date would not be built
        row = build_engine(bundle, order.graph, order.target, Limits())
        cost = {"cpu_s": round(time.process_time(), 1), "peak_mb": _peak_mb()}
        send("engines", {**row, **_gpu_memory(bundle, order.graph, order.target), **cost})


def _gpu_memory(bundle: Bundle, graph: str, target: str) -> dict[str, float]:
    """Return the MB of GPU memory that an engine takes for its weights and its activations, as TensorRT's build log tells them."""
    folder = EngineFolder.at(bundle, FLAVOUR, GraphCompiler(FLAVOUR).version, target)
    log = (folder.folder / folder.records[graph].log).read_text(encoding="utf-8")
    found = {kind: re.search(rf"Total {kind} Memory: (\d+) bytes", log) for kind in ("Weights", "Activation")}
    return {f"{kind.lower()}_mb": round(int(match[1]) / 1e6, 1) for kind, match in found.items() if match}
