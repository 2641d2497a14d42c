"""Train `pico`, the small SAM 2 that the package carries: `python training/train_pico.py`, again and again until it says that it is done.

Each call goes on where the last one stopped and ends after `--minutes`. What is made on the way lies in `--out`: the state, the curve as
JSON lines, and at the end `pico.safetensors` with the averaged weights.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.distributed as dist
import torch.multiprocessing as processes_of
import typer
from clips import ClipBatch, ClipRecipe, batches
from losses import prediction_loss
from optimiser import Optimiser
from safetensors.torch import save_file
from stages import STAGES, Stage, lengthen
from state import Averaged, load_state, save_state
from unroll import unroll

from trt_track.export.checkpoint import build_model, load_checkpoint
from trt_track.models import PICO_CONFIG
from trt_track.scenes import SceneStyle

SAVE_EVERY_S = 240
LOG_EVERY = 25
CORES = len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Plan:
    """What all processes of a training are told."""

    out: Path
    seed: int
    device: str
    minutes: float
    length: float
    workers: int
    processes: int
    start: Path | None = None
    """Weights to begin with."""
    stage: str | None = None
    """Stage to begin at."""


class Team:
    """The processes that train one model together, each on its share of the clips."""

    def __init__(self, rank: int, plan: Plan) -> None:
        """Join the others; `rank` 0 leads: it alone writes."""
        self.rank, self.size = rank, plan.processes
        if self.size > 1:
            meeting = f"file://{(plan.out / 'meeting').resolve()}"
            dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=self.size)

    @property
    def leads(self) -> bool:
        """Whether this process writes state and log."""
        return self.rank == 0

    def average_gradients(self, model: torch.nn.Module, *, stop: bool) -> bool:
        """Give every process the mean of all gradients; return whether any of them wants to stop after this step."""
        if self.size == 1:
            return stop
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        flat = torch.cat([torch.zeros_like(w).flatten() if w.grad is None else w.grad.flatten() for w in weights] + [torch.ones(1) * stop])
        dist.all_reduce(flat)
        for weight, mean in zip(weights, (flat[:-1] / self.size).split([w.numel() for w in weights]), strict=True):
            weight.grad = mean.view_as(weight)
        return bool(flat[-1] > 0)


class Training:
    """Model, optimiser, average and where in the curriculum they are."""

    def __init__(self, plan: Plan, team: Team) -> None:
        """Begin anew, or where the state in the plan's folder ends."""
        self.out, self.seed, self.device = plan.out, plan.seed, torch.device(plan.device)
        self.stages = lengthen(STAGES, plan.length)
        self.team, self.workers, self.stop_at = team, plan.workers, time.monotonic() + 60 * plan.minutes
        torch.manual_seed(self.seed)
        names = [stage.name for stage in self.stages]
        self.stage, self.step, self.total = names.index(plan.stage) if plan.stage else 0, 0, 0
        self.model: Any = build_model(PICO_CONFIG, self.stages[self.stage].size).to(self.device).train()
        start_weights(self.model)
        if plan.start is not None:
            load_checkpoint(self.model, plan.start)
        self.optimiser = Optimiser(self.model)
        self.average = Averaged(self.model)
        if (self.out / "state" / "state.json").exists():
            self._resume()

    @property
    def done(self) -> bool:
        """Whether the curriculum is at its end."""
        return self.stage >= len(self.stages)

    def run(self) -> None:
        """Train to the end of the curriculum or of the time."""
        saved = time.monotonic()
        stop = False
        while not self.done and not stop:
            stage = self.stages[self.stage]
            for batch in self._batches(stage):
                stop = self._train_step(stage, batch.pin(self.device))
                if stop:
                    break
                if time.monotonic() - saved > SAVE_EVERY_S:
                    self.save()
                    saved = time.monotonic()
            if self.step >= stage.steps:
                self._next_stage()
        self.save()

    def save(self) -> None:
        """Write the state and the averaged weights."""
        if not self.team.leads:
            return
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.weights.items()}
        tensors |= {f"optimiser.{name}": value for name, value in self.optimiser.tensors().items()}
        numbers = {"stage": self.stage, "step": self.step, "total": self.total, "seed": self.seed}
        save_state(self.out / "state", numbers, tensors)
        save_file({name: value.half().contiguous() for name, value in self.average.weights.items()}, self.out / "pico.safetensors")

    def _batches(self, stage: Stage) -> Iterator[ClipBatch]:
        leave = 0.3 if stage.frames > 1 else 0.0
        style = SceneStyle(size_wh=(stage.size, stage.size), frames=stage.frames, leave=leave, alike=stage.alike)
        share = max(1, stage.clips // self.team.size)
        recipe = ClipRecipe(style, share, stage.objects, seed=(self.seed * 100 + self.stage) * 100 + self.team.rank)
        return batches(recipe, self.step, stage.steps - self.step, stage.clutter_steps, self.workers)

    def _train_step(self, stage: Stage, batch: ClipBatch) -> bool:
        started = time.perf_counter()
        torch.manual_seed(self.seed * 1_000_003 + self.total)
        prompt = stage.prompts[self.step % len(stage.prompts)]
        correct_at = int(torch.randint(stage.frames, ())) if torch.rand(()) < stage.correct else None
        sums: dict[str, Any] = defaultdict(float)
        count = 0
        for time_index, prediction in unroll(self.model, batch, prompt, correct_at):
            count += 1
            for name, value in prediction_loss(prediction, batch.masks[time_index], stage.weights).items():
                sums[name] = sums[name] + value
        (sums["total"] / count).backward()
        stop = self.team.average_gradients(self.model, stop=time.monotonic() > self.stop_at)
        self.optimiser.step(stage.rate_at(self.step))
        self.average.update(self.model, self.total)
        self._log(stage, prompt, {name: float(value.detach()) / count for name, value in sums.items()}, time.perf_counter() - started)
        self.step += 1
        self.total += 1
        return stop

    def _log(self, stage: Stage, prompt: str, values: dict[str, float], seconds: float) -> None:
        if not self.team.leads or self.total % LOG_EVERY >= len(stage.prompts):
            return
        line = {"stage": stage.name, "step": self.step, "total_steps": self.total, "prompt": prompt, "seconds": round(seconds, 3)}
        with (self.out / "curve.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({**line, **{name: round(value, 4) for name, value in values.items()}}) + "\n")

    def _next_stage(self) -> None:
        self.stage, self.step = self.stage + 1, 0
        self._fit_stage()

    def _fit_stage(self) -> None:
        """Take weights and optimiser over into a network for the stage's pictures: all weights keep their shapes."""
        if self.done or self.stages[self.stage].size == self.model.image_size:
            return
        weights, moments = self.model.state_dict(), self.optimiser.tensors()
        self.model = build_model(PICO_CONFIG, self.stages[self.stage].size).to(self.device).train()
        self.model.load_state_dict(weights)
        self.optimiser = Optimiser(self.model)
        self.optimiser.load(moments)

    def _resume(self) -> None:
        numbers, tensors = load_state(self.out / "state")
        if numbers["seed"] != self.seed:
            raise typer.BadParameter(f"{self.out} was begun with seed {numbers['seed']}: use it, or another --out")
        self.stage, self.step, self.total = numbers["stage"], numbers["step"], numbers["total"]
        parts: dict[str, dict[str, Any]] = defaultdict(dict)
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = value
        self.model.load_state_dict(parts["model"])
        self.optimiser.load(parts["optimiser"])
        self.average.weights = {name: value.to(self.device) for name, value in parts["average"].items()}
        self._fit_stage()


def start_weights(model: Any) -> None:
    """Set the few weights that upstream leaves to its checkpoints: small position codes instead of zeros or ones that never move."""
    for block in model.memory_encoder.fuser.layers:
        torch.nn.init.constant_(block.gamma, 0.1)
    torch.nn.init.trunc_normal_(model.image_encoder.trunk.pos_embed, std=0.02)
    torch.nn.init.trunc_normal_(model.image_encoder.trunk.pos_embed_window, std=0.02)


def take_part(rank: int, plan: Plan) -> None:
    """Train as one of the plan's processes."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    team = Team(rank, plan)
    torch.set_num_threads(max(1, CORES // plan.processes))
    training = Training(plan, team)
    try:
        training.run()
    except KeyboardInterrupt:
        training.save()
    if team.leads:
        where = "done" if training.done else f"stage {training.stages[training.stage].name}, step {training.step}"
        logging.info("%s after %d steps: %s", plan.out, training.total, where)
        (plan.out / "done").unlink(missing_ok=True)
        if training.done:
            (plan.out / "done").touch()


def main(  # noqa: PLR0913, PLR0917 - the command's options
    out: Annotated[Path, typer.Option(help="Folder of state, curve and weights.")] = Path("artifacts/pico"),
    minutes: Annotated[float, typer.Option(help="Length of this piece.")] = 9.0,
    length: Annotated[
        float, typer.Option(help="Steps of every stage, as a multiple of the recipe's; keep it the same for all pieces.")
    ] = 1.0,
    seed: int = 0,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
    workers: Annotated[int, typer.Option(help="Processes that draw scenes, for each one that trains.")] = 1,
    processes: Annotated[int, typer.Option(help="Processes that train together, the cores divided between them.")] = 1,
    start: Annotated[Path | None, typer.Option(help="Begin with these weights, where `out` holds no state yet.")] = None,
    stage: Annotated[str | None, typer.Option(help="Begin at this stage, where `out` holds no state yet.")] = None,
) -> None:
    """Train for a while; exit code 0 when the curriculum is done, 3 when there is more to do."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if stage is not None and stage not in {known.name for known in STAGES}:
        raise typer.BadParameter(f"no stage {stage!r}: choose from {', '.join(known.name for known in STAGES)}")
    out.mkdir(parents=True, exist_ok=True)
    (out / "meeting").unlink(missing_ok=True)
    plan = Plan(out, seed, device, minutes, length, workers, processes, start, stage)
    if processes == 1:
        take_part(0, plan)
    else:
        processes_of.spawn(take_part, (plan,), nprocs=processes)
    raise typer.Exit(0 if (out / "done").exists() else 3)


if __name__ == "__main__":
    typer.run(main)
