"""A training in pieces: each goes on where the last one stopped, alone or in several processes, and keeps a curve and averaged weights."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, TypeVar

import torch
import torch.distributed as dist
import torch.multiprocessing as processes_of
import typer
from optimiser import Optimiser
from safetensors.torch import save_file
from state import Averaged, load_state, save_state

SAVE_EVERY_S = 240
LOG_EVERY = 25
CORES = len(os.sched_getaffinity(0))


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Steps of one kind."""

    name: str
    steps: int
    rates: tuple[float, float]
    """Learning rate after the warm-up and at the end, half a cosine between them."""
    warm_up: int = 50
    clutter_steps: int = 0
    """Steps over which the scenes rise from clean to cluttered."""

    def rate_at(self, step: int) -> float:
        """Return the learning rate at a step."""
        first, last = self.rates
        warm = min(1.0, (step + 1) / self.warm_up)
        return warm * (last + (first - last) * (0.5 + 0.5 * math.cos(math.pi * step / self.steps)))


AnyStage = TypeVar("AnyStage", bound=Stage)
Batch = TypeVar("Batch")


def lengthen(stages: Sequence[AnyStage], factor: float) -> tuple[AnyStage, ...]:
    """Return the stages with `factor` times the steps."""
    return tuple(
        replace(stage, steps=max(1, round(stage.steps * factor)), clutter_steps=round(stage.clutter_steps * factor)) for stage in stages
    )


@dataclass(frozen=True)
class Plan:
    """What all processes of a training are told."""

    out: Path
    seed: int = 0
    device: str = "cpu"
    minutes: float = 9.0
    length: float = 1.0
    workers: int = 1
    processes: int = 1
    start: Path | None = None
    """Weights to begin with."""
    stage: str | None = None
    """Stage to begin at."""


class Team:
    """The processes that train one model together, each on its share of the examples."""

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


class Training(ABC, Generic[AnyStage, Batch]):
    """Model, optimiser, average and where in the curriculum they are."""

    weights_name: ClassVar[str]
    """File of the averaged weights, half precision."""
    curriculum: ClassVar[Sequence[Any]]

    def __init__(self, plan: Plan, team: Team) -> None:
        """Begin anew, or where the state in the plan's folder ends."""
        self.out, self.seed, self.device = plan.out, plan.seed, torch.device(plan.device)
        self.stages: tuple[AnyStage, ...] = lengthen(self.curriculum, plan.length)
        self.team, self.workers, self.stop_at = team, plan.workers, time.monotonic() + 60 * plan.minutes
        torch.manual_seed(self.seed)
        names = [stage.name for stage in self.stages]
        self.stage, self.step, self.total = names.index(plan.stage) if plan.stage else 0, 0, 0
        self.model = self.new_model(self.stages[self.stage])
        if plan.start is not None:
            self.load_weights(plan.start)
        self.optimiser = Optimiser(self.model)
        self.average = Averaged(self.model)
        if (self.out / "state" / "state.json").exists():
            self._resume()

    @abstractmethod
    def new_model(self, stage: AnyStage) -> Any:
        """Return a model in training mode on the device, with weights from torch's current seed."""

    @abstractmethod
    def load_weights(self, file: Path) -> None:
        """Take over what an earlier training wrote."""

    @abstractmethod
    def batches(self, stage: AnyStage) -> Iterator[Batch]:
        """Yield the batches of this process from the current step to the stage's end."""

    @abstractmethod
    def losses(self, stage: AnyStage, batch: Batch) -> dict[str, Any]:
        """Return scalars; `total` has a gradient."""

    def fit_stage(self) -> None:
        """Make the model one for the current stage; by default it is one already."""

    def label(self, _stage: AnyStage) -> dict[str, Any]:
        """Return what the curve tells of the current step beside the losses."""
        return {}

    def logs(self, _stage: AnyStage) -> bool:
        """Whether the current step goes into the curve."""
        return self.total % LOG_EVERY == 0

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
            for batch in self.batches(stage):
                stop = self.train_step(stage, batch)
                if stop:
                    break
                if time.monotonic() - saved > SAVE_EVERY_S:
                    self.save()
                    saved = time.monotonic()
            if self.step >= stage.steps:
                self.stage, self.step = self.stage + 1, 0
                if not self.done:
                    self.fit_stage()
        self.save()

    def train_step(self, stage: AnyStage, batch: Batch) -> bool:
        """Learn from a batch; return whether to stop."""
        started = time.perf_counter()
        torch.manual_seed(self.seed * 1_000_003 + self.total)
        losses = self.losses(stage, batch)
        losses["total"].backward()
        stop = self.team.average_gradients(self.model, stop=time.monotonic() > self.stop_at)
        self.optimiser.step(stage.rate_at(self.step))
        self.average.update(self.model, self.total)
        if self.team.leads and self.logs(stage):
            values = {name: round(float(value.detach()), 4) for name, value in losses.items()}
            line = {"stage": stage.name, "step": self.step, "total_steps": self.total, "seconds": round(time.perf_counter() - started, 3)}
            with (self.out / "curve.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({**line, **self.label(stage), **values}) + "\n")
        self.step += 1
        self.total += 1
        return stop

    def save(self) -> None:
        """Write the state and the averaged weights."""
        if not self.team.leads:
            return
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.weights.items()}
        tensors |= {f"optimiser.{name}": value for name, value in self.optimiser.tensors().items()}
        numbers = {"stage": self.stage, "step": self.step, "total": self.total, "seed": self.seed}
        save_state(self.out / "state", numbers, tensors)
        save_file({name: value.half().contiguous() for name, value in self.average.weights.items()}, self.out / self.weights_name)

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
        if not self.done:
            self.fit_stage()


def take_part(rank: int, kind: type[Training[Any, Any]], plan: Plan) -> None:
    """Train as one of the plan's processes."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    team = Team(rank, plan)
    torch.set_num_threads(max(1, CORES // plan.processes))
    training = kind(plan, team)
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


def command(kind: type[Training[Any, Any]], default_out: Path) -> Callable[..., None]:
    """Return the command that trains a piece."""

    def main(  # noqa: PLR0913, PLR0917 - the command's options
        out: Annotated[Path, typer.Option(help="Folder of state, curve and weights.")] = default_out,
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
        known = [one.name for one in kind.curriculum]
        if stage is not None and stage not in known:
            raise typer.BadParameter(f"no stage {stage!r}: choose from {', '.join(known)}")
        out.mkdir(parents=True, exist_ok=True)
        (out / "meeting").unlink(missing_ok=True)
        plan = Plan(out, seed, device, minutes, length, workers, processes, start, stage)
        if processes == 1:
            take_part(0, kind, plan)
        else:
            processes_of.spawn(take_part, (kind, plan), nprocs=processes)
        raise typer.Exit(0 if (out / "done").exists() else 3)

    return main
