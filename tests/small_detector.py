"""A Grounding DINO that is small enough for tests: all its parts, narrow layers, weights from a seed."""

from pathlib import Path


def small_config():
    from transformers import BertConfig, GroundingDinoConfig, SwinConfig

    swin = SwinConfig(out_indices=[2, 3, 4], embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 4], window_size=7)
    bert = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, vocab_size=1100)
    widths = {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
    return GroundingDinoConfig(
        backbone_config=swin, text_config=bert, encoder_layers=1, decoder_layers=2, num_queries=40, disable_custom_kernels=True, **widths
    )


def small_detector(seed=0):
    from trt_track.export.grounding_dino import seed_detector

    return seed_detector(small_config(), seed)


def write_small_detector(folder: Path) -> Path:
    loaded = small_detector()
    loaded.model.save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(loaded.tokenizer_json)
    return folder
