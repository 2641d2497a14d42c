import pytest
import torch
from sam2.modeling.backbones.utils import window_partition, window_unpartition

from trt_track.export.windows import Windows

CUTS = [(16, 8), (16, 16), (16, 14), (8, 7), (6, 14)]


def cells(grid, frames=2, channels=3):
    return torch.arange(frames * grid * grid * channels, dtype=torch.float32).reshape(frames, grid * grid, channels)


@pytest.mark.parametrize(("grid", "side"), CUTS)
def test_windows_are_those_of_upstream(grid, side):
    x = cells(grid)
    wanted, padded = window_partition(x.unflatten(1, (grid, grid)), side)
    found = Windows(grid, side).cut(x)
    assert torch.equal(found, wanted.flatten(1, 2))
    assert torch.equal(Windows(grid, side).joined(found), window_unpartition(wanted, side, padded, (grid, grid)).flatten(1, 2))


@pytest.mark.parametrize(("grid", "side"), CUTS)
def test_joined_undoes_cut(grid, side):
    assert torch.equal(Windows(grid, side).joined(Windows(grid, side).cut(cells(grid))), cells(grid))


@pytest.mark.parametrize("grid", [8, 12])
def test_one_cut_becomes_another(grid):
    x = cells(grid)
    assert torch.equal(Windows(grid, 2).to(Windows(grid, 4), Windows(grid, 2).cut(x)), Windows(grid, 4).cut(x))


@pytest.mark.parametrize(("grid", "side"), [(16, 8), (16, 16), (16, 14)])
def test_pooling_leaves_windows_where_they_are(grid, side):
    x, windows = cells(grid) - 500.0, Windows(grid, side)
    image = torch.nn.functional.max_pool2d(x.transpose(1, 2).unflatten(2, (grid, grid)), 2)
    assert windows.halved == Windows(grid // 2, side // 2)
    assert torch.equal(windows.halved.image(windows.pooled(windows.cut(x))), image)
