"""`mask_prompt`: a mask that the user drew becomes logits and the decoder's mask prompt."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# Upstream turns a drawn mask into logits of -10 and +10 (`_use_mask_as_output` in sam2/modeling/sam2_base.py).
SCALE, BIAS = 20.0, -10.0


class MaskPrompt(nn.Module):
    """The mask part of upstream's `_use_mask_as_output`; the pointer comes from `mask_decoder`, run on `mask_prompt`.

    Upstream shrinks the mask with an antialiased resize, which TensorRT does not have. It is linear and separable, so it is a product
    with a constant matrix from either side; the matrix is what the resize makes of the identity.
    """

    downsample: Any
    shrink: Tensor

    def __init__(self, predictor: Any) -> None:
        """Take the mask convolution out of an upstream predictor."""
        super().__init__()
        self.downsample = predictor.mask_downsample
        size = predictor.image_size
        identity = torch.eye(size)[None, None]
        shrink = functional.interpolate(identity, size=(size // 4, size), mode="bilinear", align_corners=False, antialias=True)
        self.register_buffer("shrink", shrink[0, 0])

    def forward(self, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map masks (B, S, S) uint8 of 0 and 1 to mask_prompt and mask_logits, both (B, 1, 4G, 4G), and object_score (B,)."""
        drawn = mask.float()[:, None]
        logits = self.shrink @ ((drawn * SCALE + BIAS) @ self.shrink.T)
        present = drawn.flatten(1).amax(dim=1)
        return self.downsample(drawn), logits, present * SCALE + BIAS
