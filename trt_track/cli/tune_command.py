"""`trt-track tune`: how long batches of objects take on this machine, so that tracking splits its objects into the quickest ones."""

from __future__ import annotations

from typing import Annotated

import typer

from trt_track.cli.model_choice import ModelOptions
from trt_track.cli.plan_command import parse_video
from trt_track.cli.run_command import Backend, BundleFolder, Model, Precision, Size, Threads

Objects = Annotated[int, typer.Option(min=1, max=64, help="The largest batch to measure; less where engines, memory or time allow less.")]
Rounds = Annotated[int, typer.Option(min=1, help="Times that each batch is measured, four frames each time.")]
Video = Annotated[str, typer.Option(metavar="WxH", help="Pixels of the video.")]


def tune(  # noqa: PLR0913, PLR0917 - the command's options
    bundle: BundleFolder = None,
    model: Model = None,
    size: Size = None,
    precision: Precision = None,
    backend: Backend = "auto",
    threads: Threads = None,
    max_objects: Objects = 16,
    rounds: Rounds = 10,
    video: Video = "1280x720",
) -> None:
    """Measure batches of objects on this machine and keep the times in the bundle, where every later command looks for them.

    Objects are then tracked in the batches that take the least time together. Without it, batches are as large as the backend advises.
    """
    from rich.console import Console
    from rich.table import Table

    from trt_track.bench.batch_timing import batch_milliseconds
    from trt_track.cli.progress import progress_bar
    from trt_track.engines.backends import choose_backend, inspect_machine, open_chosen
    from trt_track.engines.batch_times import BatchTimes, check_batch_times, device_of, keep_batch_times

    video_wh, machine = parse_video(video), inspect_machine()
    opened = ModelOptions(bundle, model, size, precision).open(backend, machine)
    name, why = choose_backend(backend, opened, machine)
    typer.echo(f"backend: {why}", err=True)
    check_batch_times(opened.folder)
    with open_chosen(opened, name, threads) as session, progress_bar("objects a batch") as advance:
        most, found = min(max_objects, session.max_objects or max_objects), {}
        for objects, taken in batch_milliseconds(
            session,
            opened.model,
            objects=most,
            video_wh=video_wh,
            rounds=rounds,
            on_round=lambda count, done, total: advance(done, total, f"{count} a batch"),
        ):
            found[objects] = taken
        times = BatchTimes(session.backend, session.version, device_of(session), found)
    table = Table("objects", "ms", "ms an object", "tracked in batches of", box=None, pad_edge=False)
    for objects, taken in found.items():
        split = " + ".join(str(batch) for batch in times.split(objects, most))
        table.add_row(str(objects), f"{taken:.2f}", f"{taken / objects:.2f}", split)
    Console(width=100, markup=False, highlight=False).print(table)
    if max(found) < max_objects:
        why = "the engines, the memory or, on a processor, the time that an object takes allow no more"
        typer.echo(f"larger batches than {max(found)} were not measured: {why}", err=True)
    typer.echo(keep_batch_times(opened.folder, times))
