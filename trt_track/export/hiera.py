"""Upstream's Hiera trunk with as few copies as its arithmetic allows (https://arxiv.org/abs/2306.00989).

Upstream cuts the features into windows and joins them again in every block. Here they keep lying window by window as long as the next
block's windows allow it (see `windows.py`); attention over the whole grid does not ask for an order at all. What attention computes stays
the same to rounding without two of its biases: that of the keys adds the same number to all scores of a query, which a softmax ignores,
and that of the values comes out of attention as it went in, since the weights add up to one, and so moves into the output projection.
Without them the keys and values of the cells that fill up a border window are zero like those cells.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from trt_track.export.attention import linear_of, plain_attention
from trt_track.export.windows import Windows


class BlockAttention(nn.Module):
    """Upstream's `MultiScaleAttention`, within windows or over the whole grid, with the queries pooled where a stage begins."""

    def __init__(self, upstream: Any, stream: Windows) -> None:
        """Take over the weights of `upstream`, a block, whose features lie as `stream` tells."""
        super().__init__()
        attention = upstream.attn
        self.heads, self.pools, self.everywhere = attention.num_heads, bool(upstream.q_stride), not upstream.window_size
        self.stream = stream
        self.windows = stream if self.everywhere else Windows(stream.grid, upstream.window_size)
        value_bias = attention.qkv.bias.detach().chunk(3)[2].double()
        bias = attention.proj.weight.detach().double() @ value_bias + attention.proj.bias.detach().double()
        self.proj, self.width = linear_of(attention.proj.weight, bias.float()), attention.proj.in_features

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised features (F*n*n, w*w, C) to (F*n*n, w*w, H*D), the windows halved where the queries are pooled."""
        windows, stream = (self.windows.halved, self.stream.halved) if self.pools else (self.windows, self.stream)
        attended = self.attend(self.stream.to(self.windows, x)).reshape(-1, windows.side**2, self.width)
        projected: Tensor = self.proj(windows.to(stream, attended))
        return projected

    def attend(self, x: Tensor) -> Tensor:
        """Map features (F*n*n, w*w, C) to what each cell finds, (..., ..., H*D) in the order of the queries."""
        raise NotImplementedError

    def _queries(self, proj: nn.Module, x: Tensor) -> Tensor:
        # In two dimensions a product and its bias are one operator.
        q: Tensor = proj(x.flatten(0, 1)).unflatten(0, (-1, x.shape[1]))
        return self._together(self.windows.pooled(q) if self.pools else q)

    def _together(self, x: Tensor) -> Tensor:
        """Put the windows of a frame into one row if all attend to all."""
        return x.reshape(-1, x.shape[1] * self.windows.across**2, x.shape[2]) if self.everywhere else x


class FusedBlockAttention(BlockAttention):
    """The form with one `Attention` operator for all heads."""

    def __init__(self, upstream: Any, stream: Windows, *, dtype: torch.dtype) -> None:
        """Take over the weights of `upstream`; the operator reads and gives `dtype`."""
        super().__init__(upstream, stream)
        self.dtype = dtype
        query, key, value = upstream.attn.qkv.weight.chunk(3)
        self.q_proj, self.k_proj, self.v_proj = linear_of(query, upstream.attn.qkv.bias.chunk(3)[0]), linear_of(key), linear_of(value)

    def attend(self, x: Tensor) -> Tensor:
        """As `BlockAttention.attend`."""
        tokens = self._queries(self.q_proj, x), self._together(self.k_proj(x)), self._together(self.v_proj(x))
        q, k, v = (y.to(self.dtype).unflatten(2, (self.heads, -1)).transpose(1, 2) for y in tokens)
        return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class BlockAttentionByHead(BlockAttention):
    """The form for the CPU: a head has its own projections, so that nothing is copied apart, and its scores fit into memory."""

    def __init__(self, upstream: Any, stream: Windows) -> None:
        """Take over the weights of `upstream`, cut into heads."""
        super().__init__(upstream, stream)
        weights = [part.chunk(self.heads) for part in upstream.attn.qkv.weight.chunk(3)]
        biases = upstream.attn.qkv.bias.chunk(3)[0].chunk(self.heads)
        self.q_projs = nn.ModuleList(map(linear_of, weights[0], biases))
        self.k_projs, self.v_projs = (nn.ModuleList(map(linear_of, part)) for part in weights[1:])

    def attend(self, x: Tensor) -> Tensor:
        """As `BlockAttention.attend`."""
        heads = [
            plain_attention(self._queries(q_proj, x), self._together(k_proj(x)), self._together(v_proj(x)))
            for q_proj, k_proj, v_proj in zip(self.q_projs, self.k_projs, self.v_projs, strict=True)
        ]
        return heads[0] if len(heads) == 1 else torch.cat(heads, dim=2)


NewAttention: TypeAlias = Callable[[Any, Windows], BlockAttention]
"""What makes the attention of a block in one of its forms."""


class Block(nn.Module):
    """Upstream's `MultiScaleBlock` on features (F*n*n, w*w, C)."""

    norm1: Any
    norm2: Any
    mlp: Any
    shortcut: Any

    def __init__(self, upstream: Any, stream: Windows, attention: NewAttention) -> None:
        """Take over the weights of `upstream`; `stream` is how its input lies."""
        super().__init__()
        self.norm1, self.norm2, self.mlp = upstream.norm1, upstream.norm2, upstream.mlp
        self.attention = attention(upstream, stream)
        self.shortcut = upstream.proj if upstream.dim != upstream.dim_out else None
        self.stream, self.pools = stream, bool(upstream.q_stride)

    @property
    def output(self) -> Windows:
        """How the output lies."""
        return self.stream.halved if self.pools else self.stream

    def forward(self, x: Tensor) -> Tensor:
        """Map (F*n*n, w*w, C) to (F*n*n, w*w, C'), the windows halved where a stage begins."""
        normed = self.norm1(x)
        if self.shortcut is not None:
            x = self.shortcut(normed).to(x.dtype)
            x = self.stream.pooled(x) if self.pools else x
        x = x + self.attention(normed)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Trunk(nn.Module):
    """Upstream's `Hiera`; `outputs` tells how the features of each stage lie."""

    patches: Any
    position: Any
    window_position: Any

    def __init__(self, upstream: Any, grid: int, attention: NewAttention) -> None:
        """Take over the weights of `upstream` for frames of `grid` x `grid` patches."""
        super().__init__()
        self.patches, self.position, self.window_position = upstream.patch_embed.proj, upstream.pos_embed, upstream.pos_embed_window
        self.raster = stream = Windows(grid, grid)
        stages: list[list[Block]] = [[] for _ in upstream.stage_ends]
        for index, block in enumerate(upstream.blocks):
            stage = stages[bisect_left(upstream.stage_ends, index)]
            stage.append(Block(block, _stream_for(block.window_size, stream), attention))
            stream = stage[-1].output
        self.stages = nn.ModuleList(map(nn.ModuleList, stages))
        """Whose numbers are in the names of layers: recipes mean the finest ones, of which each model has as many blocks as it likes."""
        self.streams = [[(block.stream, block.output) for block in stage] for stage in stages]
        self.outputs = [stage[-1].output for stage in stages]

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Map normalised frames (F, 3, S, S) to the features of each stage, (F*n*n, w*w, C) as `outputs` tells."""
        x = self.patches(pixels).permute(0, 2, 3, 1).flatten(1, 2) + self._position_code()
        stream, features = self.raster, []
        for stage, streams in zip(self.stages, self.streams, strict=True):
            for block, (before, after) in zip(cast("nn.ModuleList", stage), streams, strict=True):
                x = block(stream.to(before, x))
                stream = after
            features.append(x)
        return features

    def _position_code(self) -> Tensor:
        """Return upstream's `_get_pos_embed`, row by row (1, G*G, C).

        The graph holds the two small tables that it is made of, and ONNX Runtime unfolds them when it loads it; written out they take
        25 MB at 1024 px, in the file and in every engine.
        """
        grid = self.raster.grid
        whole = functional.interpolate(self.position, size=(grid, grid), mode="bicubic")
        repeats = grid // self.window_position.shape[-1]
        code: Tensor = (whole + self.window_position.tile(1, 1, repeats, repeats)).permute(0, 2, 3, 1).flatten(1, 2)
        return code


def _stream_for(window: int, stream: Windows) -> Windows:
    """Return how features should lie for a block that attends in windows of side `window` (0: everywhere), coming from `stream`.

    Windows that reach over the border would drag their filling along, so there the features lie row by row.
    """
    if window == 0:
        return stream
    wanted = Windows(stream.grid, window)
    return Windows(stream.grid, stream.grid) if wanted.padded else wanted
