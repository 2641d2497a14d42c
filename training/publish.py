"""Put a trained model where the package carries it: weights in half precision, the bundle exported from them, the curve as a picture.

python training/publish.py pico artifacts/pico
python training/publish.py detector artifacts/detector
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Annotated

import matplotlib as mpl
import numpy as np
import typer
from safetensors.torch import load_file, save_file
from small_grounding_dino import small_config, word_tokenizer
from train_detector import GLANCE, DetectorTraining
from train_pico import PicoTraining

from trt_track.cli.export_command import export
from trt_track.cli.export_detector_command import export_detector
from trt_track.models import GROUNDING_DINO_PICO, GROUNDING_DINO_PICO_BUNDLE, PICO, PICO_BUNDLE, PICO_CONFIG, PICO_WEIGHTS

SMOOTHING = 8
HERE = Path(__file__).parent
Curve = Annotated[bool, typer.Option(help="Draw the curve too.")]
app = typer.Typer()


@app.command()
def pico(trained: Path, curve: Curve = True) -> None:
    """Copy, export, draw; print what the package now carries in bytes."""
    shutil.copyfile(trained / PicoTraining.weights_name, PICO_WEIGHTS)
    export("pico", checkpoint=PICO_WEIGHTS, config=PICO_CONFIG, size=256, out=PICO_BUNDLE, overwrite=True)
    if curve:
        draw_curve(trained / "curve.jsonl", HERE / "pico_curve.png", "J on training scenes, all frames", "j")
    check_size(PICO, 40)


@app.command()
def detector(trained: Path, curve: Curve = True) -> None:
    """Write transformers' files, export, draw; print what the package now carries in bytes."""
    GROUNDING_DINO_PICO.mkdir(exist_ok=True)
    small_config().to_json_file(GROUNDING_DINO_PICO / "config.json")
    (GROUNDING_DINO_PICO / "tokenizer.json").write_bytes(word_tokenizer())
    weights = load_file(trained / DetectorTraining.weights_name)
    kept = {name: weight for name, weight in weights.items() if not name.startswith(GLANCE)}
    save_file(kept, GROUNDING_DINO_PICO / DetectorTraining.weights_name, metadata={"format": "pt"})
    export_detector(GROUNDING_DINO_PICO.name, out=GROUNDING_DINO_PICO_BUNDLE, overwrite=True)
    if curve:
        draw_curve(trained / "curve.jsonl", HERE / "detector_curve.png", "IoU of matched boxes of training pictures", "iou")
    check_size(GROUNDING_DINO_PICO, 25)


def check_size(folder: Path, limit_mb: int) -> None:
    """Print what the package carries in a folder; refuse more than `limit_mb`."""
    carried = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and "engines" not in file.parts) / 1e6
    typer.echo(f"{carried:.1f} MB in {folder}")
    if carried > limit_mb:
        raise SystemExit(f"more than {limit_mb} MB: too much for a package")


def draw_curve(log: Path, picture: Path, title: str, key: str) -> None:
    """Draw a score over the steps, a line for each kind of prompt, with the stages marked."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    logged = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    lines = [line for _, line in sorted({line["total_steps"]: line for line in logged}.items())]  # a resumed piece repeats steps
    figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
    series = defaultdict(list)
    for line in lines:
        series[line.get("prompt", "")].append((line["total_steps"], line[key]))
    for prompt, points in series.items():
        steps, scores = np.array(points).T
        kernel = np.ones(min(SMOOTHING, len(scores))) / min(SMOOTHING, len(scores))
        axes.plot(steps[len(kernel) - 1 :], np.convolve(scores, kernel, mode="valid"), label=f"from a {prompt}" if prompt else None)
    starts = {line["stage"]: line["total_steps"] for line in reversed(lines)}
    for stage, first in starts.items():
        axes.axvline(first, color="0.8", zorder=0)
        axes.text(first, 1.01, stage, fontsize=8)
    axes.set(xlabel="step", ylabel=title, ylim=(0, 1))
    if "" not in series:
        axes.legend(frameon=False, loc="lower right")
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    app()
