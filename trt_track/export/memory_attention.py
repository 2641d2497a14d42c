"""`memory_attention`: a frame's embedding, conditioned for each object on that object's memories, which are gathered from the bank."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from trt_track.export.attention import (
    FusedCrossAttention,
    ReducedCrossAttention,
    RotaryTable,
    SelfAttention,
    chunked_attention,
    fused_attention,
)
from trt_track.export.careful_layers import set_precision, torch_dtype
from trt_track.recipe import NetworkPrecision

# TensorRT for RTX 1.7 has a fused kernel for a batch of exactly one only from this many queries on; for a batch of changing size it has
# one at every length.
_QUERIES_OF_ONE = 4096


class PointerAge(nn.Module):
    """The temporal position code of object pointers.

    A sine code of (age / span), projected to M channels: `get_1d_sine_pe` and `obj_ptr_tpos_proj` of upstream. SAM 2.0 has none, then zero.
    """

    proj: Any
    wavelengths: Tensor

    def __init__(self, predictor: Any) -> None:
        """Read which of the three forms the model uses."""
        super().__init__()
        self.enabled = bool(predictor.add_tpos_enc_to_obj_ptrs)
        self.proj = predictor.obj_ptr_tpos_proj
        width = predictor.hidden_dim if predictor.proj_tpos_enc_in_obj_ptrs else predictor.mem_dim
        index = torch.arange(width // 2, dtype=torch.float32)
        self.register_buffer("wavelengths", 10000 ** (2 * (index // 2) / (width // 2)), persistent=False)
        self.memory_channels = predictor.mem_dim

    def forward(self, age: Tensor, span: Tensor) -> Tensor:
        """Map ages (B, P) int32 and their span (1,) int32 to codes (B, P, M)."""
        position = age.float() / span.float()
        if not self.enabled:
            return position[..., None] * torch.zeros(self.memory_channels)
        angles = position[..., None] / self.wavelengths
        projected: Tensor = self.proj(torch.cat([angles.sin(), angles.cos()], dim=-1))
        return projected


class MemoryLayer(nn.Module):
    """One of upstream's `MemoryAttentionLayer`s: self-attention, cross-attention to the memories, feed-forward."""

    norm1: Any
    norm2: Any
    norm3: Any
    linear1: Any
    linear2: Any
    activation: Any

    def __init__(self, upstream: Any, rotary: RotaryTable, fused: torch.dtype | None) -> None:
        """Take over the weights of `upstream`; in the fused form with attention in this dtype, or in the reduced form."""
        super().__init__()
        self.norm1, self.norm2, self.norm3 = upstream.norm1, upstream.norm2, upstream.norm3
        self.linear1, self.linear2, self.activation = upstream.linear1, upstream.linear2, upstream.activation
        attend = partial(fused_attention, dtype=fused) if fused else chunked_attention
        self.self_attn = SelfAttention(upstream.self_attn, rotary, attend)
        cross = upstream.cross_attn_image
        self.cross_attn = FusedCrossAttention(cross, rotary, attend) if fused else ReducedCrossAttention(cross, rotary)

    def forward(self, x: Tensor, keys: tuple[Tensor, Tensor], values: Tensor) -> Tensor:
        """Map (1 or B, G*G, C) to (B, G*G, C); keys and values as `FusedCrossAttention.forward` takes them."""
        x = x + self.self_attn(self.norm1(x))
        x = x + self.cross_attn(self.norm2(x), keys, values)
        fed: Tensor = x + self.linear2(self.activation(self.linear1(self.norm3(x))))
        return fed


class MemoryAttention(nn.Module):
    """Upstream's `_prepare_memory_conditioned_features` for a batch of objects with equally many memories.

    Until the first cross-attention the features are those of the frame alone, so they are computed once for all objects (in FP16 below
    1024 px once for each, for want of a kernel).
    """

    norm: Any
    frame_position: Tensor
    memory_position: Tensor

    def __init__(self, predictor: Any, precision: NetworkPrecision, *, fused: bool, features: torch.dtype) -> None:
        """Take the memory attention out of an upstream predictor.

        Args:
            predictor: upstream's `SAM2VideoPredictor`.
            precision: what products and stream are in.
            fused: `Attention` operators for TensorRT, or products spelled out and reduced for the CPU.
            features: dtype of the result.
        """
        super().__init__()
        attention = predictor.memory_attention
        self.grid = predictor.sam_image_embedding_size
        self.channels, self.memory_channels = predictor.hidden_dim, predictor.mem_dim
        cross = attention.layers[0].cross_attn_image
        self.rotary = RotaryTable(cross.internal_dim, self.grid, cross.compute_cis.keywords["theta"])
        dtype = torch_dtype(precision.dtype) if fused else None
        self.layers = nn.ModuleList(MemoryLayer(layer, self.rotary, dtype) for layer in attention.layers)
        self.norm = attention.norm
        self.pointer_age = PointerAge(predictor)
        self.register_buffer("frame_position", self._frame_position(predictor), persistent=False)
        self.register_buffer("memory_position", self._memory_position(predictor), persistent=False)
        self.shares_first = not fused or self.grid**2 >= _QUERIES_OF_ONE
        set_precision(self, precision)
        self.pointer_age.wavelengths = self.pointer_age.wavelengths.float()
        self.stream, self.features = torch_dtype(precision.stream), features

    def _frame_position(self, predictor: Any) -> Tensor:
        """Return what upstream adds to the embedding at the input, (1, C, G, G)."""
        position: Tensor = predictor.image_encoder.neck.position_encoding(torch.zeros(1, 1, self.grid, self.grid))
        return 0.1 * position if predictor.memory_attention.pos_enc_at_input else torch.zeros_like(position)

    def _memory_position(self, predictor: Any) -> Tensor:
        """Return the position code of a memory's cells for every age, (ages, G*G, M), the spatial and the temporal part added."""
        spatial = predictor.memory_encoder.position_encoding(torch.zeros(1, 1, self.grid, self.grid))
        temporal = predictor.maskmem_tpos_enc.detach().flip(0).reshape(-1, 1, self.memory_channels)
        position: Tensor = spatial.flatten(2).transpose(1, 2) + temporal
        return position

    def forward(  # noqa: PLR0913, PLR0917 - the graph's inputs
        self,
        embed: Tensor,
        bank: Tensor,
        page: Tensor,
        age: Tensor,
        pointer_bank: Tensor,
        pointer: Tensor,
        pointer_age: Tensor,
        pointer_span: Tensor,
    ) -> Tensor:
        """Return the conditioned embedding (B, C, G, G).

        Args:
            embed: (1, C, G, G) of this frame.
            bank: (pages, M, G, G), the memories of all objects.
            page: (B, N) int32, which pages each object attends to.
            age: (B, N) int32, upstream's `t_pos`: 0 for a conditioning frame, else 1 (oldest) to 6 (the frame before).
            pointer_bank: (pointers, C) float32.
            pointer: (B, P) int32, which pointers each object attends to.
            pointer_age: (B, P) int32, frames between the pointer's frame and this one.
            pointer_span: (1,) int32, what upstream divides these ages by.
        """
        frames = functional.embedding(page, bank.flatten(1)).to(self.stream).unflatten(2, (self.memory_channels, -1)).transpose(2, 3)
        pointers = self._pointer_tokens(functional.embedding(pointer, pointer_bank))
        codes = self.pointer_age(pointer_age, pointer_span).to(self.stream)
        tokens_per_pointer = self.channels // self.memory_channels
        keys = (frames + self._memory_codes(age), pointers + codes.repeat_interleave(tokens_per_pointer, dim=1))
        values = torch.cat([frames.flatten(1, 2), pointers], dim=1)
        x = (embed.to(self.stream) + self.frame_position).flatten(2).transpose(1, 2)
        if not self.shares_first:
            x = x.expand(values.shape[0], -1, -1)
        for layer in self.layers:
            x = layer(x, keys, values)
        conditioned: Tensor = self.norm(x).transpose(1, 2).unflatten(2, (self.grid, self.grid))
        return conditioned.to(self.features)

    def _memory_codes(self, age: Tensor) -> Tensor:
        """Return the position codes (B, N, G*G, M) of memories of these ages (B, N)."""
        codes = functional.embedding(age, self.memory_position.flatten(1))
        unfolded: Tensor = codes.unflatten(2, (-1, self.memory_channels))
        return unfolded

    def _pointer_tokens(self, pointers: Tensor) -> Tensor:
        """Cut each pointer (B, P, C) into C / M tokens of M channels: (B, P * C / M, M)."""
        tokens: Tensor = pointers.to(self.stream).unflatten(2, (-1, self.memory_channels)).flatten(1, 2)
        return tokens
