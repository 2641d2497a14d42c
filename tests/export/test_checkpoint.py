"""Building upstream's predictor, reading its options, and checkpoints that fit or do not."""

import collections
import hashlib
import itertools
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import sam2
import torch
from omegaconf import ListConfig, OmegaConf
from sam2 import sam2_video_predictor

from trt_track.errors import ModelError
from trt_track.export.catalogue import CATALOGUE
from trt_track.export.checkpoint import build_model, load_checkpoint, model_spec, random_checkpoint, save_checkpoint
from trt_track.specs import ModelSpec

TINY = "configs/sam2.1/sam2.1_hiera_t.yaml"
SIZE = 256


@pytest.fixture(scope="module")
def tiny():
    return build_model(TINY, SIZE)


@pytest.fixture(scope="module")
def random_tiny():
    model = build_model(TINY, SIZE)
    random_checkpoint(model, 0)
    return model


def tree_of_tiny():
    return OmegaConf.to_container(OmegaConf.load(Path(sam2.__file__).parent / TINY))


def write_config(path, tree):
    OmegaConf.save(OmegaConf.create(tree), path)
    return path


def test_the_model_is_upstreams_own(tiny):
    from sam2.build_sam import build_sam2_video_predictor

    cells = f"[{SIZE // 16},{SIZE // 16}]"
    layer = "++model.memory_attention.layer"
    overrides = [
        f"++model.image_size={SIZE}",
        f"{layer}.self_attention.feat_sizes={cells}",
        f"{layer}.cross_attention.feat_sizes={cells}",
    ]
    torch.manual_seed(0)
    upstream = build_sam2_video_predictor(TINY, None, device="cpu", hydra_overrides_extra=overrides)
    torch.manual_seed(0)
    ours = build_model(TINY, SIZE)
    assert str(ours) == str(upstream)
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), upstream.state_dict().values(), strict=True))
    for left, right in zip(ours.modules(), upstream.modules(), strict=True):
        assert plain_options(left) == plain_options(right)


def plain_options(module):
    """Everything that a module was configured with: numbers, texts and sequences of them."""
    kinds = bool | int | float | str | None
    options = {key: value for key, value in vars(module).items() if isinstance(value, kinds)}
    listed = {key: list(value) for key, value in vars(module).items() if isinstance(value, list | tuple | ListConfig)}
    return options | {"extras": dict(getattr(module, "sam_mask_decoder_extra_args", {}))} | listed


def test_it_is_the_video_predictor_for_inference_on_the_cpu(tiny):
    assert type(tiny).__name__ == "SAM2VideoPredictor"
    assert not any(module.training for module in tiny.modules())
    assert {parameter.device.type for parameter in tiny.parameters()} == {"cpu"}
    assert tiny.fill_hole_area == 8
    assert tiny.binarize_mask_from_pts_for_mem_enc
    assert tiny.sam_mask_decoder.dynamic_multimask_via_stability
    for layer in tiny.memory_attention.layers:
        assert len(layer.self_attn.freqs_cis) == len(layer.cross_attn_image.freqs_cis) == (SIZE // 16) ** 2


def test_a_model_builds_again_and_from_any_folder(tmp_path, monkeypatch, capfd):
    config = write_config(tmp_path / "mine.yaml", tree_of_tiny())
    monkeypatch.chdir(tmp_path)
    assert build_model("mine.yaml").image_size == 1024
    assert build_model(config, 512).image_size == 512
    assert build_model("sam2.1-hiera-tiny", 512).image_size == 512
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("size", [64, 96, 256, 320, 512])
def test_all_stages_work_at_possible_sizes(size):
    model = build_model(TINY, size)
    with torch.inference_mode():
        levels = model.forward_image(torch.zeros(1, 3, size, size))["backbone_fpn"]
    assert [level.shape[-1] for level in levels] == [size // 4, size // 8, size // 16]


@pytest.mark.parametrize("size", [0, 16, 250, 272, 4096, -256])
def test_impossible_sizes_are_refused(size):
    with pytest.raises(ModelError, match="multiple of 32 from 64 to 2048"):
        build_model(TINY, size)


@pytest.mark.parametrize("name", CATALOGUE)
def test_all_official_models_build_and_have_a_spec(name):
    model = build_model(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == CATALOGUE[name].parameters
    spec = model_spec(model, name)
    assert spec == ModelSpec(name, 1024, signed_pointer_age=name.startswith("sam2.1"))


def test_the_spec_is_read_from_the_model(tmp_path):
    tree = tree_of_tiny()
    tree["model"] |= {"num_maskmem": 5, "max_obj_ptrs_in_encoder": 8, "max_cond_frames_in_attn": 4, "multimask_min_pt_num": 1}
    tree["model"] |= {"multimask_output_for_tracking": False, "add_all_frames_to_correct_as_cond": True}
    spec = model_spec(build_model(write_config(tmp_path / "c.yaml", tree), SIZE), "mine")
    assert (spec.name, spec.image_size, spec.memory_frames, spec.pointer_frames) == ("mine", SIZE, 5, 8)
    assert (spec.max_conditioning, spec.multimask_clicks) == (4, (1, 1))
    assert spec.corrections_condition
    assert not spec.multimask_tracking


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("backbone_stride", 8),
        ("memory_temporal_stride_for_eval", 2),
        ("non_overlap_masks", True),
        ("non_overlap_masks_for_mem_enc", True),
        ("use_mask_input_as_output_without_sam", False),
        ("use_obj_ptrs_in_encoder", False),
        ("directly_add_no_mem_embed", False),
        ("use_high_res_features_in_sam", False),
        ("pred_obj_scores", False),
        ("fixed_no_obj_ptr", False),
        ("soft_no_obj_ptr", True),
        ("clear_non_cond_mem_around_input", True),
        ("multimask_output_in_sam", False),
        ("num_maskmem", 1),
        ("max_obj_ptrs_in_encoder", 1),
        ("max_cond_frames_in_attn", 1),
        ("memory_attention.pos_enc_at_input", False),
        ("memory_attention.layers.0.pos_enc_at_attn", True),
        ("memory_attention.layers.3.cross_attn_image.num_heads", 2),
        ("image_encoder.scalp", 0),
        ("mem_dim", 60),
    ],
)
def test_options_that_are_not_reproduced_are_refused(tiny, monkeypatch, key, value):
    path, _, name = key.rpartition(".")
    monkeypatch.setattr(tiny.get_submodule(path), name, value)
    with pytest.raises(ModelError, match=f"mine.*{key.replace('mem_dim', 'out_dim')}.*{value}"):
        model_spec(tiny, "mine")


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "sam2.build_sam.os.system",
        "sam2.build_sam.build_sam2",
        "sam2.utils.misc.torch.nn.Linear",
        "sam2",
        "sam2.nowhere.X",
        7,
        "",
    ],
)
def test_code_outside_the_networks_is_refused(tmp_path, target, monkeypatch):
    monkeypatch.setattr(os, "system", lambda command: pytest.fail("code ran"))
    tree = tree_of_tiny()
    tree["model"]["image_encoder"]["trunk"] = {"_target_": target, "command": "true"}
    with pytest.raises(ModelError, match="only network classes of the `sam2` package"):
        build_model(write_config(tmp_path / "c.yaml", tree))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no `model:` tree"),
        ("[1, 2]", "no `model:` tree"),
        ("model: 3", "no `model:` tree"),
        ("model: {a: 1}", "no `model:` tree"),
        ("model: {_target_: x, a: '${nowhere}'}", "cannot read"),
        ("model: {_target_", "cannot read"),
        ("model: {_target_: sam2.modeling.sam2_base.SAM2Base}", "does not describe"),
    ],
)
def test_configurations_of_another_form_are_refused(tmp_path, text, says):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ModelError, match=says) as refusal:
        build_model(tmp_path / "c.yaml")
    assert "\n" not in str(refusal.value)


def test_more_configurations_that_are_refused(tmp_path):
    with pytest.raises(ModelError, match=r"no configuration 'nowhere\.yaml'"):
        build_model("nowhere.yaml")
    tree = tree_of_tiny()
    tree["model"]["image_encoder"]["trunk"]["weights_path"] = "weights.pt"
    with pytest.raises(ModelError, match="weights_path"):
        build_model(write_config(tmp_path / "weights.yaml", tree))
    tree = tree_of_tiny()
    tree["model"]["unknown_option"] = True
    with pytest.raises(ModelError, match=r"does not describe a SAM 2 model: .*unknown_option"):
        build_model(write_config(tmp_path / "unknown.yaml", tree))


def test_random_weights_are_the_same_for_the_same_seed(tiny, random_tiny):
    random_checkpoint(tiny, 0)
    assert all(torch.equal(a, b) for a, b in zip(tiny.state_dict().values(), random_tiny.state_dict().values(), strict=True))
    random_checkpoint(tiny, 1)
    assert not any(
        torch.equal(a, b)
        for (k, a), (_, b) in zip(tiny.state_dict().items(), random_tiny.state_dict().items(), strict=True)
        if "obj_score_head.layers.2.bias" not in k
    )


def test_no_random_weight_is_zero_or_tiny(random_tiny):
    for name, tensor in random_tiny.state_dict().items():
        assert torch.isfinite(tensor).all(), name
        assert tensor.abs().mean() > 5e-3, name


def random_clip(count):
    """A bright disc that moves over a textured ground: (count, 3, SIZE, SIZE), normalised as upstream does."""
    rng = np.random.default_rng(0)
    ground = np.kron(rng.random((3, 16, 16)), np.ones((SIZE // 16, SIZE // 16))) * 0.5
    rows, columns = np.mgrid[:SIZE, :SIZE]
    discs = [(columns - 100 - 8 * i) ** 2 + (rows - 130) ** 2 < 50**2 for i in range(count)]
    frames = np.stack([np.where(disc, np.array([0.9, 0.7, 0.3])[:, None, None], ground) for disc in discs])
    return torch.from_numpy((frames - 0.45) / 0.225).float()


def track(model, monkeypatch, frames):
    """Run upstream's predictor from one click; yield its outputs per frame."""
    monkeypatch.setattr(sam2_video_predictor, "tqdm", lambda frames, **_: frames)
    state = collections.defaultdict(dict, num_frames=len(frames), images=frames, video_height=SIZE, video_width=SIZE, obj_ids=[])
    state |= {"device": torch.device("cpu"), "storage_device": torch.device("cpu"), "offload_video_to_cpu": False}
    model.add_new_points_or_box(state, 0, 1, points=[[105.0, 130.0]], labels=[1])
    for frame, _, logits in model.propagate_in_video(state):
        outputs = state["output_dict_per_obj"][0]
        yield logits[0, 0], (outputs["cond_frame_outputs"] | outputs["non_cond_frame_outputs"])[frame]


@pytest.mark.filterwarnings("ignore:cannot import name")  # upstream fills holes with its CUDA extension alone
@pytest.mark.parametrize("seed", [0, 1])
def test_random_weights_track_something(tiny, monkeypatch, seed):
    ious = []
    hook = tiny.sam_mask_decoder.iou_prediction_head.register_forward_hook(lambda module, given, out: ious.append(out[0, 1:]))
    random_checkpoint(tiny, seed)
    masks = []
    for logits, output in track(tiny, monkeypatch, random_clip(3)):
        masks.append(logits > 0)
        assert output["object_score_logits"].item() > 0
        assert 1 < logits.std() < 20
        assert 0.05 < masks[-1].float().mean() < 0.9
        assert 0.3 < output["maskmem_features"].float().std() < 3
        assert 0.3 < output["obj_ptr"].std() < 3
    hook.remove()
    assert all(0.001 < (a != b).float().mean() < 0.6 for a, b in itertools.pairwise(masks))
    assert all(three.sort().values.diff().min() > 1e-3 for three in ious)


def test_a_checkpoint_comes_back(random_tiny, tiny, tmp_path):
    save_checkpoint(random_tiny, tmp_path / "c.pt")
    random_checkpoint(tiny, 5)
    sha256 = load_checkpoint(tiny, tmp_path / "c.pt")
    assert sha256 == hashlib.sha256((tmp_path / "c.pt").read_bytes()).hexdigest()
    assert all(torch.equal(a, b) for a, b in zip(tiny.state_dict().values(), random_tiny.state_dict().values(), strict=True))


@pytest.mark.parametrize("name", ["sam2.1-hiera-small", "sam2-hiera-tiny", "sam2.1-hiera-base-plus"])
def test_another_models_checkpoint_is_recognised(tiny, tmp_path, name):
    save_checkpoint(build_model(name, SIZE), tmp_path / "c.pt")
    before = {key: value.clone() for key, value in tiny.state_dict().items()}
    with pytest.raises(ModelError, match=rf"does not fit the model: .*; this looks like {name}$"):
        load_checkpoint(tiny, tmp_path / "c.pt")
    assert all(torch.equal(value, before[key]) for key, value in tiny.state_dict().items())


def test_faults_are_named_and_counted(tiny, tmp_path):
    weights = dict(tiny.state_dict())
    for key in ("no_mem_embed", "no_obj_ptr", "maskmem_tpos_enc", "no_mem_pos_enc"):
        del weights[key]
    weights |= {"extra": torch.zeros(1), "obj_ptr_tpos_proj.bias": torch.zeros(3)}
    torch.save({"model": weights}, tmp_path / "c.pt")
    with pytest.raises(ModelError) as refusal:
        load_checkpoint(tiny, tmp_path / "c.pt")
    text = str(refusal.value)
    assert "4 missing: maskmem_tpos_enc, no_mem_embed, no_mem_pos_enc and 1 more" in text
    assert "1 unexpected: extra" in text
    assert "1 of another shape: obj_ptr_tpos_proj.bias (expected [64], got [3])" in text


def test_weights_that_are_no_numbers_are_refused(tiny, tmp_path):
    weights = dict(tiny.state_dict()) | {"no_mem_embed": torch.full((1, 1, 256), float("nan"))}
    torch.save({"model": weights}, tmp_path / "c.pt")
    with pytest.raises(ModelError, match="no numbers in no_mem_embed"):
        load_checkpoint(tiny, tmp_path / "c.pt")


class Malice:
    def __reduce__(self):
        return os.system, ("false",)


def write_text(path):
    path.write_text("not a checkpoint\n" * 9)


def write_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "hello")


def write_truncated(path):
    torch.save({"model": {"a": torch.zeros(1000)}}, path)
    path.write_bytes(path.read_bytes()[:2000])


def write_pickle(path):
    path.write_bytes(pickle.dumps({"model": Malice()}))


def write_malice(path):
    torch.save({"model": Malice()}, path)


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.mkdir(), "directory"),
        (lambda path: path.write_bytes(b""), "is no PyTorch checkpoint"),
        (write_text, "is no PyTorch checkpoint"),
        (write_zip, "is no PyTorch checkpoint"),
        (write_truncated, "is no PyTorch checkpoint"),
        (write_pickle, "is no PyTorch checkpoint"),
        (write_malice, "is no PyTorch checkpoint"),
        (lambda path: torch.save([1], path), "no weights below 'model'"),
        (lambda path: torch.save({"a": torch.zeros(1)}, path), "no weights below 'model'"),
        (lambda path: torch.save({"model": {}}, path), "no weights below 'model'"),
        (lambda path: torch.save({"model": {"a": 1}}, path), "no tensors: a"),
    ],
)
def test_files_that_are_no_checkpoint_are_refused(tiny, tmp_path, write, says, monkeypatch):
    write(tmp_path / "c.pt")
    monkeypatch.setattr(os, "system", lambda command: pytest.fail("code ran"))
    with pytest.raises(ModelError, match=says) as refusal:
        load_checkpoint(tiny, tmp_path / "c.pt")
    assert "\n" not in str(refusal.value)


def test_a_checkpoint_that_cannot_be_written(random_tiny, tmp_path):
    with pytest.raises(ModelError, match="cannot write checkpoint"):
        save_checkpoint(random_tiny, tmp_path / "nowhere" / "c.pt")
