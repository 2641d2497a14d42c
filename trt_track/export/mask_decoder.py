"""`mask_decoder`: clicks, box or previous mask and conditioned features become one mask, its quality, its pointer and its presence.

Which of four masks it is comes out too: low precision shows first where that choice flips.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# Upstream's logit of a pixel when its object is absent (NO_OBJ_SCORE in sam2/modeling/sam2_base.py).
ABSENT_LOGIT = -1024.0


class PromptEncoder(nn.Module):
    """Upstream's prompt encoder without branches: the label of a click picks its embedding, a flag picks the dense one."""

    position: Any
    mask_downscaling: Any
    dense_position: Tensor
    label_embed: Tensor
    is_click: Tensor

    def __init__(self, upstream: Any) -> None:
        """Put upstream's embeddings of the labels -1, 0, 1, 2, 3 into one table."""
        super().__init__()
        self.position = upstream.pe_layer
        self.image_wh = (upstream.input_image_size[1], upstream.input_image_size[0])
        self.mask_downscaling = upstream.mask_downscaling
        self.no_mask_embed = nn.Parameter(upstream.no_mask_embed.weight.detach().view(1, -1, 1, 1), requires_grad=False)
        table = [upstream.not_a_point_embed.weight, *(embed.weight for embed in upstream.point_embeddings)]
        self.register_buffer("label_embed", torch.cat(table).detach().clone())
        self.register_buffer("is_click", torch.tensor([[0.0], [1.0], [1.0], [1.0], [1.0]]))
        self.register_buffer("dense_position", upstream.get_dense_pe().detach().flatten(2).transpose(1, 2))

    def clicks(self, points: Tensor, labels: Tensor) -> Tensor:
        """Map points (B, K, 2) in model pixels and labels (B, K) to tokens (B, K + 1, C): upstream always adds an empty click."""
        xy_norm = (points + 0.5) / torch.tensor(self.image_wh, dtype=torch.float32)
        angles = 2 * torch.pi * ((2 * xy_norm - 1) @ self.position.positional_encoding_gaussian_matrix)
        code = torch.cat([angles.sin(), angles.cos()], dim=-1)
        row = labels + 1
        tokens = code * functional.embedding(row, self.is_click) + functional.embedding(row, self.label_embed)
        return torch.cat([tokens, self.label_embed[None, :1].expand(tokens.shape[0], -1, -1)], dim=1)

    def mask(self, mask_prompt: Tensor, has_mask: Tensor) -> Tensor:
        """Map mask logits (B, 1, 4G, 4G) to the dense embedding (B, C, G, G), or to that of "no mask" where `has_mask` is false."""
        return torch.where(has_mask[:, None, None, None], self.mask_downscaling(mask_prompt), self.no_mask_embed)


class MaskDecoder(nn.Module):
    """Upstream's `_forward_sam_heads`, with every choice that depends on the data made inside."""

    decoder: Any
    prompts: PromptEncoder
    pointer_proj: Any

    def __init__(self, predictor: Any, dtype: torch.dtype = torch.float32) -> None:
        """Take prompt encoder, mask decoder and pointer head out of an upstream predictor.

        Args:
            predictor: upstream's `SAM2VideoPredictor`.
            dtype: what the networks compute in; clicks are placed and masks are chosen in float32.
        """
        super().__init__()
        self.decoder = predictor.sam_mask_decoder
        self.prompts = PromptEncoder(predictor.sam_prompt_encoder)
        self.pointer_proj = predictor.obj_ptr_proj
        self.no_pointer = nn.Parameter(predictor.no_obj_ptr.detach().clone(), requires_grad=False)
        self.fixed_no_pointer = bool(predictor.fixed_no_obj_ptr)
        self.pointer_of_best = bool(self.decoder.use_multimask_token_for_obj_ptr)
        for network in (self.decoder, self.prompts.mask_downscaling, self.pointer_proj):
            network.to(dtype)
        self.dtype = dtype

    def forward(  # noqa: PLR0913, PLR0917 - the graph's inputs
        self,
        conditioned: Tensor,
        high_res_0: Tensor,
        high_res_1: Tensor,
        points: Tensor,
        labels: Tensor,
        mask_prompt: Tensor,
        has_mask: Tensor,
        multimask: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return mask_logits (B, 1, 4G, 4G), iou (B,), pointer (B, C) and object_score (B,), all float32, and chosen (B,) int32.

        `chosen` is the number of the mask among the four candidates: 0 the single one, 1 to 3 the best of three.

        Args:
            conditioned: (B, C, G, G), or (1, C, G, G) for all.
            high_res_0: (1, C/8, 4G, 4G) of the frame.
            high_res_1: (1, C/4, 2G, 2G) of the frame.
            points: (B, K, 2) in model pixels.
            labels: (B, K) int32: -1 none, 0 negative, 1 positive, 2 and 3 the corners of a box.
            mask_prompt: (B, 1, 4G, 4G) logits.
            has_mask: (B,) bool, whether `mask_prompt` counts.
            multimask: (B,) bool, whether the best of three masks is wanted.
        """
        low = self.dtype
        tokens = torch.cat([self._output_tokens(points.shape[0]), self.prompts.clicks(points, labels).to(low)], dim=1)
        source = conditioned.to(low) + self.prompts.mask(mask_prompt.to(low), has_mask).to(low)
        position = self.prompts.dense_position.to(low).transpose(1, 2).unflatten(2, (source.shape[2], source.shape[3]))
        hidden, source_blc = self.decoder.transformer(source, position, tokens)
        features = source_blc.transpose(1, 2).unflatten(2, (source.shape[2], source.shape[3]))
        masks = self._masks(features, hidden[:, 2:6], high_res_0.to(low), high_res_1.to(low)).float()
        ious = self.decoder.iou_prediction_head(hidden[:, 1]).float()
        score = self.decoder.pred_obj_score_head(hidden[:, 0]).float()
        chosen, pointer_token = self._choose(masks, ious, multimask)
        row = torch.arange(points.shape[0]) * 4
        mask = masks.flatten(0, 1).index_select(0, row + chosen)[:, None]
        logits = torch.where((score > 0)[:, :, None, None], mask, ABSENT_LOGIT)
        pointer = self._pointer(hidden[:, 2:6].flatten(0, 1).index_select(0, row + pointer_token), score)
        return logits, ious.flatten().index_select(0, row + chosen), pointer, score[:, 0], chosen.to(torch.int32)

    def _output_tokens(self, objects: int) -> Tensor:
        """Return the learned tokens (B, 6, C): presence, quality and four masks."""
        decoder = self.decoder
        tokens = torch.cat([decoder.obj_score_token.weight, decoder.iou_token.weight, decoder.mask_tokens.weight])
        return tokens[None].expand(objects, -1, -1)

    def _masks(self, features: Tensor, mask_tokens: Tensor, high_res_0: Tensor, high_res_1: Tensor) -> Tensor:
        """Return the four candidate masks (B, 4, 4G, 4G)."""
        first, norm, act_1, second, act_2 = self.decoder.output_upscaling
        upscaled = act_1(norm(first(features) + high_res_1))
        upscaled = act_2(second(upscaled) + high_res_0)
        heads = self.decoder.output_hypernetworks_mlps
        hyper = torch.stack([head(mask_tokens[:, i]) for i, head in enumerate(heads)], dim=1)
        masks: Tensor = (hyper @ upscaled.flatten(2)).unflatten(2, (upscaled.shape[2], upscaled.shape[3]))
        return masks

    def _choose(self, masks: Tensor, ious: Tensor, multimask: Tensor) -> tuple[Tensor, Tensor]:
        """Return which of four masks is the answer and which token becomes the pointer, both (B,).

        Without multimask the single mask is kept while it is stable, else the best of three stands in for it
        (`_dynamic_multimask_via_stability` of upstream's sam/mask_decoder.py); the pointer stays the single mask's.
        """
        best = 1 + torch.argmax(ious[:, 1:], dim=-1)
        single = torch.zeros_like(best)
        fallback = torch.where(self._stable(masks[:, 0]), single, best) if self.decoder.dynamic_multimask_via_stability else single
        chosen = torch.where(multimask, best, fallback)
        return chosen, torch.where(multimask, best, single) if self.pointer_of_best else single

    def _stable(self, mask: Tensor) -> Tensor:
        """Return whether a mask (B, 4G, 4G) changes little when its threshold moves a little, (B,) bool."""
        delta = self.decoder.dynamic_multimask_stability_delta
        inner = (mask > delta).float().flatten(1).sum(-1)
        outer = (mask > -delta).float().flatten(1).sum(-1)
        stability = torch.where(outer > 0, inner / outer.clamp(min=1.0), 1.0)
        stable: Tensor = stability >= self.decoder.dynamic_multimask_stability_thresh
        return stable

    def _pointer(self, token: Tensor, score: Tensor) -> Tensor:
        """Return the object pointer (B, C): the learned "no object" one where the score (B, 1) is not positive."""
        pointer = self.pointer_proj(token).float()
        present = (score > 0).float()
        if self.fixed_no_pointer:
            pointer = present * pointer
        kept: Tensor = pointer + (1 - present) * self.no_pointer
        return kept
