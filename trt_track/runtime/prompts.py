"""Prompts, all in one import: the value type, how users write it, what is refused, and how the model takes it."""

from trt_track.runtime.mask_file import read_mask
from trt_track.runtime.mask_resize import mask_to_model
from trt_track.runtime.prompt import Prompt, merge_prompts, model_clicks
from trt_track.runtime.prompt_input import parse_box, parse_mask, parse_point, read_prompts
from trt_track.runtime.prompt_rules import check_prompts

__all__ = [
    "Prompt",
    "check_prompts",
    "mask_to_model",
    "merge_prompts",
    "model_clicks",
    "parse_box",
    "parse_mask",
    "parse_point",
    "read_mask",
    "read_prompts",
]
