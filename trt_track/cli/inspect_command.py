"""`trt-track inspect`: what the graphs of a bundle are made of, and whether TensorRT or the contract would object."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from trt_track.engines.graph_report import GraphReport

Folder = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder.")]
Graph = Annotated[str | None, typer.Option("--graph", help="List this graph node by node instead, with polygraphy.")]

_SHOWN = 4


def inspect(bundle: Folder, graph: Graph = None) -> None:
    """Show operators, weights and problems of every graph; exit code 1 when there is a problem."""
    from trt_track.engines.bundle import Bundle
    from trt_track.engines.graph_report import describe_graph, report_bundle

    opened = Bundle.open(bundle)
    if graph is not None:
        typer.echo(describe_graph(opened, graph))
        return
    reports = report_bundle(opened)
    _print(reports)
    problems = [f"{report.graph}: {problem}" for report in reports for problem in report.problems]
    typer.echo("\n".join(problems or ["no problems: the graphs hold to their contract, with operators that TensorRT takes"]))
    raise typer.Exit(1 if problems else 0)


def _print(reports: list[GraphReport]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("graph", "opset", "nodes", "Attention", "weights, MB", "most frequent operators", box=None, pad_edge=False)
    for report in reports:
        frequent = ", ".join(f"{name} {count}" for name, count in list(report.operators.items())[:_SHOWN])
        nodes = sum(report.operators.values())
        table.add_row(
            report.graph, str(report.opset), str(nodes), str(report.attention_nodes), f"{report.weights_bytes / 1e6:.1f}", frequent
        )
    Console(width=140, highlight=False, markup=False).print(table)
