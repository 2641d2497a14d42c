"""Upstream's feature pyramid, joined with the mask decoder's convolutions that follow it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from trt_track.errors import ExportError
from trt_track.export.attention import linear_of
from trt_track.export.windows import Windows


class Neck(nn.Module):
    """Upstream's `FpnNeck` on the trunk's features as they lie.

    All convolutions are 1x1, so each is a product per cell, taken before the features are brought into channels-first order: what comes
    out is narrower. Where nothing is added from the level above, the decoder's convolution follows at once, and the two are one.
    """

    def __init__(self, upstream: Any, heads: Mapping[int, Any], outputs: Sequence[Windows]) -> None:
        """Take over the weights of `upstream`.

        Args:
            upstream: the neck.
            heads: the decoder's 1x1 convolutions by level, 0 the finest.
            outputs: how the trunk's features lie, by level.

        Raises:
            ExportError: a convolution is larger than 1x1.
        """
        super().__init__()
        self.windows = tuple(outputs)
        self.top_down = frozenset(upstream.fpn_top_down_levels)
        self.interpolation, self.averages = upstream.fpn_interp_model, upstream.fuse_type == "avg"
        laterals, rest = [], []
        for level, lateral in enumerate(reversed(upstream.convs)):
            head = heads.get(level)
            joins = head is not None and self.top_down.isdisjoint({level, level - 1})
            laterals.append(_product(lateral.conv, head if joins else None))
            rest.append(nn.Identity() if joins or head is None else head)
        self.laterals, self.rest = nn.ModuleList(laterals), nn.ModuleList(rest)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Map the trunk's features to (F, C, G, G) of each level, the finest first."""
        maps: list[Tensor] = []
        above: Tensor | None = None
        for level in reversed(range(len(features))):
            x = self.windows[level].image(self.laterals[level](features[level]))
            if above is not None and level in self.top_down:
                x = x + self._enlarged(above)
                x = x / 2 if self.averages else x
            above = x
            maps.append(self.rest[level](x.to(features[level].dtype)))
        return maps[::-1]

    def _enlarged(self, x: Tensor) -> Tensor:
        """Return (F, C, 2G, 2G) in float32, as upstream interpolates."""
        corners = None if self.interpolation == "nearest" else False
        return functional.interpolate(x.float(), scale_factor=2.0, mode=self.interpolation, align_corners=corners)


def _product(lateral: Any, head: Any) -> nn.Linear:
    """Return a 1x1 convolution, and a second one behind it unless that is None, as one product, joined in float64."""
    weight, bias = _matrix(lateral), lateral.bias.detach()
    if head is None:
        return linear_of(weight, bias)
    outer = _matrix(head).double()
    return linear_of((outer @ weight.double()).float(), (outer @ bias.double() + head.bias.detach().double()).float())


def _matrix(conv: Any) -> Tensor:
    """Return the weights (out, in) of a 1x1 convolution."""
    plain = (conv.kernel_size, conv.stride, conv.padding, conv.groups) == ((1, 1), (1, 1), (0, 0), 1)
    if not plain:
        raise ExportError(f"the neck and the decoder behind it must have plain 1x1 convolutions, this model has {conv}")
    weight: Tensor = conv.weight.detach().flatten(1)
    return weight
