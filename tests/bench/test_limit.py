import subprocess
import sys

import pytest

from trt_track.bench.limit import cpu_peak
from trt_track.bench.upstream import HoleFilling, build_upstream, fills_holes, precision
from trt_track.export.local_models import config_of, weights_of
from trt_track.parity.weights import UpstreamModel

PICO = UpstreamModel(config_of("pico"), 256, weights_of("pico"))


def test_a_matrix_product_has_a_speed(tmp_path):
    found = cpu_peak(tmp_path, 1, side=256)
    assert 0.1 < found["gmac_per_s"] < 1e5
    assert found["by"].startswith("256 x 256 product in FP32")


def test_work_of_a_frame_is_counted_in_each_graph():
    from trt_track.bench.work import frame_gmac

    found = frame_gmac(PICO.build())
    assert set(found) == {"image_encoder", "memory_attention", "mask_decoder", "memory_encoder"}
    assert all(0.01 < gmac < 10 for gmac in found.values())


def test_compiled_upstream_is_upstreams_own_class():
    from sam2.sam2_video_predictor import SAM2VideoPredictor, SAM2VideoPredictorVOS

    eager = build_upstream(PICO, compiled=False, device="cpu")
    compiled = build_upstream(PICO, compiled=True, device="cpu")
    assert type(eager) is SAM2VideoPredictor
    assert type(compiled) is SAM2VideoPredictorVOS
    compiled_forwards = [
        name
        for name in ("image_encoder", "memory_attention", "memory_encoder", "sam_mask_decoder")
        if hasattr(getattr(compiled, name).forward, "_torchdynamo_orig_callable")
    ]
    assert len(compiled_forwards) == 4
    for mine, other in zip(eager.state_dict().values(), compiled.state_dict().values(), strict=True):
        assert mine.equal(other)


def test_filling_holes_is_timed_and_ends_with_its_context():
    import sam2.utils.misc as misc
    import torch

    before, filling = misc.get_connected_components, HoleFilling()
    with filling.installed():
        labels, areas = misc.get_connected_components(torch.ones(1, 1, 8, 8, dtype=torch.bool))
    assert labels.max() == 1
    assert areas.max() == 64
    assert filling.seconds > 0
    assert misc.get_connected_components is before
    assert isinstance(fills_holes(), bool)


@pytest.mark.parametrize(("name", "dtype"), [("fp32", "float32"), ("bf16", "bfloat16")])
def test_precision_is_that_of_products(name, dtype):
    import torch

    with precision(name, "cpu"):
        assert str((torch.ones(2, 2) @ torch.ones(2, 2)).dtype) == f"torch.{dtype}"
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_planning_needs_no_pytorch():
    code = "import sys, trt_track.bench.bench, trt_track.bench.tables; print(sorted({'torch', 'sam2'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
