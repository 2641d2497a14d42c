"""`trt-track export-detector`: Grounding DINO -> a bundle of two ONNX graphs and its tokenizer, checked against transformers."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trt_track.cli.calibration_data import CalibrationData
from trt_track.cli.export_command import Calibrate, Method, Pictures, export_extra, quantize_file, require_quantized
from trt_track.errors import ModelError, ParityError, PromptError
from trt_track.models import GROUNDING_DINO_PICO
from trt_track.recipe import Recipe

if TYPE_CHECKING:
    from trt_track.detector_specs import DetectorSpec
    from trt_track.engines.manifest import Description
    from trt_track.export.grounding_dino import LoadedDetector
    from trt_track.runtime.phrases import PromptReader

EMBEDDED_FRAME, EMBEDDED_THRESHOLD = "192x320", 0.7
"""What the embedded detector was trained for, and a score that most of what is named reaches and most of what is not does not."""
_NETWORK = "backbone"
"""What a recipe says about a detector."""
CHECK_TEXT = "a cat. red car. person."
"""What the check that ends an export looks for."""

Model = Annotated[
    str,
    typer.Argument(help="grounding-dino-tiny, grounding-dino-base, grounding-dino-pico, or a name of your own together with --weights."),
]
Weights = Annotated[
    Path | None, typer.Option(help="A folder with config.json, model.safetensors and tokenizer.json; by default from the Hugging Face hub.")
]
Seed = Annotated[int | None, typer.Option("--random-weights", help="Make weights from this seed instead: for structure, speed and parity.")]
Frame = Annotated[
    str | None, typer.Option(metavar="HEIGHTxWIDTH", help="Size in pixels that frames are scaled to; default: 800x1333, of pico 192x320.")
]
Precision = Annotated[
    str, typer.Option(metavar="RECIPE", help="Of the backbone: fp32, fp16, bf16 or int8, or a recipe's .toml file; the rest is in float32.")
]
Out = Annotated[Path | None, typer.Option(help="The bundle's folder; default: in the library.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the bundle that is there.")]


def export_detector(  # noqa: PLR0913, PLR0917 - the command's options
    model: Model,
    weights: Weights = None,
    random_weights: Seed = None,
    frame: Frame = None,
    precision: Precision = "fp32",
    calibrate: Calibrate = None,
    calibration: Method = "percentile",
    calibration_frames: Pictures = 32,
    out: Out = None,
    overwrite: Overwrite = False,
) -> None:
    """Export a Grounding DINO as a bundle: text encoder, detector and tokenizer."""
    recipe = Recipe.read(precision)
    if calibrate is not None:
        require_quantized(recipe, {_NETWORK})
    if weights is not None and random_weights is not None:
        raise ModelError("give either --weights or --random-weights, not both")
    embedded = model == GROUNDING_DINO_PICO.name and random_weights is None
    frame_hw = parse_frame(frame or (EMBEDDED_FRAME if embedded else "800x1333"))
    with export_extra():
        from trt_track.export.grounding_dino import detector_spec, download_detector, load_detector, official_config, seed_detector
    if random_weights is not None:
        loaded = seed_detector(official_config(model), random_weights)
    else:
        folder = GROUNDING_DINO_PICO if weights is None and embedded else weights
        loaded = download_detector(model) if folder is None else load_detector(folder)
    from trt_track.engines.library import detector_folder

    target = out or detector_folder(model, frame_hw, recipe.name)
    threshold = EMBEDDED_THRESHOLD if embedded else 0.35
    data = CalibrationData(calibrate, calibration, calibration_frames)
    write_detector(loaded, detector_spec(loaded, model, frame_hw, threshold), recipe, target=target, data=data, overwrite=overwrite)
    typer.echo(target)


def parse_frame(text: str) -> tuple[int, int]:
    """Read HEIGHTxWIDTH.

    Raises:
        ModelError: it is none, or no size that the model can see.
    """
    sides = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text)
    frame_hw = (int(sides[1]), int(sides[2])) if sides else (0, 0)
    if not all(64 <= side <= 2560 for side in frame_hw):
        raise ModelError(f"--frame {text}: give height and width from 64 to 2560 pixels, for example 800x1333")
    return frame_hw


def write_detector(  # noqa: PLR0913 - a model, how it is to be, and where
    loaded: LoadedDetector,
    spec: DetectorSpec,
    recipe: Recipe,
    *,
    target: Path,
    data: CalibrationData | None = None,
    overwrite: bool = False,
) -> None:
    """Trace both graphs, quantise the backbone where the recipe says so, and check and seal them with the tokenizer.

    Args:
        loaded: transformers' model and its tokenizer.
        spec: what the runtime must know.
        recipe: what the backbone computes in.
        target: the bundle's folder.
        data: what a quantised backbone is calibrated with; default: photographs.
        overwrite: whether a bundle that is there is replaced.

    Raises:
        ParityError: a result differs from transformers' by more than its tolerance; no bundle is written.
        BundleError: the folder is taken.
    """
    import copy

    from trt_track.cli.progress import progress_bar
    from trt_track.detector_specs import detector_graph_specs
    from trt_track.engines.bundle import Bundle
    from trt_track.export.careful_layers import compute_in_float32
    from trt_track.export.detector import Detector
    from trt_track.export.graphs import graph_dtype
    from trt_track.export.grounding_dino import TOKENIZER
    from trt_track.export.text_encoder import TextEncoder
    from trt_track.export.tracing import DETECTOR_OPSET, trace

    data = data or CalibrationData()
    specs, description = detector_graph_specs(spec), _description(spec, recipe, loaded, data.told(recipe))
    own = copy.deepcopy(loaded.model).requires_grad_(False)
    modules = {"text_encoder": TextEncoder(own), "detector": Detector(own, spec.frame_hw, graph_dtype(_NETWORK, recipe))}
    exact = Detector(copy.deepcopy(loaded.model), spec.frame_hw) if recipe.own_layers(_NETWORK) else None
    compute_in_float32(modules["detector"], _NETWORK, recipe, exact)
    with Bundle.create(target, description, overwrite=overwrite) as draft, progress_bar(spec.name) as advance:
        for done, (name, module) in enumerate(modules.items()):
            advance(done, len(modules), name)
            compact = recipe.of(_NETWORK).told == "float32"
            trace(module, specs[name], draft.onnx_path(name), opset=DETECTOR_OPSET, compact=compact)
        draft.add_file(TOKENIZER, loaded.tokenizer_json)
        if recipe.of(_NETWORK).quantize:
            _quantize_backbone(spec, recipe, data, draft.folder, advance)
        advance(len(modules), len(modules), "traced")
        require_detector_parity(loaded, spec, recipe, draft.folder)
        for graph in specs.values():
            draft.add(graph)


def _quantize_backbone(
    spec: DetectorSpec, recipe: Recipe, data: CalibrationData, folder: Path, advance: Callable[[int, int, str], None]
) -> None:
    """Calibrate the backbone with pictures, any prompt beside them, and quantise it."""
    from trt_track.engines.onnx_model import OnnxModel
    from trt_track.runtime.phrases import TOKENIZER, PromptReader

    reader = PromptReader(folder / TOKENIZER, spec)
    prompt = reader.read(check_text(reader))
    given = {"position": prompt.position, "attends": prompt.attends}
    text = OnnxModel(folder / "onnx" / "text_encoder.onnx").run({"token": prompt.token, **given})["text"]
    calibration = data.of_frames(spec.frame_hw, text=text, **given)
    quantize_file(folder / "onnx" / "detector.onnx", recipe, _NETWORK, calibration, advance).unlink()


def require_detector_parity(loaded: LoadedDetector, spec: DetectorSpec, recipe: Recipe, folder: Path) -> None:
    """Compare one random frame with transformers.

    Raises:
        ParityError: says by how much it differs.
    """
    import torch

    from trt_track.detector_specs import detector_graph_specs
    from trt_track.engines.onnxruntime_session import OnnxRuntimeSession
    from trt_track.export.tracing import sample_frames
    from trt_track.parity.detector_check import check_detector
    from trt_track.parity.thresholds import Thresholds
    from trt_track.runtime.grounding_dino import GroundingDino, TextQuery
    from trt_track.runtime.phrases import TOKENIZER, PromptReader

    graphs = {name: (graph, folder / "onnx" / f"{name}.onnx") for name, graph in detector_graph_specs(spec).items()}
    with OnnxRuntimeSession(graphs) as session:
        reader = PromptReader(folder / TOKENIZER, spec)
        detector = GroundingDino(session, reader, TextQuery(check_text(reader)))
        frames = sample_frames((1, *spec.frame_hw, 3), torch.Generator().manual_seed(0)).numpy()
        (row,) = check_detector(detector, loaded.model, frames, limits=Thresholds.read().detector([recipe.of(_NETWORK).told]))
    if not row.passed:
        raise ParityError(
            f"{spec.name} differs from transformers by {row.cells:.2e} in the choice of cells, {row.logits:.2e} in logits, {row.boxes:.2e} "
            f"in boxes, and in the words of {row.words} boxes: no bundle was written"
        )


def check_text(reader: PromptReader) -> str:
    """Return a prompt that the model has all words for: `CHECK_TEXT`, or three things of words from its vocabulary."""
    try:
        return reader.read(CHECK_TEXT).text
    except PromptError:
        first, second, third, *_ = reader.known_words
        return f"{first}. {second} {third}. {third}."


def _description(spec: DetectorSpec, recipe: Recipe, loaded: LoadedDetector, calibration: str) -> Description:
    from trt_track.engines.manifest import Description
    from trt_track.export.tracing import DETECTOR_OPSET

    return Description(
        model=spec,
        precision=recipe.name,
        dtypes={"text_encoder": "float32", "backbone": recipe.of(_NETWORK).told, "enhancer": "float32", "decoder": "float32"},
        opset=DETECTOR_OPSET,
        source=loaded.source,
        source_sha256=loaded.sha256,
        recipe=recipe.to_json(),
        calibration=calibration,
        tools={package: metadata.version(package) for package in ("torch", "onnx", "onnxscript", "transformers", "tokenizers")},
    )
