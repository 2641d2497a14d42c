"""Put a trained `pico` where the package carries it: weights in half precision, the bundle exported from them, the curve as a picture.

python training/publish.py artifacts/pico
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

from trt_track.cli.export_command import export
from trt_track.models import PICO, PICO_BUNDLE, PICO_CONFIG, PICO_WEIGHTS

LIMIT_BYTES = 40_000_000
SMOOTHING = 8


def publish(trained: Path, curve: Annotated[bool, typer.Option(help="Draw the curve too.")] = True) -> None:
    """Copy, export, draw; print what the package now carries in bytes."""
    shutil.copyfile(trained / "pico.safetensors", PICO_WEIGHTS)
    export("pico", checkpoint=PICO_WEIGHTS, config=PICO_CONFIG, size=256, out=PICO_BUNDLE, overwrite=True)
    if curve:
        draw_curve(trained / "curve.jsonl", Path(__file__).parent / "curve.png")
    carried = sum(file.stat().st_size for file in PICO.rglob("*") if file.is_file() and "engines" not in file.parts)
    typer.echo(f"{carried / 1e6:.1f} MB in {PICO}")
    if carried > LIMIT_BYTES:
        raise SystemExit(f"more than {LIMIT_BYTES / 1e6:.0f} MB: too much for a package")


def draw_curve(log: Path, picture: Path) -> None:
    """Draw J of each kind of prompt over the steps, with the stages marked."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    logged = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    lines = [line for _, line in sorted({line["total_steps"]: line for line in logged}.items())]  # a resumed piece repeats steps
    figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
    series = defaultdict(list)
    for line in lines:
        series[line["prompt"]].append((line["total_steps"], line["j"]))
    for prompt, points in series.items():
        steps, scores = np.array(points).T
        kernel = np.ones(min(SMOOTHING, len(scores))) / min(SMOOTHING, len(scores))
        axes.plot(steps[len(kernel) - 1 :], np.convolve(scores, kernel, mode="valid"), label=f"from a {prompt}")
    starts = {line["stage"]: line["total_steps"] for line in reversed(lines)}
    for stage, first in starts.items():
        axes.axvline(first, color="0.8", zorder=0)
        axes.text(first, 1.01, stage, fontsize=8)
    axes.set(xlabel="step", ylabel="J on training scenes, all frames", ylim=(0, 1))
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    typer.run(publish)
