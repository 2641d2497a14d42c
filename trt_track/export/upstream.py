"""Upstream's video predictor from a configuration file, and what the tracking loop must know of it."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from trt_track.errors import ModelError
from trt_track.export.catalogue import CATALOGUE
from trt_track.specs import ModelSpec

logger = logging.getLogger(__name__)

PREDICTOR: Final = "sam2.sam2_video_predictor.SAM2VideoPredictor"

# What only `build_sam2_video_predictor` sets and `build_sam2` does not:
# https://github.com/facebookresearch/sam2/blob/2b90b9f5ceec907a1c18123530e92e794ad901a4/sam2/build_sam.py#L113
_MASK_DECODER_EXTRAS: Final = {
    "dynamic_multimask_via_stability": True,
    "dynamic_multimask_stability_delta": 0.05,
    "dynamic_multimask_stability_thresh": 0.98,
}
_PREDICTOR_EXTRAS: Final = {
    "_target_": PREDICTOR,
    "binarize_mask_from_pts_for_mem_enc": True,
    "fill_hole_area": 8,
    "compile_image_encoder": False,  # it would print, and compile what is exported anyway
}

# Hiera tiles an 8 x 8 window over the patches (4 px each) and its last stage has a stride of 32.
_SIZE_STEP: Final = 32
_SIZES: Final = (64, 2048)

_REQUIRED: Final = {
    "backbone_stride": 16,
    "clear_non_cond_mem_around_input": False,
    "directly_add_no_mem_embed": True,
    "fixed_no_obj_ptr": True,
    "image_encoder.scalp": 1,
    "memory_attention.batch_first": True,
    "memory_attention.pos_enc_at_input": True,
    "memory_temporal_stride_for_eval": 1,
    "multimask_output_in_sam": True,
    "non_overlap_masks": False,
    "non_overlap_masks_for_mem_enc": False,
    "pred_obj_scores": True,
    "soft_no_obj_ptr": False,
    "use_high_res_features_in_sam": True,
    "use_mask_input_as_output_without_sam": True,
    "use_multimask_token_for_obj_ptr": True,
    "use_obj_ptrs_in_encoder": True,
}
_REQUIRED_PER_LAYER: Final = {
    "cross_attn_image.num_heads": 1,
    "cross_attn_image.rope_k_repeat": True,
    "pos_enc_at_attn": False,
    "pos_enc_at_cross_attn_keys": True,
    "pos_enc_at_cross_attn_queries": False,
    "self_attn.num_heads": 1,
}


def build_model(config: str | Path, image_size: int | None = None) -> torch.nn.Module:
    """Build upstream's video predictor with random weights, on the CPU, for inference.

    Args:
        config: a catalogue model's name, its configuration inside the `sam2` package (`configs/sam2.1/sam2.1_hiera_t.yaml`), or a YAML
            file in upstream's form, with the network below `model:`.
        image_size: side in pixels of the square that the model sees, a multiple of 32; None for the configuration's own.

    Raises:
        ModelError: the configuration cannot be read, asks for code outside the `sam2` package, or does not fit its own classes.
    """
    path = _config_path(config)
    tree = _read_tree(path)
    _refuse_foreign_code(tree, path)
    tree = _as_video_predictor(tree, path, image_size=image_size)
    try:
        with warnings.catch_warnings(action="ignore"):
            model = _instantiate(tree)
    except (AssertionError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(f"{path} does not describe a SAM 2 model: {_one_line(error)}") from error
    logger.debug("built %s at %d px", path, model.image_size)
    return model.eval().cpu()  # type: ignore[no-any-return]


def model_spec(model: torch.nn.Module, name: str) -> ModelSpec:
    """Read from a built predictor what the tracking loop must know.

    Raises:
        ModelError: the model uses an option of upstream's that trt-track does not reproduce; the message names its key.
    """
    for key, expected, value in _options(model):
        if value != expected:
            raise ModelError(f"{name}: trt-track does not reproduce {key}={value}, only {key}={expected}")
    net: Any = model
    _refuse_counts(net, name)
    return ModelSpec(
        name=name,
        image_size=net.image_size,
        stride=net.backbone_stride,
        embed_channels=net.hidden_dim,
        memory_channels=net.mem_dim,
        memory_frames=net.num_maskmem,
        pointer_frames=net.max_obj_ptrs_in_encoder,
        signed_pointer_age=bool(net.use_signed_tpos_enc_to_obj_ptrs),
        past_pointers_only=bool(net.only_obj_ptrs_in_the_past_for_eval),
        max_conditioning=net.max_cond_frames_in_attn,
        corrections_condition=bool(net.add_all_frames_to_correct_as_cond),
        multimask_clicks=(net.multimask_min_pt_num, net.multimask_max_pt_num),
        multimask_tracking=bool(net.multimask_output_for_tracking),
    )


def _options(model: torch.nn.Module) -> Iterator[tuple[str, Any, Any]]:
    """Yield key, value that trt-track reproduces and value of the model, for every option with only one such value."""
    for key, expected in _REQUIRED.items():
        yield key, expected, _attribute(model, key)
    net: Any = model
    for index, layer in enumerate(net.memory_attention.layers):
        for key, expected in _REQUIRED_PER_LAYER.items():
            yield f"memory_attention.layers.{index}.{key}", expected, _attribute(layer, key)


def _attribute(owner: Any, key: str) -> Any:
    """Follow a dotted key; None where an attribute is missing."""
    for part in key.split("."):
        owner = getattr(owner, part, None)
    return owner


def _refuse_counts(net: Any, name: str) -> None:
    """Refuse numbers with which upstream's own loop would divide by zero, fail or have no memory."""
    fewest = {"num_maskmem": 2, "max_obj_ptrs_in_encoder": 2}
    for key, least in fewest.items():
        if getattr(net, key) < least:
            raise ModelError(f"{name}: trt-track needs {key} of at least {least}, the model has {getattr(net, key)}")
    most = {"num_maskmem": 9, "max_obj_ptrs_in_encoder": 16}  # what the bank of `Limits` holds of one object
    for key, limit in most.items():
        if getattr(net, key) > limit:
            raise ModelError(f"{name}: trt-track takes {key} of at most {limit}, the model has {getattr(net, key)}")
    if net.max_cond_frames_in_attn != -1 and net.max_cond_frames_in_attn < 2:
        raise ModelError(f"{name}: max_cond_frames_in_attn must be -1 or at least 2, the model has {net.max_cond_frames_in_attn}")
    if net.hidden_dim % net.mem_dim or net.hidden_dim % 8:
        raise ModelError(f"{name}: d_model {net.hidden_dim} must be a multiple of 8 and of the memory's out_dim {net.mem_dim}")


def _config_path(config: str | Path) -> Path:
    """Return the absolute path of a configuration, wherever the current folder is."""
    import sam2

    name = CATALOGUE[config].config if isinstance(config, str) and config in CATALOGUE else config
    path = Path(name)
    packaged = Path(sam2.__file__).parent / path
    if path.is_file():
        return path.resolve()
    if packaged.is_file():
        return packaged
    raise ModelError(f"no configuration {str(config)!r}: give a YAML file or one of {', '.join(CATALOGUE)}")


def _read_tree(path: Path) -> dict[str, Any]:
    """Return the `model:` tree of a configuration as plain values, with its references resolved."""
    try:
        loaded = OmegaConf.load(path)
        node = loaded.get("model") if isinstance(loaded, DictConfig) else None
        tree = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else None
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        raise ModelError(f"cannot read configuration {path}: {_one_line(error)}") from error
    if not isinstance(tree, dict) or "_target_" not in tree:
        raise ModelError(
            f"{path} has no `model:` tree with a `_target_`: give a configuration in the form of upstream's sam2.1_hiera_t.yaml"
        )
    return {str(key): value for key, value in tree.items()}


def _nodes(node: Any) -> Iterator[dict[str, Any]]:
    """Yield every mapping of a tree, outermost first."""
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _nodes(child)


def _refuse_foreign_code(tree: dict[str, Any], path: Path) -> None:
    """Refuse a tree that would run anything but the network classes of the `sam2` package, or load another file."""
    for node in _nodes(tree):
        if "_target_" in node:
            _network_class(node["_target_"], path)
        if node.get("weights_path") is not None:
            raise ModelError(f"{path} sets weights_path: weights come from the checkpoint alone, remove the line")


def _network_class(target: Any, path: str | Path = "") -> type[torch.nn.Module]:
    """Return the class behind a `_target_`.

    A dotted name could lead through a module's imports to any function (`sam2.x.os.system`): the part before the last dot
    must be a module of `sam2`, and the rest a network class that this very module defines.
    """
    module_name, _, class_name = str(target).rpartition(".")
    if module_name.startswith("sam2."):
        try:
            found = getattr(importlib.import_module(module_name), class_name, None)
        except ImportError:
            found = None
        if isinstance(found, type) and issubclass(found, torch.nn.Module) and found.__module__ == module_name:
            return found
    raise ModelError(f"{path} asks for {target!r}: only network classes of the `sam2` package are built")


def _as_video_predictor(tree: dict[str, Any], path: Path, *, image_size: int | None) -> dict[str, Any]:
    """Return the tree with what `build_sam2_video_predictor` overrides, at another size if one is asked for."""
    extras = {**(tree.get("sam_mask_decoder_extra_args") or {}), **_MASK_DECODER_EXTRAS}
    tree = {**tree, **_PREDICTOR_EXTRAS, "sam_mask_decoder_extra_args": extras}
    size = tree.get("image_size", 512) if image_size is None else image_size  # 512 is upstream's default
    _check_size(size)
    if image_size is not None:
        tree["image_size"] = image_size
        cells = [image_size // 16, image_size // 16]
        for node in _nodes(tree.get("memory_attention")):
            if str(node.get("_target_")).endswith(".RoPEAttention"):
                node["feat_sizes"] = list(cells)
    return tree


def _check_size(size: Any) -> None:
    low, high = _SIZES
    if not isinstance(size, int) or size % _SIZE_STEP or not low <= size <= high:
        raise ModelError(
            f"image size {size!r} is not possible: give a multiple of {_SIZE_STEP} from {low} to {high}, for example 512 or 1024"
        )


def _instantiate(node: Any) -> Any:
    """Build a tree of plain values from the inside out; mappings with a `_target_` become network modules."""
    if isinstance(node, list):
        return [_instantiate(child) for child in node]
    if not isinstance(node, Mapping):
        return node
    values = {key: _instantiate(child) for key, child in node.items() if key != "_target_"}
    return _network_class(node["_target_"])(**values) if "_target_" in node else values


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
