"""Text prompts: `person. red car.` -> the tokens that the model reads, and logits per token -> the phrase that a box is.

A phrase is what stands between two delimiters. Its words see each other and nothing else of the prompt, and count their places from its
beginning (https://arxiv.org/abs/2303.05499, section 3.4, "sub-sentence level" text feature).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from trt_track.detector_specs import DetectorSpec
from trt_track.errors import PromptError

TOKENIZER: Final = "tokenizer.json"
_UNKNOWN: Final = "[UNK]"
_FEW_WORDS: Final = 50
"""Words that a message can list."""


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """A prompt as the graphs take it, of T tokens."""

    text: str
    """In lower case, with a full stop at its end."""
    token: npt.NDArray[np.int32]
    """(T,)."""
    position: npt.NDArray[np.int32]
    """(T,) place of each token in its phrase; 0 for the delimiters at the two ends."""
    attends: npt.NDArray[np.bool_]
    """(T, T) which tokens see each other."""
    phrases: tuple[str, ...]
    """In their order."""
    phrase: npt.NDArray[np.int32]
    """(T,) which phrase a token is a word of; -1 for delimiters."""


class PromptReader:
    """A model's tokenizer."""

    def __init__(self, path: Path, detector: DetectorSpec) -> None:
        """Read `tokenizer.json`.

        Raises:
            PromptError: it is no tokenizer.
        """
        from tokenizers import Tokenizer

        self.detector = detector
        try:
            self._tokenizer: Any = Tokenizer.from_file(str(path))
        except Exception as error:  # it raises Exception itself
            raise PromptError(f"{path} is no tokenizer: {error}") from error

    @property
    def known_words(self) -> tuple[str, ...]:
        """Words that are a token each, in the order of their numbers."""
        numbers = self._tokenizer.get_vocab()
        return tuple(sorted((word for word in numbers if word.isalpha()), key=lambda word: int(numbers[word])))

    def read(self, text: str) -> TextPrompt:
        """Read a prompt: phrases in any case with a full stop after each; the last one may be left out.

        Raises:
            PromptError: it is empty, too long, or has words that the model has no token for.
        """
        text = " ".join(text.lower().split())
        if not any(character.isalnum() for character in text):
            raise PromptError('the text prompt is empty: name what to find, with a full stop after each, for example "person. red car."')
        text = text if text.endswith((".", "?")) else f"{text}."
        encoding = self._tokenizer.encode(text)
        self._check(text, encoding)
        token = np.array(encoding.ids, np.int32)
        position, attends, end = _places(np.isin(token, self.detector.delimiters))
        phrase, phrases = self._phrases(text, encoding, end)
        return TextPrompt(text, token, position, attends, phrases, phrase)

    def _check(self, text: str, encoding: Any) -> None:
        most, count = self.detector.max_tokens, len(encoding.ids)
        if count > most:
            raise PromptError(
                f"the text prompt has {count} tokens, {self.detector.name} reads {most}: name fewer things, or run it in parts"
            )
        pairs = zip(encoding.tokens, encoding.offsets, strict=True)
        unknown = [text[start:stop] for name, (start, stop) in pairs if name == _UNKNOWN]
        if unknown:
            words = self.known_words
            advice = f"it knows only {', '.join(words)}" if len(words) <= _FEW_WORDS else "use other words"
            raise PromptError(f"{self.detector.name} has no token for {', '.join(map(repr, unknown))}: {advice}")

    def _phrases(self, text: str, encoding: Any, end: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int32], tuple[str, ...]]:
        """Return which phrase each token is of, and the phrases as they stand in the text."""
        words = end != np.arange(len(end))
        phrase = np.full(len(end), -1, np.int32)
        phrases: list[str] = []
        for last in dict.fromkeys(end[words].tolist()):
            members = np.flatnonzero(words & (end == last))
            name = text[encoding.offsets[members[0]][0] : encoding.offsets[members[-1]][1]]
            if name not in phrases:
                phrases.append(name)
            phrase[members] = phrases.index(name)
        return phrase, tuple(phrases)

    def words(self, prompt: TextPrompt, chosen: npt.NDArray[np.bool_]) -> str:
        """Return the chosen tokens (T,) as text, the one at the beginning left out, as upstream names a box."""
        ids = prompt.token[1:][chosen[1:]].tolist()
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))


def _places(delimiter: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """Return place in its phrase (T,), who sees whom (T, T), and the delimiter that ends each token's phrase (T,).

    transformers' `generate_masks_with_special_tokens_and_transfer_map`: a delimiter belongs to the phrase that it ends; what the very
    first or the very last token ends sees itself alone.
    """
    index, ends = np.arange(len(delimiter)), np.flatnonzero(delimiter)
    after = np.searchsorted(ends, index)
    end = ends[np.minimum(after, len(ends) - 1)]
    begin = np.where(after > 0, ends[after - 1], -1)
    inner = (end != 0) & (end != len(delimiter) - 1)
    position = np.where(inner, index - begin - 1, 0).astype(np.int32)
    attends = np.eye(len(delimiter), dtype=bool) | ((end[:, None] == end) & inner)
    return position, attends, end
