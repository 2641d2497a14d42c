"""Multi-scale deformable attention over feature maps of fixed sizes (https://arxiv.org/abs/2010.04159), FP32.

Sampling is `GridSample` as opset 16 defines it: TensorRT has miscompiled the later form in some versions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Sizes = tuple[tuple[int, int], ...]
"""Height and width of each level's map."""


class DeformableAttention(nn.Module):
    """Each query looks at a few points of every level, at places and with weights that it chooses."""

    def __init__(self, upstream: Any, sizes: Sizes) -> None:
        """Take over the weights of transformers' `GroundingDinoMultiscaleDeformableAttention`."""
        super().__init__()
        self.heads, self.points, self.sizes = upstream.n_heads, upstream.n_points, sizes
        self.sampling_offsets, self.attention_weights = upstream.sampling_offsets, upstream.attention_weights
        self.value_proj, self.output_proj = upstream.value_proj, upstream.output_proj
        wh = torch.tensor([(width, height) for height, width in sizes], dtype=torch.float32)
        self.register_buffer("level_wh", wh[:, None], persistent=False)

    level_wh: Tensor

    def forward(self, queries: Tensor, reference: Tensor, maps: Tensor) -> Tensor:
        """Sample.

        Args:
            queries: (F, Q, C), their position codes added.
            reference: (1 or F, Q, 2) points or (F, Q, 4) boxes as centre and size, 0 to 1: the same on every level.
            maps: (F, L, C), all levels behind one another.

        Returns:
            (F, Q, C).
        """
        frames, count, channels = queries.shape
        levels, width = len(self.sizes), channels // self.heads
        offsets = self.sampling_offsets(queries).view(frames, count, self.heads, levels, self.points, 2)
        places = self._places(offsets, reference[:, :, None, None, None])
        weights = self.attention_weights(queries).view(frames, count, self.heads, levels * self.points).softmax(-1)
        # (F, Q, heads, levels, points, 2) -> per level (F heads, Q, points, 2), from -1 to 1
        grids = (2 * places - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)
        values = self.value_proj(maps).view(frames, -1, self.heads, width).permute(0, 2, 3, 1)  # (F, heads, width, L)
        sampled = [
            functional.grid_sample(level, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
            for level, grid in zip(self._levels(values.flatten(0, 1)), grids.unbind(0), strict=True)
        ]
        weights = weights.transpose(1, 2).flatten(0, 1)[:, None]  # (F heads, 1, Q, levels points)
        summed = (torch.cat(sampled, dim=-1) * weights).sum(-1)  # (F heads, width, Q)
        attended: Tensor = self.output_proj(summed.view(frames, channels, count).transpose(1, 2))
        return attended

    def _places(self, offsets: Tensor, reference: Tensor) -> Tensor:
        """Return where to sample, 0 to 1: offsets count in cells of a level from a point, in shares of its size from a box."""
        if reference.shape[-1] == 2:
            on_points: Tensor = reference + offsets / self.level_wh
            return on_points
        in_boxes: Tensor = reference[..., :2] + offsets / self.points * reference[..., 2:] * 0.5
        return in_boxes

    def _levels(self, values: Tensor) -> list[Tensor]:
        """Cut (N, width, L) into a map (N, width, h, w) per level."""
        parts = values.split([height * width for height, width in self.sizes], dim=-1)
        return [part.unflatten(-1, size) for part, size in zip(parts, self.sizes, strict=True)]
