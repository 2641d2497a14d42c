"""The PyTorch form of every graph against upstream's own methods, before any exporter is involved."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_track.export.graphs import build_modules
from trt_track.export.mask_upscale import FILLED_LOGIT, HoleFilling
from trt_track.export.random_weights import random_checkpoint
from trt_track.export.reference import components
from trt_track.export.tracing import sample_inputs
from trt_track.export.upstream import build_model, model_spec
from trt_track.export.upstream_graphs import UpstreamGraphs
from trt_track.parity.measures import compare_outputs
from trt_track.parity.thresholds import Thresholds
from trt_track.recipe import NetworkPrecision, Recipe
from trt_track.specs import GRAPHS, graph_specs

SIZES = {"F": 2, "B": 3, "N": 7, "P": 16, "K": 3, "pages": 30, "pointers": 40, "H": 200, "W": 333}
# A quarter of the side of the smallest real model: the same graph, little to compute.
SIDE = 128


@pytest.fixture(scope="module", params=["sam2.1-hiera-tiny", "sam2-hiera-tiny"])
def predictor(request):
    model = build_model(request.param, SIDE)
    random_checkpoint(model, 0)
    return model


@pytest.fixture(scope="module")
def modules(predictor):
    return build_modules(predictor, Recipe.read("fp32"))


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("seed", [1, 2])
def test_graph_equals_upstream(predictor, modules, graph, seed):
    spec = graph_specs(model_spec(predictor, "model"), "float32")[graph]
    inputs = sample_inputs(spec, SIZES, seed)
    with torch.no_grad():
        outputs = modules[graph](*inputs.values())
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    found = {tensor.name: value.numpy() for tensor, value in zip(spec.outputs, outputs, strict=True)}
    wanted = {name: value.numpy() for name, value in UpstreamGraphs(predictor).run(spec, inputs).items()}
    for row in compare_outputs(graph, found, wanted, limits=Thresholds.read().traced("float32")):
        assert row.passed, row


@pytest.mark.parametrize("objects", [1, 3])
def test_fused_and_reduced_memory_attention_agree(predictor, modules, objects):
    """The FP16 form, computed in FP32, is the same function as the reduced one."""
    from trt_track.export.memory_attention import MemoryAttention

    spec = graph_specs(model_spec(predictor, "model"), "float32")["memory_attention"]
    inputs = sample_inputs(spec, {**SIZES, "B": objects}, 5)
    with torch.no_grad():
        fused = MemoryAttention(predictor, NetworkPrecision(), fused=True, features=torch.float32).eval()(*inputs.values())
        reduced = modules["memory_attention"](*inputs.values())
    assert torch.allclose(fused, reduced, atol=2e-5)


def test_objects_of_a_batch_do_not_mix(predictor, modules):
    """Row 1 of a batch of three is what it is alone."""
    spec = graph_specs(model_spec(predictor, "model"), "float32")["memory_attention"]
    inputs = sample_inputs(spec, SIZES, 6)
    alone = {name: value[1:2] if name in {"page", "age", "pointer", "pointer_age"} else value for name, value in inputs.items()}
    with torch.no_grad():
        together = modules["memory_attention"](*inputs.values())
        single = modules["memory_attention"](*alone.values())
    assert torch.allclose(together[1:2], single, atol=2e-5)


def filled_by_components(logits: torch.Tensor, area: int) -> torch.Tensor:
    labels, areas = components(logits <= 0)
    return torch.where((labels > 0) & (areas <= area), FILLED_LOGIT, logits)


@settings(max_examples=60, deadline=None)
@given(st.floats(0.02, 0.98), st.integers(0, 2**31), st.sampled_from([1, 4, 8]))
def test_holes_are_filled_as_by_connected_components(share, seed, area):
    noise = torch.rand((2, 1, 33, 47), generator=torch.Generator().manual_seed(seed))
    logits = torch.where(noise > share, 3.0, -3.0)
    assert torch.equal(HoleFilling(area)(logits), filled_by_components(logits, area))


@pytest.mark.parametrize("cells", [8, 9])
@pytest.mark.parametrize("shape", ["line", "diagonal", "spiral"])
def test_a_hole_of_eight_cells_is_filled_and_one_of_nine_is_not(shape, cells):
    way = {
        "line": [(10, 5 + i) for i in range(9)],
        "diagonal": [(5 + i, 5 + i) for i in range(9)],
        "spiral": [(5, 5), (5, 6), (5, 7), (6, 7), (7, 7), (7, 6), (7, 5), (8, 4), (9, 4)],
    }[shape][:cells]
    logits = torch.ones((1, 1, 20, 20))
    for y, x in way:
        logits[0, 0, y, x] = -1.0
    filled = HoleFilling(8)(logits)
    assert bool((filled > 0).all()) == (cells == 8)


def test_a_hole_at_the_border_counts_as_a_hole():
    logits = torch.ones((1, 1, 8, 8))
    logits[0, 0, 0, 0] = -1.0
    assert np.isclose(float(HoleFilling(8)(logits)[0, 0, 0, 0]), FILLED_LOGIT)


def test_an_empty_mask_stays_empty():
    logits = torch.full((1, 1, 16, 16), -5.0)
    assert torch.equal(HoleFilling(8)(logits), logits)
