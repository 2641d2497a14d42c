"""The small Grounding DINO: transformers' architecture at a small size, and a tokenizer for the words of the little world."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import roi_align
from transformers import BertConfig, GroundingDinoConfig, GroundingDinoForObjectDetection, SwinConfig

from trt_track.scenes.named import ANYTHING, COLOURS, PATTERNS, SHAPES

WORDS = (*COLOURS, *PATTERNS, *SHAPES, ANYTHING)
KINDS = (len(COLOURS), len(PATTERNS), len(SHAPES))
_SPECIAL = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, ".": 1012, "?": 1029}
"""Token ids of `bert-base-uncased`, which Grounding DINO's code knows by number."""


def small_config() -> GroundingDinoConfig:
    """Return the configuration: 3.7 million weights, no dropout."""
    swin = SwinConfig(out_indices=[3, 4], embed_dim=32, depths=[1, 1, 2, 1], num_heads=[1, 2, 4, 8], window_size=8, drop_path_rate=0.0)
    none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    bert = BertConfig(hidden_size=96, num_hidden_layers=2, num_attention_heads=4, intermediate_size=192, vocab_size=1030, **none)
    return GroundingDinoConfig(
        backbone_config=swin,
        text_config=bert,
        d_model=128,
        num_feature_levels=3,
        encoder_layers=2,
        encoder_ffn_dim=256,
        encoder_attention_heads=8,
        decoder_layers=3,
        decoder_ffn_dim=256,
        decoder_attention_heads=8,
        num_queries=40,
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        fusion_dropout=0.0,
        fusion_droppath=0.0,
        disable_custom_kernels=True,
    )


def new_model() -> Any:
    """Return a model with transformers' initial weights, from torch's current seed."""
    model = GroundingDinoForObjectDetection(small_config())
    for name, weight in model.named_parameters():
        if name.endswith(("vision_param", "text_param")):
            torch.nn.init.constant_(weight, 0.1)  # upstream's 1e-4 is for a backbone that knows everything already
    words = model.model.encoder.layers[-1].text_enhancer_layer.layer_norm_after
    torch.nn.init.constant_(words.weight, 0.1)
    for norm, bias in ((words, -2.0), (model.model.enc_output_norm, 2.0), (model.model.decoder.layer_norm, 2.0)):
        torch.nn.init.zeros_(norm.bias)
        norm.bias.data[0] = bias  # their products begin near -4: no query is any word
    return model


class Glance(nn.Module):
    """Tells colour, pattern and shape of things from the backbone's maps alone, so that the backbone learns what words are about.

    Upstream's backbone has learnt to see before it meets words; this one learns both at once. It is no part of the detector.
    """

    def __init__(self, model: Any, cells: int = 4) -> None:
        """Look at maps of a model, each thing in `cells` x `cells` parts."""
        super().__init__()
        self.cells = cells
        backbone = model.model.backbone.conv_encoder
        self.heads = nn.ModuleList(nn.Linear(cells**2 * width, sum(KINDS)) for width in backbone.intermediate_channel_sizes)
        self._maps: list[Tensor] = []
        backbone.register_forward_hook(lambda _module, _inputs, maps: self._maps.__setitem__(slice(None), [level for level, _ in maps]))

    def forward(self, corners: Tensor, kinds: Tensor, height: int) -> Tensor:
        """Return the cross entropy, summed over the kinds of words.

        Args:
            corners: (n, 5) number of the picture, then box in its pixels, in the pictures that the backbone saw last.
            kinds: (n, 3) which colour, pattern and shape.
            height: of these pictures in pixels.
        """
        total = corners.new_zeros(())
        for head, level in zip(self.heads, self._maps, strict=True):
            parts = roi_align(level, corners, self.cells, spatial_scale=level.shape[-2] / height, aligned=True).flatten(1)
            for told, wanted in zip(head(parts).split(KINDS, dim=1), kinds.T, strict=True):
                total = total + functional.cross_entropy(told, wanted)
        return total / len(self._maps)


def word_tokenizer() -> bytes:
    """Return a `tokenizer.json` with a token for every word; any other word is unknown."""
    free = (number for number in range(1, 1030) if number not in _SPECIAL.values())
    tokenizer = Tokenizer(WordPiece({**_SPECIAL, **dict(zip(WORDS, free, strict=False))}, unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(token, _SPECIAL[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    tokenizer.decoder = decoders.WordPiece()
    return str(tokenizer.to_str()).encode()


def predictions(model: Any, pixels: Tensor, token: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return logits (F, Q, T) and boxes (F, Q, 4) of all the encoder's cells and of every decoder layer, the last one's at the end.

    transformers' `GroundingDinoForObjectDetection.forward`, whose loss takes one prompt for all pictures of a batch.
    """
    found = model.model(pixel_values=pixels, input_ids=token, attention_mask=mask)
    # Not its encoder_logits: those are of the chosen cells without a gradient, so that the choice would never be learnt.
    every = [(found.enc_outputs_class, found.enc_outputs_coord_logits.sigmoid())]
    for level in range(found.intermediate_hidden_states.shape[1]):
        queries = found.intermediate_hidden_states[:, level]
        before = found.init_reference_points if level == 0 else found.intermediate_reference_points[:, level - 1]
        logits = model.class_embed[level](
            vision_hidden_state=queries, text_hidden_state=found.encoder_last_hidden_state_text, text_token_mask=mask.bool()
        )
        every.append((logits, (model.bbox_embed[level](queries) + torch.special.logit(before, eps=1e-5)).sigmoid()))
    padding = ~mask.bool()[:, None]
    return [(logits[..., : token.shape[1]].masked_fill(padding, 0.0), boxes) for logits, boxes in every]
