"""Host time of the tracking loop per frame, with everything that computes replaced by nothing, ours beside upstream's.

    python benchmarks/host_time.py                 # about a minute
    python benchmarks/host_time.py --arithmetic    # upstream's other forms too, which take ten

What is left is what one core does for each frame while a GPU would wait for it. Frames are in memory, a video of 640 x 480, nothing is
decoded or written, and one thread does everything; the figures are from result to result, after the first 60 frames, of the quickest of
three rounds: what other work on a machine adds is no part of them.

Ours, `trt_track`: the real TensorRT session, as `trt-track run` drives it, over a GPU that does nothing (idle_gpu.py). Counted: the
books of the memory bank, the index arrays, frame and indices copied into pinned memory, every call of the session with its checks, events,
launches of what was recorded, and the results as views. Not counted: the driver's own time, for some twenty calls a frame.

- `trt_track, no pixels`: the same at 64 px and for a video of 16 x 16. What is missing is the copy of the frame, 3 MiB at 1024 px.
- `trt_track, loop alone`: there too, the loop of `Video.propagate` over a session whose calls do nothing, and which records as the real one
  does: the books, the indices and the calls.

Upstream's `SAM2VideoPredictor` on the CPU, its networks (image encoder with its projections, memory attention, prompt encoder, mask
decoder, memory encoder, the projections of object pointers) replaced by functions that return tensors of the right shapes made before.
Counted: its Python, the dispatch of its small operators and, in two of three forms, their arithmetic, which on a GPU would be
kernels and not host time:

- `upstream, loop alone`: at 64 px and for a video of 16 x 16, `torch.nn.functional.interpolate` returning a tensor made before: tensors are
  too small for their arithmetic to take time, so Python and dispatch are left. This is the form to compare with ours.
- `upstream, no resizing` (with `--arithmetic`): at the real sizes.
- `upstream` (with `--arithmetic`): all that is left. At 1024 px that is mostly arithmetic on the host: it resizes logits to 1024 x 1024,
  applies a sigmoid to them and concatenates memories.

Not counted for upstream: what its networks need to launch their kernels one by one, the filling of holes, progress bars, decoding, loading,
and the conversion of its logits into masks, which ours includes. So its figures are a lower bound.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Final, Self, TypeAlias
from unittest import mock

import numpy as np
import torch
import typer
from idle_gpu import idle_session
from result_file import open_report
from rich.console import Console
from rich.table import Table
from torch import Tensor

from trt_track.bench.intervals import Intervals, steady_figures
from trt_track.bench.prompts import box_prompts
from trt_track.bench.upstream import open_state, propagate, quiet
from trt_track.engines.host_arrays import HostArrays
from trt_track.engines.recordings import TURNS
from trt_track.engines.session import Key, Session
from trt_track.export.upstream import build_model, model_spec
from trt_track.runtime.frames import Frame, VideoInfo
from trt_track.runtime.held_clip import HeldClip
from trt_track.runtime.tracker import Tracker, Video
from trt_track.specs import GraphSpec, Limits, ModelSpec, graph_specs

VIDEO_WH: Final = (640, 480)
SMALL: Final = (64, (16, 16))
"""Model and video of the forms without arithmetic: upstream accepts nothing smaller than 64 px."""
Opened: TypeAlias = Callable[[ModelSpec, Limits], AbstractContextManager[Session]]
"""From a model's sizes and what is asked for to an open session."""

Model = Annotated[str, typer.Option(help="A model of the catalogue.")]
Size = Annotated[int, typer.Option(help="Side in pixels of the square that the model sees.")]
Objects = Annotated[str, typer.Option(help="Numbers of objects, with commas between; at most 16.")]
Frames = Annotated[int, typer.Option(min=2, help="Frames in all.")]
Skip = Annotated[int, typer.Option(min=1, help="Frames at the start that are not counted: memories fill, steps are recorded.")]
Rounds = Annotated[int, typer.Option(min=1, help="How often each is measured; the quickest counts.")]
Arithmetic = Annotated[bool, typer.Option("--arithmetic", help="Measure upstream with its arithmetic at the real sizes, too.")]
Out = Annotated[Path | None, typer.Option(help="The JSON file; default: benchmarks/results/host_time.json.")]


@dataclass(frozen=True, slots=True)
class Setting:
    """What all forms share."""

    model: str
    objects: int
    frames: int


class NoOpSession(HostArrays):
    """Fills the `Session` protocol and does nothing."""

    backend = "nothing"
    version = "0"
    device = "nothing"
    max_batch = 16
    max_objects: int | None = None
    max_frames: int | None = None
    max_video_side: int | None = None

    def __init__(self, specs: Mapping[str, GraphSpec]) -> None:
        self.specs = specs
        self._times: Counter[Key] = Counter()

    def empty(self, shape: Sequence[int], dtype: str) -> np.ndarray:
        """Allocate pages that were written once: copies of pages that never were are cheaper than real ones."""
        array = np.empty(tuple(shape), dtype)
        array.fill(0)
        return array

    def upload(self, target: np.ndarray, source: np.ndarray) -> None: ...

    def copy(self, target: np.ndarray, source: np.ndarray) -> None: ...

    def scatter(self, target: np.ndarray, rows: np.ndarray, source: np.ndarray) -> None: ...

    def recorded(self, key: Key, body: Callable[[], None]) -> None:
        """Call the body until it would have been recorded, then launch nothing in its place."""
        self._times[key] += 1
        if self._times[key] < TURNS:
            body()

    def run(self, graph: str, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> None: ...

    def memory(self) -> None: ...

    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None: ...


def host_time(  # noqa: PLR0913, PLR0917 - the command's options
    model: Model = "sam2.1-hiera-tiny",
    size: Size = 1024,
    objects: Objects = "1,16",
    frames: Frames = 160,
    skip: Skip = 60,
    rounds: Rounds = 3,
    arithmetic: Arithmetic = False,
    out: Out = None,
) -> None:
    """Measure host milliseconds per frame, beside upstream."""
    if skip >= frames:
        raise typer.BadParameter(f"--skip {skip} leaves none of {frames} frames")
    report, rows = open_report("host_time", out), []
    torch.set_num_threads(1)  # a thread that waits for another one of a busy machine would be all that is measured
    sizes = {"model": model, "size": size, "video": VIDEO_WH, "small": SMALL}
    settings = {**sizes, "frames": frames, "skip": skip, "rounds": rounds, "threads": 1}
    for count in (int(text) for text in objects.split(",")):
        quickest: dict[str, dict[str, Any]] = {}
        for _ in range(rounds):
            for form, intervals in _forms(Setting(model, count, frames), size, arithmetic=arithmetic):
                row = {"form": form, "objects": count, **_milliseconds(intervals, skip)}
                quickest[form] = min(quickest.get(form, row), row, key=_median)
                report.write({"settings": settings, "rows": [*rows, *quickest.values()]})
        rows += quickest.values()
    _print(rows)
    typer.echo(report.path)


def _forms(setting: Setting, size: int, *, arithmetic: bool) -> Iterator[tuple[str, Intervals]]:
    yield "trt_track", track_ours(setting, size, VIDEO_WH, _idle)
    yield "trt_track, no pixels", track_ours(setting, *SMALL, _idle)
    yield "trt_track, loop alone", track_ours(setting, *SMALL, _nothing)
    yield "upstream, loop alone", track_upstream(setting, *SMALL, resizing=False)
    if arithmetic:
        yield "upstream, no resizing", track_upstream(setting, size, VIDEO_WH, resizing=False)
        yield "upstream", track_upstream(setting, size, VIDEO_WH)


@contextmanager
def _idle(model: ModelSpec, limits: Limits) -> Iterator[Session]:
    """Open the real session on a GPU that does nothing."""
    with TemporaryDirectory(prefix="trt-track-idle-") as folder:
        yield idle_session(Path(folder) / "bundle", model, limits)


@contextmanager
def _nothing(model: ModelSpec, limits: Limits) -> Iterator[Session]:
    """Open a session that does nothing itself."""
    yield NoOpSession(graph_specs(model, "float32"))


def track_ours(setting: Setting, size: int, video_wh: tuple[int, int], opened: Opened) -> Intervals:
    """Run our loop over a session under which nothing computes."""
    model = ModelSpec(name=setting.model, image_size=size)
    info = VideoInfo("memory", *video_wh, setting.frames, Fraction(25), 0, Path("memory"))
    pixels = np.zeros((size, size, 3), np.uint8)
    clip = HeldClip(info, tuple(Frame(i, i / 25, pixels, None) for i in range(setting.frames)))
    intervals = Intervals()
    with opened(model, Limits(objects=max(2, setting.objects))) as session, Tracker(session, model, max_objects=setting.objects) as tracker:
        video = Video(tracker, clip)
        video.add_prompts(box_prompts(setting.objects, width=video_wh[0], height=video_wh[1]))
        gc.collect()
        _drain(intervals.watch(video.propagate(throughput=session.overlaps)))
    return intervals


def track_upstream(setting: Setting, size: int, video_wh: tuple[int, int], *, resizing: bool = True) -> Intervals:
    """Run upstream's loop with networks that return what was made before."""
    predictor: Any = build_model(setting.model, size)
    model_spec(predictor, setting.model)  # refuses a model whose shapes would be others than below
    predictor.fill_hole_area = 0
    _empty_networks(predictor, Blanks(predictor))
    images = torch.zeros(3, size, size).expand(setting.frames, -1, -1, -1)
    intervals = Intervals()
    with ExitStack() as stack:
        stack.enter_context(quiet())
        if not resizing:
            stack.enter_context(mock.patch("torch.nn.functional.interpolate", Resized()))
        state = open_state(predictor, images, video_wh)
        gc.collect()
        prompts = box_prompts(setting.objects, width=video_wh[0], height=video_wh[1])
        _drain(intervals.watch(propagate(predictor, state, prompts)))
    return intervals


def _drain(results: Iterable[object]) -> None:
    for _ in results:
        pass


class Resized:
    """Stands in for `interpolate`: one tensor for each shape, made before."""

    def __init__(self) -> None:
        self.made: dict[tuple[int, ...], Tensor] = {}

    def __call__(self, tensor: Tensor, size: Sequence[int], **_: object) -> Tensor:
        shape = (*tensor.shape[:2], *size)
        if shape not in self.made:
            self.made[shape] = torch.zeros(shape)
        return self.made[shape]


class Blanks:
    """Tensors of the right shapes in place of what upstream's networks return."""

    def __init__(self, predictor: Any) -> None:
        c, m, g = predictor.hidden_dim, predictor.mem_dim, predictor.image_size // 16
        sides = (4 * g, 2 * g, g)
        self.levels = [torch.zeros(1, channels, side, side) for channels, side in zip((c // 8, c // 4, c), sides, strict=True)]
        self.positions = [torch.zeros(1, c, side, side) for side in sides]
        self.conditioned = torch.zeros(g * g, 1, c)
        self.sparse, self.dense = torch.zeros(1, 2, c), torch.zeros(1, c, g, g)
        self.masks, self.ious = torch.zeros(1, 3, 4 * g, 4 * g), torch.zeros(1, 3)
        self.tokens, self.score = torch.zeros(1, 3, c), torch.ones(1, 1)
        self.memory, self.memory_position = torch.zeros(1, m, g, g), torch.zeros(1, m, g, g)

    def encode_image(self, *_: object) -> dict[str, Any]:
        return {"vision_features": self.levels[-1], "vision_pos_enc": list(self.positions), "backbone_fpn": list(self.levels)}

    def attend(self, **_: object) -> Tensor:
        return self.conditioned

    def encode_prompt(self, **_: object) -> tuple[Tensor, Tensor]:
        return self.sparse, self.dense

    def decode_mask(self, *, multimask_output: bool, **_: object) -> tuple[Tensor, ...]:
        last = 3 if multimask_output else 1
        return self.masks[:, :last], self.ious[:, :last], self.tokens[:, :last], self.score

    def encode_memory(self, *_: object, **__: object) -> dict[str, Any]:
        return {"vision_features": self.memory, "vision_pos_enc": [self.memory_position]}


def _empty_networks(predictor: Any, blanks: Blanks) -> None:
    """Replace the forwards; the modules stay, so that calling them costs what it costs."""
    forwards: dict[str, Callable[..., Any]] = {
        "memory_attention": blanks.attend,
        "sam_prompt_encoder": blanks.encode_prompt,
        "sam_mask_decoder": blanks.decode_mask,
        "memory_encoder": blanks.encode_memory,
        "obj_ptr_proj": lambda token: token,
        "obj_ptr_tpos_proj": lambda code: code[..., : predictor.mem_dim],
    }
    for name, forward in forwards.items():
        getattr(predictor, name).forward = forward
    predictor.forward_image = blanks.encode_image
    predictor.sam_prompt_encoder.get_dense_pe = lambda: blanks.dense


def _milliseconds(intervals: Intervals, skip: int) -> dict[str, float]:
    figures = steady_figures([intervals], skip=skip)
    times = {"median": figures["frame_s_median"], "p95": figures["frame_s_p95"], "cpu_mean": figures["frame_cpu_s"]}
    return {"frames": figures["frames"], **{f"{name}_ms": 1000 * seconds for name, seconds in times.items()}}


def _median(row: dict[str, Any]) -> float:
    return float(row["median_ms"])


def _print(rows: list[dict[str, Any]]) -> None:
    table = Table("objects", "", "median ms", "p95 ms", "CPU ms", box=None, pad_edge=False)
    for row in rows:
        table.add_row(str(row["objects"]), row["form"], *(f"{row[key]:.3f}" for key in ("median_ms", "p95_ms", "cpu_mean_ms")))
    Console(width=120, highlight=False, markup=False).print(table)


if __name__ == "__main__":
    typer.run(host_time)
