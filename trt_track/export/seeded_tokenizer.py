"""A tokenizer for models with weights from a seed: single letters, at the places where BERT's vocabulary has its special tokens."""

from __future__ import annotations

import string
from typing import Final

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

_SPECIAL: Final = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012, "?": 1029}
"""Token ids of `bert-base-uncased`, which Grounding DINO's code knows by number."""


def seeded_tokenizer(vocabulary: int) -> bytes:
    """Return a `tokenizer.json`: words are spelled in letters, every letter and digit has two tokens, at and after a word's beginning.

    Args:
        vocabulary: tokens of the model; at least 1030.
    """
    free = (number for number in range(1, vocabulary) if number not in _SPECIAL.values())
    pieces = [start + character for start in ("", "##") for character in string.ascii_lowercase + string.digits]
    tokenizer = Tokenizer(WordPiece({**_SPECIAL, **dict(zip(pieces, free, strict=False))}, unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(token, _SPECIAL[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    tokenizer.decoder = decoders.WordPiece()
    return str(tokenizer.to_str()).encode()
