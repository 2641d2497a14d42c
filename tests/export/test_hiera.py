"""The trunk in both forms and the neck against upstream's, for every way in which windows, stages and levels can follow each other."""

from functools import partial

import pytest
import torch
from sam2.modeling.backbones.hieradet import Hiera
from sam2.modeling.backbones.image_encoder import FpnNeck
from sam2.modeling.position_encoding import PositionEmbeddingSine

from trt_track.errors import ExportError
from trt_track.export.hiera import BlockAttentionByHead, FusedBlockAttention, Trunk
from trt_track.export.neck import Neck
from trt_track.export.random_weights import random_checkpoint
from trt_track.export.windows import Windows

GRID = 32
CHANNELS = (96, 48, 24, 12)

TRUNKS = {
    "windows of 14 reach over the border": {"stages": (1, 2, 4, 2), "window_spec": (8, 4, 14, 7), "global_att_blocks": (4, 6)},
    "windows fit": {"stages": (2, 3, 4, 1), "window_spec": (8, 4, 8, 4), "global_att_blocks": (7,)},
    "the first block attends over the whole grid": {"stages": (2, 1, 1, 1), "window_spec": (8, 4, 2, 1), "global_att_blocks": (0,)},
    "windows everywhere": {"stages": (1, 1, 1, 1), "window_spec": (8, 4, 2, 1), "global_att_blocks": ()},
}


@pytest.mark.parametrize("form", [partial(FusedBlockAttention, dtype=torch.float32), BlockAttentionByHead], ids=["fused", "by head"])
@pytest.mark.parametrize("options", TRUNKS.values(), ids=TRUNKS)
@torch.inference_mode()
def test_trunk_equals_upstream(options, form):
    upstream = Hiera(embed_dim=12, num_heads=1, window_pos_embed_bkg_spatial_size=(7, 7), **options).eval()
    random_checkpoint(upstream, 0)
    pixels = torch.randn((2, 3, 4 * GRID, 4 * GRID), generator=torch.Generator().manual_seed(1))
    trunk = Trunk(upstream, GRID, form).eval()
    found = [windows.image(x) for windows, x in zip(trunk.outputs, trunk(pixels), strict=True)]
    for level, (ours, theirs) in enumerate(zip(found, upstream(pixels), strict=True)):
        assert torch.allclose(ours, theirs, atol=1e-5), (level, (ours - theirs).abs().max())


def pyramid(**options):
    neck = FpnNeck(PositionEmbeddingSine(16), 16, list(CHANNELS), **options).eval()
    random_checkpoint(neck, 0)
    return neck


def decoder_heads():
    generator = torch.Generator().manual_seed(2)
    heads = torch.nn.ModuleDict({"0": torch.nn.Conv2d(16, 2, 1), "1": torch.nn.Conv2d(16, 4, 1)})
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    return {int(level): head for level, head in heads.items()}


@pytest.mark.parametrize("fuse_type", ["sum", "avg"])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize(("top_down", "joined"), [([2, 3], {0, 1}), ([1, 2, 3], {0}), ([0], set()), (None, set()), ([], {0, 1})])
@torch.inference_mode()
def test_neck_equals_upstream(top_down, joined, interpolation, fuse_type):
    upstream, heads = pyramid(fpn_top_down_levels=top_down, fpn_interp_model=interpolation, fuse_type=fuse_type), decoder_heads()
    outputs = [Windows(16, 8), Windows(8, 4), Windows(4, 4), Windows(2, 2)]
    images = [torch.randn(2, channels, windows.grid, windows.grid) for channels, windows in zip(CHANNELS[::-1], outputs, strict=True)]
    wanted, _ = upstream(images)
    neck = Neck(upstream, heads, outputs)
    found = neck([windows.cut(image.flatten(2).transpose(1, 2)) for windows, image in zip(outputs, images, strict=True)])
    assert {level for level in heads if isinstance(neck.rest[level], torch.nn.Identity)} == joined
    for level, (ours, theirs) in enumerate(zip(found, wanted, strict=True)):
        expected = heads.get(level, torch.nn.Identity())(theirs)
        assert torch.allclose(ours, expected, atol=1e-5), (level, (ours - expected).abs().max())


def test_a_wider_lateral_convolution_is_refused():
    with pytest.raises(ExportError, match="1x1"):
        Neck(pyramid(kernel_size=3, padding=1), decoder_heads(), [Windows(16, 16)] * 4)
