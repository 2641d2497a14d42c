"""Attention over memories in two forms that compute the same thing, and the rotary position code of both.

`FusedCrossAttention` keeps the shape that TensorRT has a fused kernel for: queries, keys and values of equal width, one `Attention`
operator. `ReducedCrossAttention` is for FP32 on the CPU, where no such kernel exists and every product is paid for: a memory has
M = 64 channels and is widened to C = 256 only by the value projection, and since the weights of a softmax add up to one,

    softmax(Q K^T) (X Wv + bv) = (softmax(Q K^T) X) Wv + bv,

so the large product runs over M instead of C channels, which takes 3/8 off the work of a cross-attention.

Rotary position code: https://arxiv.org/abs/2104.09864; upstream turns interleaved pairs of channels as complex numbers
(https://github.com/facebookresearch/sam2/blob/main/sam2/modeling/position_encoding.py). Here the projections of queries and keys are
reordered once, at export, so that the first half of the channels holds the real parts and the second half the imaginary ones: the same
scalar products, and two contiguous halves instead of strided pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

# Rows of the score matrix that exist at once in FP32: at 1024 px all 4096 would take 471 MB per object.
QUERY_ROWS = 1024


Attend: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""What maps queries (B, Q, C), keys (B, L, C) and values (B, L, D) to (B, Q, D)."""


class RotaryTable(nn.Module):
    """Cosines and sines of the axial rotary code for a square grid."""

    cos: Tensor
    sin: Tensor

    def __init__(self, channels: int, grid: int, theta: float) -> None:
        """Compute the table.

        Args:
            channels: width of queries and keys.
            grid: side of the grid in cells.
            theta: base of the frequencies.
        """
        super().__init__()
        frequencies = theta ** (-torch.arange(0, channels, 4, dtype=torch.float32)[: channels // 4] / channels)
        cells = torch.arange(grid * grid, dtype=torch.float32)
        angle_x = torch.outer(cells % grid, frequencies)
        angle_y = torch.outer(torch.div(cells, grid, rounding_mode="floor"), frequencies)
        angles = torch.cat([angle_x, angle_y], dim=-1)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Turn (..., G*G, C), halves ordered real then imaginary, by each cell's angles; in the table's dtype, or a wider one of `x`."""
        half = x.shape[-1] // 2
        real, imaginary = x[..., :half], x[..., half:]
        return torch.cat([real * self.cos - imaginary * self.sin, real * self.sin + imaginary * self.cos], dim=-1)


def halves_first(linear: nn.Linear) -> nn.Linear:
    """Return a copy of a query or key projection whose outputs are ordered even channels first, then odd ones."""
    order = torch.cat([torch.arange(0, linear.out_features, 2), torch.arange(1, linear.out_features, 2)])
    return linear_of(linear.weight.detach()[order], linear.bias.detach()[order])


def linear_of(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """Return a layer with copies of weights (out, in) and, unless it has none, bias (out,)."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return linear


class RotaryAttention(nn.Module):
    """The weights of upstream's `RoPEAttention` of one head, queries and keys reordered for `RotaryTable`."""

    v_proj: Any
    out_proj: Any

    def __init__(self, upstream: Any, rotary: RotaryTable) -> None:
        """Take over the weights of `upstream`."""
        super().__init__()
        self.q_proj = halves_first(upstream.q_proj)
        self.k_proj = halves_first(upstream.k_proj)
        self.v_proj = upstream.v_proj
        self.out_proj = upstream.out_proj
        self.rotary = rotary


class SelfAttention(RotaryAttention):
    """Attention over the G x G cells of a frame."""

    def __init__(self, upstream: Any, rotary: RotaryTable, attend: Attend) -> None:
        """Take over the weights of `upstream`; `attend` is `fused_attention` in some dtype, or `chunked_attention`."""
        super().__init__(upstream, rotary)
        self.attend = attend

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, G*G, C) to (B, G*G, C)."""
        q, k = self.rotary(self.q_proj(x)), self.rotary(self.k_proj(x))
        attended: Tensor = self.out_proj(self.attend(q, k, self.v_proj(x)))
        return attended


class CrossAttention(RotaryAttention):
    """Queries of the frame's cells against the keys of all memories (`rope_k_repeat`): what both forms share."""

    def keys(self, frames: Tensor, pointers: Tensor) -> Tensor:
        """Return the keys (B, N*G*G + T, C) of memory frames (B, N, G*G, M), turned, and pointer tokens (B, T, M), not turned."""
        frame_keys = self.rotary(self.k_proj(frames)).flatten(1, 2)
        return torch.cat([frame_keys, self.k_proj(pointers)], dim=1)


class FusedCrossAttention(CrossAttention):
    """The form with one `Attention` operator."""

    def __init__(self, upstream: Any, rotary: RotaryTable, attend: Attend) -> None:
        """Take over the weights of `upstream`; `attend` is `fused_attention` in some dtype."""
        super().__init__(upstream, rotary)
        self.attend = attend

    def forward(self, x: Tensor, keys_bnlm: tuple[Tensor, Tensor], values_blm: Tensor) -> Tensor:
        """Map queries (1 or B, G*G, C) to (B, G*G, C).

        Args:
            x: normalised features of the cells.
            keys_bnlm: memory frames (B, N, G*G, M) and pointer tokens (B, T, M), both with their position codes added.
            values_blm: all memory tokens (B, N*G*G + T, M) without position codes.
        """
        q = self.rotary(self.q_proj(x)).expand(values_blm.shape[0], -1, -1)
        attended: Tensor = self.out_proj(self.attend(q, self.keys(*keys_bnlm), self.v_proj(values_blm)))
        return attended


class ReducedCrossAttention(CrossAttention):
    """The form whose second product runs over the memory's own channels."""

    def __init__(self, upstream: Any, rotary: RotaryTable) -> None:
        """Join value and output projection, which nothing separates in this form, into one."""
        super().__init__(upstream, rotary)
        out, value = upstream.out_proj, upstream.v_proj
        joined_weight = out.weight.detach().double() @ value.weight.detach().double()
        joined_bias = out.weight.detach().double() @ value.bias.detach().double() + out.bias.detach().double()
        self.out_proj = linear_of(joined_weight.float(), joined_bias.float())
        self.v_proj = nn.Identity()

    def forward(self, x: Tensor, keys_bnlm: tuple[Tensor, Tensor], values_blm: Tensor) -> Tensor:
        """As `FusedCrossAttention.forward`."""
        attended: Tensor = self.out_proj(chunked_attention(self.rotary(self.q_proj(x)), self.keys(*keys_bnlm), values_blm))
        return attended


def fused_attention(q: Tensor, k: Tensor, v: Tensor, *, dtype: torch.dtype) -> Tensor:
    """Attend with one head, as one operator that reads and gives `dtype`: (B, Q, C), (B, L, C), (B, L, C) to (B, Q, C)."""
    q, k, v = (x[:, None].to(dtype) for x in (q, k, v))
    return functional.scaled_dot_product_attention(q, k, v)[:, 0]


def chunked_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend with one head, `QUERY_ROWS` queries at a time: (1 or B, Q, C), (B, L, C), (B, L, M) to (B, Q, M)."""
    q = q * (1.0 / math.sqrt(q.shape[-1]))
    k_transposed = k.transpose(1, 2)
    rows = [torch.softmax(chunk @ k_transposed, dim=-1) @ v for chunk in q.split(QUERY_ROWS, dim=1)]
    return rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend with one head, all queries at once: (B, Q, C), (B, L, C), (B, L, M) to (B, Q, M)."""
    # ONNX Runtime takes factor and transposition into the product, as they stand right in front of it.
    return torch.softmax(q * (1.0 / math.sqrt(q.shape[-1])) @ k.transpose(1, 2), dim=-1) @ v
