"""The steps of one frame, as calls of the graphs: encode the frame, follow objects, start one from a prompt, correct one.

Everything is allocated when the steps are opened. A step moves integers (which page, which age, which object); all arithmetic, from the
bytes of the frame to the bytes of the mask, is inside the graphs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trt_track.engines.session import Session
from trt_track.runtime.bank import MemoryBank, Recall
from trt_track.runtime.small_inputs import SmallInputs
from trt_track.specs import Limits, ModelSpec


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was found of one object on one frame. Its arrays are rows of what its batch found, copied out of the session."""

    mask_hw: np.ndarray
    """(H, W) bool, in pixels of the video."""
    logits: np.ndarray | None
    """(1, S/4, S/4) float32, the decoder's, > 0 inside the object; small holes are filled in the mask only. None if not kept."""
    iou: float
    """Predicted IoU of the mask, 0 to 1."""
    presence: float
    """Logit, > 0 where the object is in the frame."""


@dataclass(frozen=True, slots=True)
class Clicks:
    """What the decoder is asked with: points (K, 2) float32 in model pixels and labels (K,) int32, upstream's order."""

    points: np.ndarray
    labels: np.ndarray


class Steps:
    """Buffers of one video and the graph calls that read and write them."""

    def __init__(self, session: Session, model: ModelSpec, limits: Limits, video_wh: tuple[int, int], *, keep_logits: bool = False) -> None:
        """Allocate everything.

        Args:
            session: what computes.
            model: sizes.
            limits: capacity of the bank and of a batch.
            video_wh: size of the masks that come out.
            keep_logits: whether outcomes carry the logits.
        """
        self.session, self.model, self.keep_logits = session, model, keep_logits
        self.batch = min(session.max_batch, limits.objects)
        sizes = {"F": 1, "B": self.batch, "pages": limits.pages, "pointers": limits.pointers, "W": video_wh[0], "H": video_wh[1]}
        self.sizes = sizes
        self.frames = self._tensor("image_encoder", "frames")
        self.image = {name: self._tensor("image_encoder", name) for name in ("embed", "embed_no_memory", "high_res_0", "high_res_1")}
        self.bank = self._tensor("memory_attention", "bank")
        self.pointer_bank = self._tensor("memory_attention", "pointer_bank")
        self.conditioned = self._tensor("memory_attention", "conditioned")
        self.decoded = {name: self._tensor("mask_decoder", name) for name in ("mask_logits", "iou", "pointer", "object_score")}
        self.memory = self._tensor("memory_encoder", "memory")
        self.upscaled = {name: self._tensor("mask_upscale", name) for name in ("filled_logits", "prompt_logits", "mask")}
        self.no_mask = self._tensor("mask_decoder", "mask_prompt")
        self.drawn = {name: self._tensor("mask_prompt", name, B=1) for name in ("mask", "mask_prompt", "mask_logits", "object_score")}
        self.small = SmallInputs(session, limits, self.batch)
        sides = {"video_height": video_wh[1], "video_width": video_wh[0]}
        self.video_size = {name: self.small.constant(np.array([side], np.int64)) for name, side in sides.items()}
        self.sure = self.small.constant(np.ones(1, np.float32))

    def encode(self, frame_rgb_hwc: np.ndarray) -> None:
        """Run the image encoder on a frame (S, S, 3) uint8; the steps that follow are about this frame."""
        self.session.upload(self.frames, frame_rgb_hwc[None])
        self.session.run("image_encoder", {"frames": self.frames}, self.image)

    def follow(self, object_ids: Sequence[int], frame: int, bank: MemoryBank) -> dict[int, Outcome]:
        """Track objects from their memories, those with equally many memories in one batch."""
        groups: dict[tuple[int, int], list[tuple[int, Recall]]] = {}
        for object_id in object_ids:
            recall = bank.recall(object_id, frame)
            groups.setdefault(recall.key, []).append((object_id, recall))
        outcomes = {}
        for group in groups.values():
            for start in range(0, len(group), self.batch):
                outcomes.update(self._follow_batch(group[start : start + self.batch], frame, bank))
        return outcomes

    def _follow_batch(self, group: list[tuple[int, Recall]], frame: int, bank: MemoryBank) -> dict[int, Outcome]:
        conditioned = self._condition([recall for _, recall in group], bank.pointer_span)
        objects = len(group)
        multimask = self.model.multimask_tracking and self.model.multimask_clicks[0] == 0
        self._decode(conditioned, self.small.no_clicks(objects), self._no_mask(objects), multimask=multimask)
        slots = [bank.remember(object_id, frame) for object_id, _ in group]
        self._memorise(slots, self.decoded["mask_logits"], self.decoded["object_score"], from_prompt=False)
        self._upscale(self.decoded["mask_logits"], objects)
        return dict(zip((object_id for object_id, _ in group), self._outcomes(objects), strict=True))

    def start(self, object_id: int, frame: int, bank: MemoryBank, prompt: Clicks | np.ndarray) -> Outcome:
        """Make this frame a conditioning frame of the object, from clicks and box or from a drawn mask (S, S) uint8."""
        slot = bank.condition(object_id, frame)
        if isinstance(prompt, Clicks):
            fewest, most = self.model.multimask_clicks
            multimask = fewest <= len(prompt.labels) <= most
            self._decode(
                self.image["embed_no_memory"], self.small.clicks(prompt.points, prompt.labels), self._no_mask(1), multimask=multimask
            )
            return self._settle(slot)
        return self._draw(slot, prompt)

    def correct(self, object_id: int, frame: int, bank: MemoryBank, prompt: Clicks | np.ndarray, *, conditions: bool = False) -> Outcome:
        """Track one object and put it right on this frame, with the tracked mask as a prompt beside the clicks.

        It is remembered as a tracked frame, or as a conditioning frame where the model or `conditions` says so.
        """
        recall = bank.recall(object_id, frame)
        slot = bank.condition(object_id, frame) if conditions or self.model.corrections_condition else bank.remember(object_id, frame)
        if not isinstance(prompt, Clicks):
            return self._draw(slot, prompt)
        conditioned = self._condition([recall], bank.pointer_span)
        tracking = self.model.multimask_tracking
        fewest, most = self.model.multimask_clicks
        self._decode(conditioned, self.small.no_clicks(1), self._no_mask(1), multimask=tracking and fewest == 0)
        self._upscale(self.decoded["mask_logits"], 1)
        tracked = (self.upscaled["prompt_logits"][:1], self.small.flag("has_mask", 1, value=True))
        self._decode(
            conditioned,
            self.small.clicks(prompt.points, prompt.labels),
            tracked,
            multimask=tracking and fewest <= len(prompt.labels) <= most,
        )
        return self._settle(slot)

    def _draw(self, slot: tuple[int, int], mask: np.ndarray) -> Outcome:
        """Take a drawn mask as the answer; the decoder only makes its pointer."""
        self.session.upload(self.drawn["mask"], mask[None])
        self.session.run("mask_prompt", {"mask": self.drawn["mask"]}, {k: v for k, v in self.drawn.items() if k != "mask"})
        prompt = (self.drawn["mask_prompt"], self.small.flag("has_mask", 1, value=True))
        self._decode(self.image["embed"], self.small.no_clicks(1), prompt, multimask=False)
        self.session.copy(self.decoded["mask_logits"][:1], self.drawn["mask_logits"])
        self.session.copy(self.decoded["object_score"][:1], self.drawn["object_score"])
        self.session.copy(self.decoded["iou"][:1], self.sure)
        return self._settle(slot)

    def _settle(self, slot: tuple[int, int]) -> Outcome:
        """Turn what the decoder holds for one prompted object into a memory and an outcome."""
        self._upscale(self.decoded["mask_logits"], 1)
        self._memorise([slot], self.upscaled["filled_logits"], self.decoded["object_score"], from_prompt=True)
        return self._outcomes(1)[0]

    def _condition(self, recalls: list[Recall], span: int) -> Any:
        """Run the memory attention for objects with equally many memories; return (B, C, G, G)."""
        conditioned = self.conditioned[: len(recalls)]
        inputs = {
            "embed": self.image["embed"],
            "bank": self.bank,
            "page": self.small.rows("page", [recall.pages for recall in recalls]),
            "age": self.small.rows("page_age", [recall.ages for recall in recalls]),
            "pointer_bank": self.pointer_bank,
            "pointer": self.small.rows("pointer", [recall.pointers for recall in recalls]),
            "pointer_age": self.small.rows("pointer_age", [recall.pointer_ages for recall in recalls]),
            "pointer_span": self.small.span(span),
        }
        self.session.run("memory_attention", inputs, {"conditioned": conditioned})
        return conditioned

    def _decode(self, conditioned: Any, clicks: tuple[Any, Any], mask: tuple[Any, Any], *, multimask: bool) -> None:
        """Run the mask decoder on (B, C, G, G) features."""
        objects = conditioned.shape[0]
        inputs = {
            "conditioned": conditioned,
            "high_res_0": self.image["high_res_0"],
            "high_res_1": self.image["high_res_1"],
            "points": clicks[0],
            "labels": clicks[1],
            "mask_prompt": mask[0],
            "has_mask": mask[1],
            "multimask": self.small.flag("multimask", objects, value=multimask),
        }
        self.session.run("mask_decoder", inputs, {name: array[:objects] for name, array in self.decoded.items()})

    def _memorise(self, slots: list[tuple[int, int]], mask_logits: Any, object_score: Any, *, from_prompt: bool) -> None:
        """Run the memory encoder and put memories and pointers into their slots of the bank."""
        objects = len(slots)
        alone = objects == 1
        memory = self.bank[slots[0][0] : slots[0][0] + 1] if alone else self.memory[:objects]
        inputs = {
            "embed": self.image["embed"],
            "mask_logits": mask_logits[:objects],
            "object_score": object_score[:objects],
            "from_prompt": self.small.flag("from_prompt", objects, value=from_prompt),
        }
        self.session.run("memory_encoder", inputs, {"memory": memory})
        for i, (page, pointer) in enumerate(slots):
            if not alone:
                self.session.copy(self.bank[page], memory[i])
            self.session.copy(self.pointer_bank[pointer], self.decoded["pointer"][i])

    def _upscale(self, mask_logits: Any, objects: int) -> None:
        """Run the upscaling to the video's size, holes filled."""
        inputs = {"mask_logits": mask_logits[:objects], **self.video_size}
        self.session.run("mask_upscale", inputs, {name: array[:objects] for name, array in self.upscaled.items()})

    def _outcomes(self, objects: int) -> list[Outcome]:
        """Copy out what the last batch found."""
        masks = self.session.download(self.upscaled["mask"][:objects]).view(np.bool_).copy()
        logits = self.session.download(self.decoded["mask_logits"][:objects]).copy() if self.keep_logits else [None] * objects
        ious = self.session.download(self.decoded["iou"][:objects]).tolist()
        scores = self.session.download(self.decoded["object_score"][:objects]).tolist()
        return [Outcome(masks[i], logits[i], ious[i], scores[i]) for i in range(objects)]

    def _tensor(self, graph: str, name: str, **sizes: int) -> Any:
        spec = self.session.specs[graph].tensor(name)
        return self.session.empty(spec.concrete({**self.sizes, **sizes}), spec.dtype)

    def _no_mask(self, objects: int) -> tuple[Any, Any]:
        return self.no_mask[:objects], self.small.flag("has_mask", objects, value=False)
