"""`image_encoder`: a frame of bytes becomes the embedding and the two high-resolution feature maps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

# The mean and standard deviation of ImageNet per RGB channel, as upstream normalises frames (sam2/utils/misc.py).
MEAN_RGB = (0.485, 0.456, 0.406)
STD_RGB = (0.229, 0.224, 0.225)


class ImageEncoder(nn.Module):
    """Upstream's `forward_image` from the uint8 frame on, with the Hiera trunk, the neck and the decoder's two 1x1 convolutions."""

    trunk: Any
    neck: Any
    conv_s0: Any
    conv_s1: Any
    mean: Tensor
    std: Tensor

    def __init__(self, predictor: Any, dtype: torch.dtype) -> None:
        """Take the encoder out of an upstream predictor; `dtype` is what the trunk and the neck compute in."""
        super().__init__()
        self.trunk = predictor.image_encoder.trunk
        self.neck = predictor.image_encoder.neck
        self.scalp = predictor.image_encoder.scalp
        self.conv_s0 = predictor.sam_mask_decoder.conv_s0
        self.conv_s1 = predictor.sam_mask_decoder.conv_s1
        self.no_mem_embed = nn.Parameter(predictor.no_mem_embed.detach().reshape(1, -1, 1, 1), requires_grad=False)
        self.to(dtype)
        self.dtype = dtype
        self.register_buffer("mean", torch.tensor(MEAN_RGB).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD_RGB).view(1, 3, 1, 1))

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return embed and embed_no_memory (F, C, G, G), high_res_0 (F, C/8, 4G, 4G) and high_res_1 (F, C/4, 2G, 2G).

        Args:
            frames: (F, S, S, 3) uint8 RGB.
        """
        # TensorRT takes uint8 only where a cast follows at once.
        pixels = frames.float().permute(0, 3, 1, 2) / 255.0
        features, _ = self.neck(self.trunk(((pixels - self.mean) / self.std).to(self.dtype)))
        high_0, high_1, embed = (x.to(self.dtype) for x in features[: len(features) - self.scalp][-3:])
        return embed, embed + self.no_mem_embed, self.conv_s0(high_0), self.conv_s1(high_1)
