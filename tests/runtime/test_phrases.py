"""Text prompts: which tokens, which places, which phrases."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_track.detector_specs import DetectorSpec
from trt_track.errors import PromptError
from trt_track.export.seeded_tokenizer import seeded_tokenizer
from trt_track.runtime.phrases import PromptReader, _places

SPEC = DetectorSpec("small", (64, 64), max_tokens=24)


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_bytes(seeded_tokenizer(1100))
    return PromptReader(path, SPEC)


@pytest.mark.parametrize(
    ("text", "read", "phrases"),
    [
        ("cat", "cat.", ("cat",)),
        ("  Red   CAR.  ", "red car.", ("red car",)),
        ("a b. cat? dog.", "a b. cat? dog.", ("a b", "cat", "dog")),
        ("cat. dog. cat.", "cat. dog. cat.", ("cat", "dog")),
        ("cat... dog", "cat... dog.", ("cat", "dog")),
    ],
)
def test_phrases_of_a_prompt(reader, text, read, phrases):
    prompt = reader.read(text)
    assert prompt.text == read
    assert prompt.phrases == phrases
    assert prompt.token[0] == 101
    assert prompt.token[-1] == 102
    for number, phrase in enumerate(phrases):
        assert set(reader.words(prompt, prompt.phrase == number).split(" ")) >= set(phrase.split(" "))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the text prompt is empty"),
        (" . ? ", "the text prompt is empty"),
        ("cat. 雪. ☂", "no token for '雪', '☂'"),
        ("abcdefghij. abcdefghij. abcdefghij.", "has 35 tokens, small reads 24"),
    ],
)
def test_refusals(reader, text, message):
    with pytest.raises(PromptError, match=message):
        reader.read(text)


def test_a_file_that_is_no_tokenizer(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(PromptError, match="is no tokenizer"):
        PromptReader(tmp_path / "tokenizer.json", SPEC)


@settings(deadline=None)
@given(st.lists(st.sampled_from([101, 102, 1012, 1029, 7, 8, 9]), max_size=20))
def test_places_are_transformers(middle):
    import torch
    from transformers.models.grounding_dino.modeling_grounding_dino import generate_masks_with_special_tokens_and_transfer_map

    token = np.array([101, *middle, 102])
    attends, position = generate_masks_with_special_tokens_and_transfer_map(torch.from_numpy(token)[None], torch.tensor(SPEC.delimiters))
    found_position, found_attends, _ = _places(np.isin(token, SPEC.delimiters))
    np.testing.assert_array_equal(found_attends, attends[0].numpy())
    np.testing.assert_array_equal(found_position, position[0].numpy())
