"""`mask_upscale`: low-resolution logits become a mask of the video's size, small holes filled."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# The logit that upstream gives a filled pixel (`fill_holes_in_mask_scores` in sam2/utils/misc.py).
FILLED_LOGIT = 0.1
# The bound on logits that are fed back as the prompt of a correction (`add_new_points_or_box` in sam2/sam2_video_predictor.py).
PROMPT_LOGIT = 32.0


class HoleFilling(nn.Module):
    """Fill every 8-connected hole of at most `area` pixels, exactly, without loops over the data.

    Upstream needs a CUDA extension for this. Here it is a fixed number of poolings and convolutions. A component of at most `area`
    pixels has no two pixels more than `area` - 1 steps apart, so that many steps of a 3x3 maximum, kept inside the background, give all
    of it one label: that of its root, the pixel with the largest number. Counting runs back along the same way: every pixel
    hands its count to the first neighbour that is one step nearer to the root, and the root ends up with the size. A component that is
    larger shows it at its root, or by two neighbours with different labels; both marks spread until every pixel within reach has seen them.
    """

    shifts: Tensor
    gather: Tensor

    def __init__(self, area: int) -> None:
        """Prepare the fixed convolutions: eight shifts to look at the neighbours, and the eight back."""
        super().__init__()
        self.area = area
        offsets = [i for i in range(9) if i != 4]
        shifts = torch.zeros(8, 1, 3, 3)
        gather = torch.zeros(1, 8, 3, 3)
        for channel, offset in enumerate(offsets):
            shifts[channel, 0, offset // 3, offset % 3] = 1.0
            gather[0, channel, (8 - offset) // 3, (8 - offset) % 3] = 1.0
        self.register_buffer("shifts", shifts)
        self.register_buffer("gather", gather)

    def forward(self, logits: Tensor) -> Tensor:
        """Map (B, 1, h, w) to (B, 1, h, w): pixels of small holes become 0.1, all others stay."""
        background = (logits <= 0).float()
        label, steps = self._labels(background)
        neighbour_label = functional.conv2d(label, self.shifts, padding=1)
        neighbour_steps = functional.conv2d(steps + 1, self.shifts, padding=1) - 1
        same = (neighbour_label == label) & (neighbour_label > 0)
        clash = ((neighbour_label > 0) & ~same).float().amax(dim=1, keepdim=True) * background
        count = self._counts(background, (same & (neighbour_steps == steps - 1)).float())
        large = torch.maximum(clash, ((steps == 0) & (count > self.area)).float() * background)
        for _ in range(2 * self.area):
            large = functional.max_pool2d(large, 3, 1, 1) * background
        return torch.where((background > 0) & (large == 0), FILLED_LOGIT, logits)

    def _labels(self, background: Tensor) -> tuple[Tensor, Tensor]:
        """Return the label of each background pixel (0 elsewhere) and the steps after which it got it."""
        height, width = background.shape[2], background.shape[3]
        label = torch.arange(1, height * width + 1, dtype=torch.float32).view(1, 1, height, width) * background
        history = [label]
        for _ in range(self.area):
            label = functional.max_pool2d(label, 3, 1, 1) * background
            history.append(label)
        steps = torch.stack([(earlier != label).float() for earlier in history[:-1]]).sum(dim=0)
        return label, steps

    def _counts(self, background: Tensor, parents: Tensor) -> Tensor:
        """Return for each pixel how many pixels hang on it, itself included: (B, 1, h, w).

        Args:
            background: (B, 1, h, w), 1.0 where a pixel counts.
            parents: (B, 8, h, w), 1.0 for each neighbour that is one step nearer to the root; the first one is taken.
        """
        earlier = torch.cumsum(parents, dim=1) - parents
        first = parents * (earlier == 0).float()
        count = background
        for _ in range(self.area):
            count = background + functional.conv2d(count * first, self.gather, padding=1)
        return count


class MaskUpscale(nn.Module):
    """Upstream's `fill_holes_in_mask_scores` and `_get_orig_video_res_output`, up to the threshold."""

    fill: Any

    def __init__(self, predictor: Any) -> None:
        """Read the area of the holes to fill; 0 fills none."""
        super().__init__()
        self.fill = HoleFilling(predictor.fill_hole_area) if predictor.fill_hole_area > 0 else nn.Identity()

    def forward(self, mask_logits: Tensor, video_height: Tensor, video_width: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the filled logits and what a correction feeds back of them, both (B, 1, 4G, 4G), and the mask (B, H, W) uint8 of 0 and 1.

        Args:
            mask_logits: (B, 1, 4G, 4G).
            video_height: (1,) int64, H.
            video_width: (1,) int64, W.
        """
        filled = self.fill(mask_logits)
        height: Any = video_height.item()
        width: Any = video_width.item()
        torch._check(height > 0)
        torch._check(width > 0)
        resized = functional.interpolate(filled, size=(height, width), mode="bilinear", align_corners=False)
        return filled, filled.clamp(-PROMPT_LOGIT, PROMPT_LOGIT), (resized[:, 0] > 0).to(torch.uint8)
