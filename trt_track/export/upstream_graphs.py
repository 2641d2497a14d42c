"""What each graph must compute, computed by upstream's own methods: the reference of every numeric check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from trt_track.export.image_encoder import MEAN_RGB, STD_RGB
from trt_track.export.reference import choices_seen, components
from trt_track.specs import GraphSpec

Tensors = dict[str, Tensor]

# The frame that the memories of a check are recalled on, in a long video: every age exists, and pointer ages have their full span.
_NOW = 100


class UpstreamGraphs:
    """Upstream's predictor, called like the graphs: named tensors in, named float32 tensors out."""

    def __init__(self, predictor: nn.Module) -> None:
        """Use `predictor`, upstream's `SAM2VideoPredictor` in float32, without changing it."""
        self.net: Any = predictor
        self._calls: Mapping[str, Callable[[Tensors], tuple[Tensor, ...]]] = {
            "image_encoder": self._image_encoder,
            "memory_attention": self._memory_attention,
            "mask_decoder": self._mask_decoder,
            "memory_encoder": self._memory_encoder,
            "mask_prompt": self._mask_prompt,
            "mask_upscale": self._mask_upscale,
        }

    @torch.inference_mode()
    def run(self, spec: GraphSpec, inputs: Mapping[str, Tensor]) -> Tensors:
        """Return the outputs of one graph; inputs of lower precision are taken as float32.

        The memories must be those of a conditioning frame and the frames just before, as `sample_inputs` makes them.
        """
        precise = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in inputs.items()}
        return dict(zip((tensor.name for tensor in spec.outputs), self._calls[spec.name](precise), strict=True))

    def _image_encoder(self, x: Tensors) -> tuple[Tensor, ...]:
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN_RGB, STD_RGB))
        features = self.net.forward_image((x["frames"].permute(0, 3, 1, 2).float() / 255.0 - mean) / std)["backbone_fpn"]
        return features[2], features[2] + self.net.no_mem_embed.view(1, -1, 1, 1), features[0], features[1]

    def _memory_attention(self, x: Tensors) -> tuple[Tensor, ...]:
        grid = x["embed"].shape[-1]
        position = self.net.image_encoder.neck.position_encoding(x["embed"])
        flat, flat_position = (tensor.flatten(2).permute(2, 0, 1) for tensor in (x["embed"], position))
        rows = []
        for row in range(x["page"].shape[0]):
            features = self.net._prepare_memory_conditioned_features(
                frame_idx=_NOW,
                is_init_cond_frame=False,
                current_vision_feats=[flat],
                current_vision_pos_embeds=[flat_position],
                feat_sizes=[(grid, grid)],
                output_dict=self._history(x, row),
                num_frames=2 * _NOW,
            )
            rows.append(features)
        return (torch.cat(rows),)

    def _history(self, x: Tensors, row: int) -> dict[str, dict[int, Any]]:
        """Rebuild upstream's outputs of past frames from pages, pointers and their ages."""
        frames: dict[int, dict[str, Any]] = {}
        first = _NOW - int(x["pointer_age"][row, 0])
        code = self.net.memory_encoder.position_encoding(x["bank"][:1])
        for page, age in zip(x["page"][row].tolist(), x["age"][row].tolist(), strict=True):
            frame = first if age == 0 else _NOW - (self.net.num_maskmem - age)
            frames[frame] = {"maskmem_features": x["bank"][page][None], "maskmem_pos_enc": [code], "obj_ptr": None}
        for pointer, age in zip(x["pointer"][row].tolist(), x["pointer_age"][row].tolist(), strict=True):
            frames.setdefault(_NOW - age, {})["obj_ptr"] = x["pointer_bank"][pointer][None]
        past = {frame: out for frame, out in frames.items() if frame != first}
        return {"cond_frame_outputs": {first: frames[first]}, "non_cond_frame_outputs": past}

    def _mask_decoder(self, x: Tensors) -> tuple[Tensor, ...]:
        rows = []
        for row in range(x["points"].shape[0]):
            one = slice(row, row + 1)
            multimask = bool(x["multimask"][row])
            with choices_seen(self.net.sam_mask_decoder) as chosen:
                heads = self.net._forward_sam_heads(
                    x["conditioned"][one],
                    {"point_coords": x["points"][one], "point_labels": x["labels"][one]},
                    x["mask_prompt"][one] if bool(x["has_mask"][row]) else None,
                    [x["high_res_0"], x["high_res_1"]],
                    multimask,
                )
            _, _, ious, low_res, _, pointer, score = heads
            rows.append((low_res, ious.amax(dim=1), pointer, score[:, 0], *chosen))
        return tuple(torch.cat(column) for column in zip(*rows, strict=True))

    def _memory_encoder(self, x: Tensors) -> tuple[Tensor, ...]:
        size = self.net.image_size
        flat = x["embed"].flatten(2).permute(2, 0, 1)
        rows = []
        for row in range(x["mask_logits"].shape[0]):
            logits = functional.interpolate(x["mask_logits"][row : row + 1], (size, size), mode="bilinear", align_corners=False)
            grid = x["embed"].shape[-1]
            memory, _ = self.net._encode_new_memory(
                [flat], [(grid, grid)], logits, x["object_score"][row : row + 1, None], bool(x["from_prompt"][row])
            )
            rows.append(memory.to(torch.bfloat16).float())
        return (torch.cat(rows),)

    def _mask_prompt(self, x: Tensors) -> tuple[Tensor, ...]:
        drawn = x["mask"][:, None].float()
        size = self.net.image_size // 4
        logits = functional.interpolate(drawn * 20.0 - 10.0, (size, size), mode="bilinear", align_corners=False, antialias=True)
        present = (drawn.flatten(1) > 0).any(dim=1).float()
        return self.net.mask_downsample(drawn), logits, present * 20.0 - 10.0

    def _mask_upscale(self, x: Tensors) -> tuple[Tensor, ...]:
        filled = x["mask_logits"]
        if self.net.fill_hole_area > 0:
            labels, areas = components(filled <= 0)
            filled = torch.where((labels > 0) & (areas <= self.net.fill_hole_area), 0.1, filled)
        size = (int(x["video_height"]), int(x["video_width"]))
        mask = functional.interpolate(filled, size, mode="bilinear", align_corners=False)[:, 0] > 0
        return filled, filled.clamp(-32.0, 32.0), mask.to(torch.uint8)
