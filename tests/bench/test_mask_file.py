import numpy as np
import pytest

from trt_track.bench.mask_file import ROUNDED_PIXELS, MaskFile, compare_masks, read_masks

SHAPE = (2, 21, 33)


@pytest.fixture
def masks():
    return np.random.default_rng(0).random((5, *SHAPE)) > 0.3


@pytest.fixture
def written(tmp_path):
    def write(name, masks):
        with MaskFile(tmp_path / name) as file:
            for frame in masks:
                file.write(frame)
        return tmp_path / name

    return write


def test_masks_come_back(masks, written):
    path = written("a", masks)
    assert path.stat().st_size == 5 * -(-np.prod(SHAPE) // 8)
    np.testing.assert_array_equal(np.stack(list(read_masks(path, SHAPE))), masks)


def test_equal_masks(masks, written):
    found = compare_masks(written("a", masks), written("b", masks), SHAPE, bound=0.999)
    assert found["masks"] == 10
    assert found["least_iou"] == 1.0
    assert found["under_bound"] == 0
    assert found["empty_or_full"] == 0


def test_a_wrong_mask_is_found_where_it_is(masks, written):
    wrong = masks.copy()
    wrong[3, 1] = ~wrong[3, 1]
    found = compare_masks(written("a", wrong), written("b", masks), SHAPE, bound=0.999)
    assert found["least_iou"] == 0.0
    assert found["worst"] == {"frame": 3, "object": 2}
    assert found["under_bound"] == 1


@pytest.mark.parametrize(("pixels", "under"), [(ROUNDED_PIXELS, 0), (ROUNDED_PIXELS + 1, 1)])
def test_a_few_pixels_may_be_rounded_the_other_way(masks, written, pixels, under):
    other = masks.copy()
    other[0, 0].reshape(-1)[:pixels] ^= True
    found = compare_masks(written("a", other), written("b", masks), SHAPE, bound=0.999)
    assert found["least_iou"] < 0.999
    assert found["under_bound"] == under


def test_masks_that_say_nothing_are_counted(masks, written):
    masks[0, 0], masks[1, 1] = True, False
    assert compare_masks(written("a", masks), written("b", masks), SHAPE, bound=0.999)["empty_or_full"] == 2


def test_runs_of_different_length_are_no_pair(masks, written):
    with pytest.raises(ValueError, match=r"zip\(\)"):
        compare_masks(written("a", masks[:3]), written("b", masks), SHAPE, bound=0.999)
