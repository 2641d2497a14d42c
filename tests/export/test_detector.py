"""Grounding DINO's two modules against transformers' model with the same weights."""

import copy

import pytest
import torch
from small_detector import small_detector
from transformers.models.grounding_dino.modeling_grounding_dino import generate_masks_with_special_tokens_and_transfer_map

from trt_track.errors import ModelError
from trt_track.export.detector import Detector, map_sizes
from trt_track.export.grounding_dino import HUB_MODELS, detector_spec, load_detector, official_config
from trt_track.export.image_encoder import MEAN_RGB, STD_RGB
from trt_track.export.text_encoder import TextEncoder

PROMPTS = ([101, 5, 1012, 102], [101, 5, 6, 7, 1012, 8, 1029, 9, 9, 1012, 102], [101, 30, 31, 102])


@pytest.fixture(scope="module")
def model():
    return small_detector().model.requires_grad_(False)


def upstream(model, frames, tokens):
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN_RGB, STD_RGB))
    pixels = (frames.permute(0, 3, 1, 2).float() / 255 - mean) / std
    outputs = model(pixel_values=pixels, input_ids=torch.tensor([tokens]).expand(len(frames), -1))
    return outputs.logits[..., : len(tokens)], outputs.pred_boxes


def ours(model, frames, tokens):
    own = copy.deepcopy(model)
    attends, position = generate_masks_with_special_tokens_and_transfer_map(torch.tensor([tokens]), model.model.special_tokens)
    text = TextEncoder(own)(torch.tensor(tokens, dtype=torch.int32), position[0].int(), attends[0])
    return Detector(own, tuple(frames.shape[1:3])).eval()(frames, text, position[0].int(), attends[0])[:2]


@pytest.mark.parametrize("tokens", PROMPTS)
@pytest.mark.parametrize("frame_hw", [(96, 130), (101, 77), (130, 64)])
def test_logits_and_boxes_are_transformers(model, frame_hw, tokens):
    frames = torch.randint(0, 256, (2, *frame_hw, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    for found, wanted in zip(ours(model, frames, tokens), upstream(model, frames, tokens), strict=True):
        assert wanted.std() > 0.01
        torch.testing.assert_close(found, wanted, atol=2e-4, rtol=0)


@pytest.mark.parametrize(
    "part", ["fusion_layer.vision_param", "text_enhancer_layer.fc1.weight", "deformable_layer.self_attn.sampling_offsets.bias"]
)
def test_every_part_of_the_enhancer_counts(model, part):
    """A wrong weight shows: what the comparison above sees is more than the backbone."""
    frames = torch.randint(0, 256, (1, 96, 130, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    other = copy.deepcopy(model)
    weight = other.model.encoder.layers[0].get_parameter(part)
    weight.copy_(weight * 1.5 + 0.2)
    assert (ours(other, frames, PROMPTS[1])[0] - upstream(model, frames, PROMPTS[1])[0]).abs().max() > 2e-3


@pytest.mark.parametrize("frame_hw", [(96, 130), (101, 77), (133, 250)])
def test_sizes_of_the_maps(model, frame_hw):
    with torch.no_grad():
        maps = model.model.backbone.conv_encoder.model(torch.zeros(1, 3, *frame_hw), return_dict=True).feature_maps
        last = model.model.input_proj_vision[-1](maps[-1])
    assert map_sizes(model.model, frame_hw) == tuple(tuple(level.shape[-2:]) for level in (*maps, last))


def test_spec_says_what_the_configuration_says(model):
    spec = detector_spec(small_detector(), "small", (96, 130))
    assert (spec.name, spec.frame_hw, spec.channels, spec.queries, spec.max_tokens) == ("small", (96, 130), 32, 40, 256)
    assert spec.delimiters == (101, 102, 1012, 1029)


@pytest.mark.parametrize(("name", "channels"), [("grounding-dino-tiny", [192, 384, 768]), ("grounding-dino-base", [256, 512, 1024])])
def test_official_configurations(name, channels):
    config = official_config(name)
    embed = config.backbone_config.embed_dim
    assert [2 * embed, 4 * embed, 8 * embed] == channels
    assert (config.num_queries, config.d_model, config.text_config.vocab_size) == (900, 256, 30522)
    assert len(HUB_MODELS[name].revision) == 40
    assert len(HUB_MODELS[name].sha256) == 64


def test_same_seed_same_weights():
    first, again, other = small_detector(3), small_detector(3), small_detector(4)
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), again.model.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.model.parameters(), other.model.parameters(), strict=True))


class TestFolder:
    def test_gives_the_model_that_was_saved(self, detector_folder, model):
        loaded = load_detector(detector_folder)
        weights = loaded.model.state_dict()
        assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
        assert loaded.source == "small"
        assert len(loaded.sha256) == 64

    def test_refuses_an_empty_one(self, tmp_path):
        with pytest.raises(ModelError, match=r"lacks config\.json, tokenizer\.json, model\.safetensors"):
            load_detector(tmp_path)

    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize(
        ("file", "content", "message"),
        [
            ("config.json", "{", "is no Grounding DINO"),
            ("config.json", '{"model_type": "grounding-dino", "two_stage": false}', "two_stage is False"),
            ("model.safetensors", "rubbish", "is no Grounding DINO"),
        ],
    )
    def test_refuses_what_is_damaged(self, detector_folder, tmp_path, file, content, message):
        for source in detector_folder.iterdir():
            (tmp_path / source.name).write_bytes(source.read_bytes())
        (tmp_path / file).write_text(content)
        with pytest.raises(ModelError, match=message):
            load_detector(tmp_path)
