"""``onnx2tensorrt``: TensorRT engines from the graphs that ``export`` wrote.

A recipe: it follows TensorRT's documentation and has not been run, for want of TensorRT. It calls
``trtexec``, which every installation of TensorRT brings, once for each graph, with the sizes that the graph's
free dimensions may have. Where there is no ``trtexec`` it prints the commands.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expansionnet.cli import parse_onnx2tensorrt
from expansionnet.options import EngineOptions
from prunelab.errors import UserError, entry
from prunelab.export import ENCODER, STEP

PROGRAM = "trtexec"
TOKENS = 144
"""Visual tokens of a picture of the published backbone, for a model that reads features."""

Range = tuple[int, int, int]
"""Least, likeliest and greatest size of a dimension."""


def build(options: EngineOptions) -> list[Path]:
    """Build an engine for each graph, or print how.

    Returns:
        The engines; none where the commands were only printed.

    Raises:
        UserError: there are no such graphs, or ``trtexec`` refuses one.
    """
    wanted = commands(options)
    if shutil.which(PROGRAM) is None:
        print(
            f"{PROGRAM}: no such program; on a machine with TensorRT, these build the engines (not run here):"
        )
        for command in wanted.values():
            print(shlex.join(command))
        return []
    for engine, command in wanted.items():
        if subprocess.run(command, check=False).returncode:
            raise UserError(f"{engine}: {PROGRAM} failed; its last lines say why")
        print(f"written: {engine}")
    return list(wanted)


def commands(options: EngineOptions) -> dict[Path, list[str]]:
    """What to call for each engine.

    Raises:
        UserError: there are no such graphs.
    """
    first = Path(options.engine_path)
    engines = {ENCODER: first, STEP: first.with_name(f"{first.stem}-step{first.suffix}")}
    return {
        engine: _command(Path(options.onnx_path) / name, engine, options) for name, engine in engines.items()
    }


def _command(graph: Path, engine: Path, options: EngineOptions) -> list[str]:
    inputs, facts = read_graph(graph)
    positions = int(facts.get("model", {}).get("max_seq_len", 20))
    beams = options.max_beams
    ranges: dict[str, Range] = {
        "pictures": (1, 1, options.max_pictures),
        "rows": (1, beams, options.max_pictures * beams),
        "words": (0, min(10, positions), positions),
        "visual": (1, TOKENS, TOKENS),
    }
    shapes = [
        f"--{name}Shapes={','.join(f'{key}:{_shape(dims, ranges, place)}' for key, dims in inputs.items())}"
        for place, name in enumerate(("min", "opt", "max"))
    ]
    precision = ["--fp16"] if options.data_type == "fp16" else []
    return [PROGRAM, f"--onnx={graph}", f"--saveEngine={engine}", *shapes, *precision]


def _shape(dims: Sequence[int | str], ranges: Mapping[str, Range], place: int) -> str:
    return "x".join(str(ranges[dim][place] if isinstance(dim, str) else dim) for dim in dims)


def read_graph(path: Path) -> tuple[dict[str, list[int | str]], dict[str, Any]]:
    """The inputs of a graph, each with its sizes (of a free one the name), and what export noted in the file.

    Raises:
        UserError: there is no such file, or the package onnx is missing.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file, expected a folder that `export --format onnx` wrote")
    try:
        import onnx
    except ImportError as error:
        raise UserError("onnx is not installed: `uv sync --package expansionnet --extra export`") from error
    model = onnx.load(str(path), load_external_data=False)
    inputs = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in model.graph.input
    }
    facts = {note.key: json.loads(note.value) for note in model.metadata_props if note.value[:1] in "{["}
    return inputs, facts


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``onnx2tensorrt``."""
    options = parse_onnx2tensorrt(argv)
    if options.dry_run:
        print(options)
        return
    build(options)


if __name__ == "__main__":
    main()
