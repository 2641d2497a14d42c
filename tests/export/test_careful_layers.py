"""Layers in float32 inside networks of half precision: whole networks of SAM 2, a Swin, and what is no layer."""

import pytest
import torch
from torch import nn

from trt_track.errors import ModelError
from trt_track.export.careful_layers import compute_in_float32
from trt_track.export.graphs import build_modules
from trt_track.export.random_weights import random_checkpoint
from trt_track.export.tracing import sample_inputs
from trt_track.export.upstream import build_model, model_spec
from trt_track.export.upstream_graphs import UpstreamGraphs
from trt_track.parity.graph_check import QUICK
from trt_track.parity.measures import compare_outputs
from trt_track.parity.thresholds import Thresholds
from trt_track.recipe import CarefulLayers, NetworkPrecision, Recipe
from trt_track.specs import graph_specs

TRACKER = ("image_encoder", "memory_attention", "mask_decoder", "memory_encoder")
LIMITS = Thresholds.read()


def recipe(*layers, networks=("image_encoder",), dtype="float16"):
    careful = tuple(CarefulLayers(network, layers, "float32", "a test") for network in networks)
    return Recipe("mine", "", {network: NetworkPrecision(dtype) for network in networks}, careful)


class Part(nn.Module):
    """Half a network: a table of its own beside its layers."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.ones(4))
        self.words = nn.Embedding(3, 4)
        self.product, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)

    def forward(self, x):
        return self.norm(self.product(x) + self.words.weight[0] + self.table)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk, self.last = Part(), nn.Linear(4, 4)

    def forward(self, x):
        return self.last(self.trunk(x))


def network(*layers):
    torch.manual_seed(0)
    module = Network().half()
    compute_in_float32(module, "image_encoder", recipe(*layers))
    return module


@pytest.mark.parametrize(
    ("layers", "wide"),
    [
        (("trunk.product",), {"trunk.product"}),
        (("trunk.*",), {"trunk.product", "trunk.norm"}),
        (("trunk*",), {"trunk.product", "trunk.norm"}),
        (("*",), {"trunk.product", "trunk.norm", "last"}),
        (("*.norm", "last"), {"trunk.norm", "last"}),
    ],
)
def test_layers_are_widened_and_keep_their_names_and_tables_stay(layers, wide):
    module = network(*layers)
    assert {name.rpartition(".")[0] for name, weight in module.named_parameters() if weight.dtype == torch.float32} == wide
    assert set(module.state_dict()) == set(Network().state_dict())
    assert module.trunk.product.in_features == 4  # code around a layer may ask for its sizes
    assert module(torch.ones(1, 4, dtype=torch.half)).dtype == torch.half


def test_what_overflows_in_half_precision_does_not_in_float32():
    """The sum inside of the product leaves float16's range; what comes out does not."""
    given = torch.tensor([[6e4, 6e4, -6e4, -6e4]], dtype=torch.half)
    found = {}
    for layers in (("last",), ("trunk.product",)):
        module = network(*layers)
        seen = []
        module.trunk.product.register_forward_hook(lambda _, inputs, out, seen=seen: seen.append((inputs[0].dtype, out.dtype)))
        module.trunk(given)
        found[layers] = seen
    assert found == {("last",): [(torch.half, torch.half)], ("trunk.product",): [(torch.float32, torch.half)]}


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            ("trunk",),
            r"recipe mine: trunk in image_encoder is no layer; its tables \(table\) have the dtype of the network: name layers, such as "
            r"trunk\.product",
        ),
        (("last", "*.words"), r"\*\.words in image_encoder is no layer; its tables \(weight\) have the dtype of the network"),
        (("neck.*",), r"image_encoder of this model has no layer neck\.\*; it has trunk\.product, trunk\.norm, last"),
    ],
)
def test_what_is_no_layer_is_refused(layers, message):
    with pytest.raises(ModelError, match=message):
        network(*layers)


def test_a_backbone_is_a_part_of_its_graph():
    module = nn.ModuleDict({"backbone": nn.Linear(4, 4), "enhancer": nn.Linear(4, 4)}).half()
    with pytest.raises(ModelError, match=r"backbone of this model has no layer enhancer"):
        compute_in_float32(module, "backbone", recipe("enhancer", networks=("backbone",)))


@pytest.fixture(scope="module")
def predictor(small_config):
    model = build_model(small_config, None)
    random_checkpoint(model, 0)
    return model


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("layers", [("*",), ("*.0.*", "*norm*", "*proj")], ids=["all", "some"])
def test_layers_of_a_tracker_can_be_in_float32(predictor, layers, dtype):
    """And what is between them takes what they give."""
    modules = build_modules(predictor, recipe(*layers, networks=TRACKER, dtype=dtype))
    specs = graph_specs(model_spec(predictor, "small"), dtype)
    for graph in TRACKER:
        inputs = sample_inputs(specs[graph], QUICK, 1)
        with torch.no_grad():
            outputs = modules[graph](*inputs.values())
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        found = {tensor.name: out.float().numpy() for tensor, out in zip(specs[graph].outputs, outputs, strict=True)}
        wanted = {name: value.numpy() for name, value in UpstreamGraphs(predictor).run(specs[graph], inputs).items()}
        assert [row for row in compare_outputs(graph, found, wanted, limits=LIMITS.traced(dtype)) if not row.passed] == []


def test_layers_of_a_swin_can_be_in_float32_and_have_their_own_weights_again():
    from small_detector import small_detector

    from trt_track.export.detector import Detector

    def built(dtype=torch.float32):
        return Detector(small_detector().model.requires_grad_(False), (96, 130), dtype)

    frames = torch.randint(0, 256, (1, 96, 130, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    exact, errors = built(), []
    for layers in ((), ("*.mlp.*", "*relative_position_bias", "*norm*"), ("backbone.*",)):
        low = built(torch.bfloat16)
        if layers:
            compute_in_float32(low, "backbone", recipe(*layers, networks=("backbone",), dtype="bfloat16"), exact)
        errors.append(float((low._maps(frames) - exact._maps(frames)).abs().mean()))
    nothing, some, everything = errors
    assert 0 < everything < some < nothing
