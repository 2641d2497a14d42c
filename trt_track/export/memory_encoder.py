"""`memory_encoder`: a frame's embedding and the mask found on it become a memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class MemoryEncoder(nn.Module):
    """Upstream's `_encode_new_memory`, with the rounding that upstream applies when it stores the result."""

    encoder: Any

    def __init__(self, predictor: Any, dtype: torch.dtype, memory: torch.dtype) -> None:
        """Take the memory encoder out of an upstream predictor.

        Args:
            predictor: upstream's `SAM2VideoPredictor`.
            dtype: what the convolutions compute in.
            memory: of the memory that leaves the graph. In float32 it is rounded to bfloat16 as upstream does
                (`_run_single_frame_inference` in sam2_video_predictor.py); float16 keeps three bits more.
        """
        super().__init__()
        self.encoder = predictor.memory_encoder
        self.image_size = predictor.image_size
        self.scale, self.bias = predictor.sigmoid_scale_for_mem_enc, predictor.sigmoid_bias_for_mem_enc
        self.binarize_prompted = bool(predictor.binarize_mask_from_pts_for_mem_enc)
        absent = predictor.no_obj_embed_spatial
        self.absent = None if absent is None else nn.Parameter(absent.detach().view(1, -1, 1, 1), requires_grad=False)
        self.encoder.to(dtype)
        self.dtype, self.memory = dtype, memory

    def forward(self, embed: Tensor, mask_logits: Tensor, object_score: Tensor, from_prompt: Tensor) -> Tensor:
        """Return memory (B, M, G, G).

        Args:
            embed: (1, C, G, G) of the frame.
            mask_logits: (B, 1, 4G, 4G).
            object_score: (B,), > 0 where the object is present.
            from_prompt: (B,) bool: masks that a user made are taken as they are, others as probabilities.
        """
        size = (self.image_size, self.image_size)
        logits = functional.interpolate(mask_logits, size=size, mode="bilinear", align_corners=False)
        mask = torch.sigmoid(logits)
        if self.binarize_prompted:
            mask = torch.where(from_prompt[:, None, None, None], (logits > 0).float(), mask)
        mask = self.encoder.mask_downsampler((mask * self.scale + self.bias).to(self.dtype))
        fused = self.encoder.fuser(self.encoder.pix_feat_proj(embed.to(self.dtype)) + mask)
        memory = self.encoder.out_proj(fused).float()
        if self.absent is not None:
            memory = memory + (object_score <= 0).float()[:, None, None, None] * self.absent
        rounded: Tensor = memory.to(torch.bfloat16).float() if self.memory == torch.float32 else memory.to(self.memory)
        return rounded
