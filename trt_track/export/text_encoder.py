"""`text_encoder`: the tokens of a prompt -> their features, once per prompt. A BERT whose words see only the words of their own phrase."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


class TextEncoder(nn.Module):
    """The text backbone and its projection."""

    def __init__(self, upstream: Any) -> None:
        """Take over the weights of transformers' `GroundingDinoForObjectDetection`."""
        super().__init__()
        bert = upstream.model.text_backbone
        self.embeddings, self.layers = bert.embeddings, bert.encoder.layer
        self.heads = bert.config.num_attention_heads
        self.projection = upstream.model.text_projection

    def forward(self, token: Tensor, position: Tensor, attends: Tensor) -> Tensor:
        """Encode (T,) tokens at (T,) positions, each of which attends where (T, T) says so; return (T, C)."""
        embeddings = self.embeddings
        kind = embeddings.token_type_embeddings.weight[0]
        x = embeddings.LayerNorm(embeddings.word_embeddings(token) + kind + embeddings.position_embeddings(position))
        for layer in self.layers:
            x = layer.attention.output.LayerNorm(layer.attention.output.dense(self._attend(layer.attention.self, x, attends)) + x)
            x = layer.output.LayerNorm(layer.output.dense(layer.intermediate.intermediate_act_fn(layer.intermediate.dense(x))) + x)
        projected: Tensor = self.projection(x)
        return projected

    def _attend(self, upstream: Any, x: Tensor, attends: Tensor) -> Tensor:
        q, k, v = (linear(x).unflatten(-1, (self.heads, -1)).transpose(0, 1) for linear in (upstream.query, upstream.key, upstream.value))
        return masked_attention(q, k, v, attends).transpose(0, 1).flatten(1)


def masked_attention(q: Tensor, k: Tensor, v: Tensor, attends: Tensor | None = None) -> Tensor:
    """Attend: (..., Q, D), (..., K, D), (..., K, D), where (Q, K) allows it, to (..., Q, D)."""
    scores = (q * (1.0 / math.sqrt(q.shape[-1]))) @ k.transpose(-1, -2)
    if attends is not None:
        scores = torch.where(attends, scores, torch.full((), torch.finfo(scores.dtype).min))
    return torch.softmax(scores, dim=-1) @ v
