"""`image_encoder`: a frame of bytes becomes the embedding and the two high-resolution feature maps."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trt_track.export.careful_layers import set_precision, torch_dtype
from trt_track.export.hiera import BlockAttentionByHead, FusedBlockAttention, Trunk
from trt_track.export.neck import Neck
from trt_track.recipe import NetworkPrecision

# The mean and standard deviation of ImageNet per RGB channel, as upstream normalises frames (sam2/utils/misc.py).
MEAN_RGB = (0.485, 0.456, 0.406)
STD_RGB = (0.229, 0.224, 0.225)


class ImageEncoder(nn.Module):
    """Upstream's `forward_image` from the uint8 frame on, with the Hiera trunk, the neck and the decoder's two 1x1 convolutions."""

    mean: Tensor
    std: Tensor

    def __init__(self, predictor: Any, precision: NetworkPrecision, *, fused: bool) -> None:
        """Take the encoder out of an upstream predictor.

        Args:
            predictor: upstream's `SAM2VideoPredictor`.
            precision: what products and stream are in; the features are in the stream's dtype.
            fused: whether attention is one operator, for TensorRT.
        """
        super().__init__()
        encoder, decoder = predictor.image_encoder, predictor.sam_mask_decoder
        patch = encoder.trunk.patch_embed.proj.stride[0]
        attention = partial(FusedBlockAttention, dtype=torch_dtype(precision.dtype)) if fused else BlockAttentionByHead
        self.trunk = Trunk(encoder.trunk, predictor.image_size // patch, attention)
        self.neck = Neck(encoder.neck, {0: decoder.conv_s0, 1: decoder.conv_s1}, self.trunk.outputs)
        self.no_mem_embed = nn.Parameter(predictor.no_mem_embed.detach().reshape(1, -1, 1, 1), requires_grad=False)
        set_precision(self, precision)
        self.stream = torch_dtype(precision.stream)
        self.register_buffer("mean", torch.tensor(MEAN_RGB).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD_RGB).view(1, 3, 1, 1))

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return embed and embed_no_memory (F, C, G, G), high_res_0 (F, C/8, 4G, 4G) and high_res_1 (F, C/4, 2G, 2G).

        Args:
            frames: (F, S, S, 3) uint8 RGB.
        """
        # TensorRT takes uint8 only where a cast follows at once.
        pixels = frames.float().permute(0, 3, 1, 2) / 255.0
        # The coarsest map has done its work in the neck.
        high_res_0, high_res_1, embed = self.neck(self.trunk(((pixels - self.mean) / self.std).to(self.stream)))[:3]
        features = embed, embed + self.no_mem_embed, high_res_0, high_res_1
        return tuple(x.to(self.stream) for x in features)
