"""Benchmarks that compare results before times; ``python -m prunelab.bench`` measures the core's own rows."""

from prunelab.bench.command import discover, machine, main, measure, plain_table, results_table
from prunelab.bench.compare import Figure, Result, Row, Skip, Times, compare, using_rounds

__all__ = [
    "Figure",
    "Result",
    "Row",
    "Skip",
    "Times",
    "compare",
    "discover",
    "machine",
    "main",
    "measure",
    "plain_table",
    "results_table",
    "using_rounds",
]
