"""Every array that tracking one video needs in the session's memory, as a list: what `Steps` allocates, and what a plan adds up.

Nothing else is allocated while a video is tracked, and nothing in the list depends on how long the video is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from trt_track.specs import DTYPE_BYTES, GraphSpec, Limits, ModelSpec

ALIGNMENT: Final = 256
"""Bytes; engines ask for inputs that begin at such an address."""
_WORDS: Final = ALIGNMENT // 4
FLAGS: Final = ("has_mask", "multimask", "from_prompt")

IMAGE: Final = ("embed", "embed_no_memory", "high_res_0", "high_res_1")
DECODED: Final = ("mask_logits", "iou", "pointer", "object_score", "chosen")
UPSCALED: Final = ("filled_logits", "prompt_logits", "mask")
DRAWN: Final = ("mask", "mask_prompt", "mask_logits", "object_score")


@dataclass(frozen=True, slots=True)
class Buffer:
    """One array of a session."""

    part: str
    """What it is for, as `trt-track plan` names it: "frames", "features", "bank", "results", "small inputs"."""
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


def track_buffers(  # noqa: PLR0913 - everything that a size depends on
    specs: Mapping[str, GraphSpec], model: ModelSpec, limits: Limits, *, batch: int, video_wh: tuple[int, int], slots: int, frames: int = 1
) -> dict[str, Buffer]:
    """List the arrays of one video by name.

    Args:
        specs: contract of every graph.
        model: how many frames an object remembers.
        limits: capacity of the bank, most clicks.
        batch: most objects of one call.
        video_wh: size of the masks that come out, in pixels.
        slots: 2 where the next frames are encoded while those before them are tracked, else 1.
        frames: of one call of the image encoder.
    """
    sizes = {"F": frames, "B": batch, "pages": limits.pages, "pointers": limits.pointers, "W": video_wh[0], "H": video_wh[1]}

    def tensor(part: str, graph: str, name: str, **other: int) -> Buffer:
        spec = specs[graph].tensor(name)
        return Buffer(part, spec.concrete({**sizes, **other}), spec.dtype)

    found = {
        "bank": tensor("bank", "memory_attention", "bank"),
        "pointer_bank": tensor("bank", "memory_attention", "pointer_bank"),
        "conditioned": tensor("features", "memory_attention", "conditioned"),
        "memory": tensor("features", "memory_encoder", "memory"),
        "no_mask": tensor("small inputs", "mask_decoder", "mask_prompt"),
        **{f"drawn {name}": tensor("prompts", "mask_prompt", name, B=1) for name in DRAWN},
    }
    for slot in range(slots):
        found[f"{slot} frames"] = tensor("frames", "image_encoder", "frames")
        found |= {f"{slot} {name}": tensor("features", "image_encoder", name) for name in IMAGE}
        found |= {f"{slot} {name}": tensor("results", "mask_decoder", name) for name in DECODED}
        found |= {f"{slot} {name}": tensor("results", "mask_upscale", name) for name in UPSCALED}
    return found | _small(model, limits, batch)


def _small(model: ModelSpec, limits: Limits, batch: int) -> dict[str, Buffer]:
    """List indices, clicks, flags and constants."""
    most = (batch, max(limits.memories, model.memory_frames), max(limits.pointers_attended, model.pointer_frames + 3))
    arrays = {
        "indices": ((IndexLayout(*most).words,), "int32"),
        "slots": ((IndexLayout(batch, 0, 0).words,), "int32"),
        "points": ((limits.clicks * 2,), "float32"),
        "labels": ((limits.clicks,), "int32"),
        "no_points": ((batch, 1, 2), "float32"),
        "no_labels": ((batch, 1), "int32"),
        "video_height": ((1,), "int64"),
        "video_width": ((1,), "int64"),
        "sure": ((1,), "float32"),
        **{f"{name} {value}": ((batch,), "bool") for name in FLAGS for value in (False, True)},
    }
    return {name: Buffer("small inputs", shape, dtype) for name, (shape, dtype) in arrays.items()}


class IndexLayout:
    """Where the indices of one batch lie in one array of int32, each where an engine may read it: one upload carries them all."""

    def __init__(self, objects: int, memories: int, pointers: int) -> None:
        """Lay them out.

        Args:
            objects: B, in the batch.
            memories: N, of each object; 0 for a batch that has none to recall.
            pointers: P, of each object.
        """
        shapes = {
            "to_page": (objects,),
            "to_pointer": (objects,),
            "page": (objects, memories),
            "age": (objects, memories),
            "pointer": (objects, pointers),
            "pointer_age": (objects, pointers),
            "pointer_span": (1,),
        }
        self.places: dict[str, tuple[int, tuple[int, ...]]] = {}
        """First word and shape of each."""
        self.words = 0
        for name, shape in shapes.items():
            self.places[name] = (self.words, shape)
            self.words += math.prod(shape) + -math.prod(shape) % _WORDS

    def views(self, words: np.ndarray) -> dict[str, np.ndarray]:
        """Return each of them as a view of an array of words."""
        return {name: words[start : start + math.prod(shape)].reshape(*shape) for name, (start, shape) in self.places.items()}
