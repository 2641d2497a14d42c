"""One run of upstream's predictor, eager or compiled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from typing import Any

import numpy as np
import torch

from trt_track.bench.looped_clip import LoopedClip
from trt_track.bench.memory_series import MemorySeries, device_meter, nothing_used
from trt_track.bench.order import COMPILED, CUDA, RunOrder, Settings
from trt_track.bench.prompts import box_prompts
from trt_track.bench.run_log import RunLog
from trt_track.bench.upstream import (
    HoleFilling,
    build_upstream,
    fills_holes,
    open_state,
    precision,
    propagate,
    quiet,
    upstream_images,
    wait_for,
)
from trt_track.bench.worker import Send
from trt_track.errors import ModelError, VideoError


def track_upstream(order: RunOrder, send: Send) -> None:
    """Track the clip, all frames of which are loaded before, as upstream does; send "run".

    Raises:
        ModelError: nothing was said of upstream's model.
    """
    settings = order.settings
    if settings.upstream is None:
        raise ModelError("the order says nothing of upstream's model")
    torch.set_flush_denormal(settings.flush_denormals)  # before torch starts its threads, which inherit it
    torch.set_num_threads(settings.threads)
    with ExitStack() as stack:
        used = stack.enter_context(device_meter(_torch_used if settings.device == CUDA else nothing_used))
        before = (used() or 0) if used is not _torch_used else 0  # asking torch makes its context, which is upstream's own
        predictor = build_upstream(settings.upstream, compiled=order.side == COMPILED, device=settings.device)
        run = _UpstreamRun(predictor, order)
        filling = HoleFilling()
        for context in (quiet(), precision(settings.precision, settings.device)):
            stack.enter_context(context)
        if not fills_holes():
            stack.enter_context(filling.installed())
        for _ in run.masks(settings.warm_up(order.side)):
            pass
        meter = used if settings.device == CUDA else nothing_used
        log = RunLog(order, MemorySeries(meter, before), send, off_the_clock=lambda: filling.seconds)
        log.follow(run.masks(settings.frames))
        facts = {"backend": f"torch, {settings.precision}", "backend_version": torch.__version__, "device": _device_name(settings)}
        send("run", log.figures() | facts | {"hole_filling_s": round(filling.seconds, 6)})


class _UpstreamRun:
    """The clip as upstream loads it, and passes over it."""

    def __init__(self, predictor: Any, order: RunOrder) -> None:
        settings = order.settings
        self.predictor, self.order = predictor, order
        with LoopedClip(settings.clip, settings.frames) as source:
            self.info = source.info
            frames = source.frames(size=predictor.image_size, stop=settings.frames)
            images = upstream_images((frame.model_rgb_hwc for frame in frames), settings.frames, predictor.image_size)
            if source.damage:
                raise VideoError(source.damage)
        self.images = images.to(settings.device)

    def masks(self, frames: int) -> Iterator[np.ndarray]:
        """Yield the masks (B, H, W) bool of each of the first frames; loading, which encodes frame 0, happens before this returns."""
        wh = self.info.width, self.info.height
        state = open_state(self.predictor, self.images[:frames], wh)
        wait_for(self.images.device)
        results = propagate(self.predictor, state, box_prompts(self.order.objects, width=wh[0], height=wh[1]))
        return ((logits[:, 0] > 0).cpu().numpy() for _, logits in islice(results, frames))


def _torch_used() -> int:
    free, total = torch.cuda.mem_get_info()
    return int(total - free)


def _device_name(settings: Settings) -> str:
    return torch.cuda.get_device_name() if settings.device == CUDA else "CPU"
