"""`detector`: frames and the features of a prompt -> a box and a logit per token for each of 900 queries. Grounding DINO's other half.

Frames have one size, so that masks of padding, position codes, reference points and proposals are constants
(https://arxiv.org/abs/2303.05499; transformers' `GroundingDinoModel.forward` is what is computed).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.grounding_dino.modeling_grounding_dino import encode_sinusoidal_position_embedding

from trt_track.export.deformable import DeformableAttention, Sizes
from trt_track.export.image_encoder import MEAN_RGB, STD_RGB
from trt_track.export.text_encoder import masked_attention

_AT_THE_EDGE = 1e4
"""Logit of proposals too near to the edge of the picture: its sigmoid is 1, as that of upstream's infinity."""
_LOGIT_EPS = 1e-5


class Detector(nn.Module):
    """Backbone, feature enhancer, query selection and decoder."""

    mean: Tensor
    std: Tensor
    map_positions: Tensor
    cells: Tensor
    proposals: Tensor
    inside: Tensor
    word_positions: Tensor

    def __init__(self, upstream: Any, frame_hw: tuple[int, int], backbone_dtype: torch.dtype = torch.float32) -> None:
        """Take over the weights of transformers' `GroundingDinoForObjectDetection` for frames of one size."""
        super().__init__()
        model, config = upstream.model, upstream.config
        self.dtype = backbone_dtype
        self.sizes = map_sizes(model, frame_hw)
        self.backbone = model.backbone.conv_encoder.model.to(backbone_dtype)
        self.projections = model.input_proj_vision
        self.enhancer = nn.ModuleList(EnhancerLayer(layer, self.sizes) for layer in model.encoder.layers)
        self.query_norm, self.query_projection = model.enc_output_norm, model.enc_output
        self.proposal_head, self.queries = model.encoder_output_bbox_embed, model.query_position_embeddings.weight
        self.decoder = nn.ModuleList(DecoderLayer(layer, self.sizes) for layer in model.decoder.layers)
        self.decoder_norm, self.place_head = model.decoder.layer_norm, model.decoder.reference_points_head
        self.box_heads = upstream.bbox_embed
        self.channels = config.d_model
        for name, value in self._constants(model, config).items():
            self.register_buffer(name, value, persistent=False)

    def _constants(self, model: Any, config: Any) -> dict[str, Tensor]:
        codes = [
            model.backbone.position_embedding(torch.zeros(1, 1, *size), torch.ones(1, *size, dtype=torch.bool)).flatten(2).transpose(1, 2)
            + model.level_embed[level]
            for level, size in enumerate(self.sizes)
        ]
        cells = torch.cat([_cell_centres(size) for size in self.sizes])
        sides = torch.cat([torch.full((height * width, 2), 0.05 * 2.0**level) for level, (height, width) in enumerate(self.sizes)])
        proposals = torch.cat([cells, sides], dim=1)
        inside = ((proposals > 0.01) & (proposals < 0.99)).all(dim=1, keepdim=True)
        words = torch.arange(config.max_text_len, dtype=torch.float32)[:, None]
        return {
            "mean": torch.tensor(MEAN_RGB).view(1, 3, 1, 1),
            "std": torch.tensor(STD_RGB).view(1, 3, 1, 1),
            "map_positions": torch.cat(codes, dim=1).detach(),
            "cells": cells[None],
            "proposals": torch.where(inside, torch.special.logit(proposals), _AT_THE_EDGE)[None],
            "inside": inside.float()[None],
            "word_positions": encode_sinusoidal_position_embedding(words, num_pos_feats=config.d_model),
        }

    def forward(self, frames: Tensor, text: Tensor, position: Tensor, attends: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detect.

        Args:
            frames: (F, h, w, 3) uint8 RGB.
            text: (T, C) from the text encoder.
            position: (T,) place of each token in its phrase.
            attends: (T, T) which tokens see each other.

        Returns:
            Logits (F, Q, T) of each token, boxes (F, Q, 4) as centre and size, 0 to 1, and the cell (F, Q) that each query began at:
            near-equal cells change places with the last bit, and what a query finds depends on its place.
        """
        maps = self._maps(frames)
        words = text.expand(maps.shape[0], -1, -1)
        codes = functional.embedding(position, self.word_positions)
        for layer in self.enhancer:
            maps, words = layer(maps, words, (self.map_positions, self.cells, codes, attends))
        boxes, cell = self._choose(maps, words)
        return *self._decode(maps, words, boxes), cell.to(torch.int32)

    def _maps(self, frames: Tensor) -> Tensor:
        """Return all levels behind one another, (F, L, C)."""
        pixels = (frames.float().permute(0, 3, 1, 2) * (1 / 255) - self.mean) / self.std
        features = [level.float() for level in self.backbone(pixels.to(self.dtype), return_dict=True).feature_maps]
        maps = [project(level) for project, level in zip(self.projections, features, strict=False)]
        for project in self.projections[len(features) :]:
            maps.append(project(features[-1] if len(maps) == len(features) else maps[-1]))
        return torch.cat([level.flatten(2).transpose(1, 2) for level in maps], dim=1)

    def _choose(self, maps: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """Return the boxes (F, Q, 4) and the numbers (F, Q) of the cells that fit a word best, where the decoder begins."""
        cells = self.query_norm(self.query_projection(maps * self.inside))
        fit = (cells @ words.transpose(1, 2)).amax(dim=-1)
        best = torch.topk(fit, self.queries.shape[0], dim=1).indices
        boxes = self.proposals + self.proposal_head(cells)
        return boxes.gather(1, best[..., None].expand(-1, -1, 4)).sigmoid(), best

    def _decode(self, maps: Tensor, words: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        queries = self.queries.expand(maps.shape[0], -1, -1)
        for layer, head in zip(self.decoder, self.box_heads, strict=True):
            place = self.place_head(encode_sinusoidal_position_embedding(boxes, num_pos_feats=self.channels // 2))
            queries = layer(queries, place, boxes, (maps, words))
            before = boxes
            boxes = (head(queries) + torch.special.logit(boxes, eps=_LOGIT_EPS)).sigmoid()
        found = self.decoder_norm(queries)
        boxes = (self.box_heads[-1](found) + torch.special.logit(before, eps=_LOGIT_EPS)).sigmoid()
        return found @ words.transpose(1, 2), boxes


class EnhancerLayer(nn.Module):
    """Frames and words look at each other, then each at themselves."""

    def __init__(self, upstream: Any, sizes: Sizes) -> None:
        """Take over the weights of transformers' `GroundingDinoEncoderLayer`."""
        super().__init__()
        self.fusion, self.words, self.maps = upstream.fusion_layer, upstream.text_enhancer_layer, upstream.deformable_layer
        self.deformable = DeformableAttention(self.maps.self_attn, sizes)

    def forward(self, maps: Tensor, words: Tensor, given: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return better (F, L, C) maps and (F, T, C) words; `given`: codes of cells, centres of cells, codes of words, who sees whom."""
        map_codes, cells, word_codes, attends = given
        maps, words = self._fuse(self.fusion.layer_norm_vision(maps), self.fusion.layer_norm_text(words))
        attended = attend(self.words.self_attn, words + word_codes, words + word_codes, words, attends)
        words = self.words.layer_norm_before(words + attended)
        words = self.words.layer_norm_after(self.words.fc2(self.words.activation(self.words.fc1(words))) + words)
        maps = self.maps.self_attn_layer_norm(maps + self.deformable(maps + map_codes, cells, maps))
        maps = self.maps.final_layer_norm(maps + self.maps.fc2(self.maps.activation_fn(self.maps.fc1(maps))))
        return maps, words

    def _fuse(self, maps: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """Attend both ways with one table of scores. Upstream's shifts and clamps of the scores do not change a softmax in FP32."""
        both = self.fusion.attn
        cells, tokens, map_values, word_values = (
            linear(x).unflatten(-1, (both.num_heads, -1)).transpose(1, 2)
            for linear, x in (
                (both.vision_proj, maps),
                (both.text_proj, words),
                (both.values_vision_proj, maps),
                (both.values_text_proj, words),
            )
        )
        scores = (cells * both.scale) @ tokens.transpose(-1, -2)
        to_maps = both.out_vision_proj((scores.softmax(-1) @ word_values).transpose(1, 2).flatten(2))
        to_words = both.out_text_proj((scores.transpose(-1, -2).softmax(-1) @ map_values).transpose(1, 2).flatten(2))
        return maps + self.fusion.vision_param * to_maps, words + self.fusion.text_param * to_words


class DecoderLayer(nn.Module):
    """Queries look at each other, at the words and at the frame around their boxes."""

    def __init__(self, upstream: Any, sizes: Sizes) -> None:
        """Take over the weights of transformers' `GroundingDinoDecoderLayer`."""
        super().__init__()
        self.layer = upstream
        self.deformable = DeformableAttention(upstream.encoder_attn, sizes)

    def forward(self, queries: Tensor, place: Tensor, boxes: Tensor, seen: tuple[Tensor, Tensor]) -> Tensor:
        """Return better queries (F, Q, C) from their place codes (F, Q, C), their boxes (F, Q, 4), and maps and words."""
        layer, (maps, words) = self.layer, seen
        placed = queries + place
        queries = layer.self_attn_layer_norm(queries + attend(layer.self_attn, placed, placed, queries))
        queries = layer.encoder_attn_text_layer_norm(queries + attend(layer.encoder_attn_text, queries + place, words, words))
        queries = layer.encoder_attn_layer_norm(queries + self.deformable(queries + place, boxes, maps))
        better: Tensor = layer.final_layer_norm(queries + layer.fc2(layer.activation_fn(layer.fc1(queries))))
        return better


def attend(upstream: Any, queries: Tensor, keys: Tensor, values: Tensor, attends: Tensor | None = None) -> Tensor:
    """Attend with the weights of transformers' `GroundingDinoMultiheadAttention`: (F, Q, C), (F, K, C), (F, K, C) to (F, Q, C)."""
    q, k, v = (
        linear(x).unflatten(-1, (upstream.num_attention_heads, -1)).transpose(1, 2)
        for linear, x in ((upstream.query, queries), (upstream.key, keys), (upstream.value, values))
    )
    attended: Tensor = upstream.out_proj(masked_attention(q, k, v, attends).transpose(1, 2).flatten(2))
    return attended


def map_sizes(model: Any, frame_hw: tuple[int, int]) -> Sizes:
    """Return the size of each level: the backbone's strides, then convolutions of stride 2 (3 x 3, padded by 1)."""
    backbone = model.backbone.conv_encoder.model
    patch = backbone.config.patch_size
    height, width = (-(-side // patch) for side in frame_hw)
    every = [(height, width)]
    while len(every) < len(backbone.config.depths):
        height, width = (-(-side // 2) for side in every[-1])
        every.append((height, width))
    stages = [int(name.removeprefix("stage")) - 1 for name in backbone.out_features]
    sizes = [every[stage] for stage in stages]
    while len(sizes) < len(model.input_proj_vision):
        height, width = sizes[-1]
        sizes.append(((height - 1) // 2 + 1, (width - 1) // 2 + 1))
    return tuple(sizes)


def _cell_centres(size: tuple[int, int]) -> Tensor:
    """Return (h w, 2) x and y of each cell's centre, 0 to 1."""
    height, width = size
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1)
