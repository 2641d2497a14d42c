"""What `trt-track bench` measures with: the bundle that was named, or one that is exported (and compiled, where there is a GPU) for it."""

from __future__ import annotations

from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from trt_track.errors import ModelError

if TYPE_CHECKING:
    from trt_track.engines.backends import Machine
    from trt_track.engines.bundle import Bundle
    from trt_track.parity.weights import UpstreamModel


@dataclass(frozen=True, slots=True)
class BenchModel:
    """What the user said of the model."""

    bundle: Path | None
    model: str | None
    size: int | None
    checkpoint: Path | None
    random_weights: int | None
    config: Path | None

    def open(self, scratch: Path, backend: str, machine: Machine) -> Bundle:
        """Open the bundle, or make one in `scratch` where weights were named or a GPU has no engines yet.

        Raises:
            ModelError: the options contradict each other, or the bundle.
            BundleError: there is no such bundle, it is damaged, or a detector's.
            ParityError: what was exported is not upstream's model.
        """
        from trt_track.engines.backends import runs_on_gpu
        from trt_track.engines.bundle import Bundle
        from trt_track.engines.library import EMBEDDED, find_bundle

        if self.checkpoint is not None and self.random_weights is not None:
            raise ModelError("give either --checkpoint or --random-weights, not both")
        if self.bundle is not None:
            return self._named(Bundle.open(self.bundle))
        name, flavour = self.model or EMBEDDED, gpu_flavour(backend, machine)
        if self.checkpoint is not None or self.random_weights is not None:
            return self._exported(name, scratch, flavour)
        found = Bundle.open(find_bundle(name, image_size=self.size, backend=backend, machine=machine))
        return found if flavour is None or runs_on_gpu(found, machine, backend) else self._exported(name, scratch, flavour)

    def upstream(self, bundle: Bundle) -> UpstreamModel:
        """Return what upstream's predictor is made of.

        Raises:
            ModelError: the weights are unknown, or others than the bundle's.
        """
        from trt_track.parity.weights import UpstreamModel

        return UpstreamModel.of_bundle(bundle, checkpoint=self.checkpoint, config=self.config)

    def _named(self, bundle: Bundle) -> Bundle:
        """Refuse a bundle that is not what the other options say."""
        if self.random_weights is not None:
            raise ModelError("--random-weights is for a bundle that is made now: leave it out with --bundle")
        found = bundle.model
        expected = self.model or found.name, self.size or found.image_size
        if (found.name, found.image_size) != expected:
            raise ModelError(
                f"{bundle.folder} holds {found.name} at {found.image_size} px, expected {expected[0]} at {expected[1]} px: "
                "give its own --model and --size, or leave them out"
            )
        return bundle

    def _exported(self, name: str, scratch: Path, flavour: str | None) -> Bundle:
        """Export the model as `trt-track export` does; for a GPU in FP16 with engines."""
        from trt_track.cli.export_command import export
        from trt_track.engines.bundle import Bundle
        from trt_track.engines.tensorrt_builder import build_engines

        precision = "fp32" if flavour is None else "fp16"
        target = scratch / f"{name}-{precision}"
        typer.echo(f"exporting {name}, {precision}", err=True)
        with redirect_stdout(StringIO()):  # it prints the folder
            export(
                name,
                checkpoint=self.checkpoint,
                random_weights=self.random_weights,
                config=self.config,
                size=self.size,
                precision=precision,
                out=target,
            )
        bundle = Bundle.open(target)
        if flavour is not None:
            typer.echo(f"building engines with {flavour}", err=True)
            build_engines(bundle, flavour=flavour)
        return bundle


def gpu_flavour(backend: str, machine: Machine) -> str | None:
    """Return the TensorRT that the machine has for its GPU and the user did not rule out; None where there is none."""
    from trt_track.engines.backends import AUTO
    from trt_track.engines.tensorrt_door import MODULES

    if machine.gpu is None:
        return None
    return next((name for name in MODULES if name in machine.versions and backend in {AUTO, name}), None)
