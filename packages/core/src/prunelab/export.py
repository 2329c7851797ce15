"""ONNX files that have proved themselves: none is written that computes other things than its model.

`to_onnx` writes one, `Graph` runs one, `StepGraphs` the two of a captioner.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from prunelab.config import from_plain
from prunelab.decode import State
from prunelab.errors import UserError
from prunelab.modes import evaluating
from prunelab.util import StrPath, atomic_write, human_bytes

LARGEST_FILE = 2**31 - 1
"""Bytes that an ONNX file of one piece can hold."""

T = TypeVar("T")
Dynamic = Mapping[str, Mapping[int, str]]
Simplify: TypeAlias = Literal["rewrite", "fold", "no"]
"""How a graph is made smaller: ``rewrite`` lets the exporter replace parts of it, ``fold`` computes what is
constant, ``no`` leaves all as it was traced. The exporter's rules take numbers below 1e-8 for zeros, so that
an epsilon of 1e-9 is not added any more."""


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was written, and how far it is from the model."""

    path: Path
    """The file."""
    bytes: int
    """Its size."""
    opset: int
    """Version of the operators it uses."""
    difference: float
    """Largest absolute difference to the model over all outputs and tries."""
    tries: tuple[str, ...]
    """Shapes of the inputs that were tried, e.g. ``image 3x3x32x32``."""

    def __str__(self) -> str:
        """One line for people."""
        tried = "; ".join(self.tries)
        return (
            f"{self.path} ({human_bytes(self.bytes)}, opset {self.opset}): "
            f"within {self.difference:.1e} of the model on {tried}"
        )

    @property
    def summary(self) -> str:
        """One short line, for graphs of so many sizes that nobody would read them."""
        return (
            f"{self.path} ({human_bytes(self.bytes)}, opset {self.opset}): within {self.difference:.1e} of "
            f"PyTorch, on inputs of {len(self.tries)} sizes"
        )


def to_onnx(
    module: nn.Module,
    args: tuple[Any, ...],
    path: StrPath,
    *,
    kwargs: Mapping[str, Any] | None = None,
    input_names: Sequence[str],
    output_names: Sequence[str],
    dynamic: Dynamic | None = None,
    sizes: Mapping[str, Sequence[int]] | None = None,
    tolerance: float = 1e-4,
    metadata: Mapping[str, Any] | None = None,
    opset: int | None = None,
    simplify: Simplify = "rewrite",
) -> ExportReport:
    """Write a module as one ONNX file, after comparing it with the module in onnxruntime.

    The module runs in evaluation mode; its modes are restored. It is compared on the example and on further
    sizes of every dynamic axis, for which the example's rows are repeated.

    Args:
        module: The module; its outputs are tensors in any nesting of tuples, lists and dicts.
        args: Example inputs. Tensors become inputs of the graph, everything else part of it.
        path: The file.
        kwargs: Example inputs by keyword.
        input_names: Names of the tensors of ``args``, then ``kwargs``, in order.
        output_names: Names of the outputs, in order.
        dynamic: For an input's name the axes whose size may vary, with a name each, such as
            ``{"image": {0: "batch"}}``.
        sizes: For an axis' name the further sizes to try; where it says nothing one more than the example's,
            and 1 for the first axis.
        tolerance: Largest absolute difference that is accepted; whole numbers must be equal.
        metadata: Put into the file; what is no text is written as JSON.
        opset: Version of the operators; None takes the exporter's own choice.
        simplify: How the graph is made smaller.

    Raises:
        UserError: The packages of ``prunelab[export]`` are missing, the module cannot be exported, or the
            file would not agree with the module (then nothing is written).
        ValueError: Names that do not fit the inputs or outputs.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        _need(package)
    flat = _Flat(module, args, kwargs or {}, dict(dynamic or {}), list(input_names))
    with evaluating(module):
        with torch.no_grad():
            outputs = flat(*flat.example)
        if len(outputs) != len(output_names):
            raise ValueError(
                f"{len(outputs)} outputs, but {len(output_names)} output_names {list(output_names)}"
            )
        proto = _trace(flat, list(output_names), opset, simplify)
        content = {"producer": "prunelab", **(metadata or {})}
        import onnx

        texts = {
            key: value if isinstance(value, str) else json.dumps(value) for key, value in content.items()
        }
        onnx.helper.set_model_props(proto, texts)
        data = proto.SerializeToString()
        tries = list(_tries(flat, sizes or {}))
        difference = _compare(flat, data, tries, list(output_names), tolerance)
    with atomic_write(path) as file:
        file.write(data)
    return ExportReport(
        path=Path(path),
        bytes=len(data),
        opset=max(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")),
        difference=difference,
        tries=tuple(_described(flat.names, tensors) for tensors in tries),
    )


class Graph:
    """An ONNX file, run on the CPU with PyTorch's tensors.

    Args:
        path: A file that `to_onnx` wrote.
        threads: Of onnxruntime; 0: its own choice.

    Attributes:
        path: The file.
        facts: Its ``metadata``, as text.
        inputs: Names of what it reads; what changed nothing was dropped by the exporter.
        outputs: Names of what it writes.

    Raises:
        UserError: The file is missing or damaged, or onnxruntime is not installed.
    """

    def __init__(self, path: StrPath, *, threads: int = 0) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"{path}: no such file, expected a graph that `export` wrote")
        runtime = _need("onnxruntime", "running")
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        try:
            session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has no common base class of its own
            raise UserError(f"{path}: onnxruntime refuses it: {_first_line(error)}") from error
        self._session = session
        self.facts: dict[str, str] = session.get_modelmeta().custom_metadata_map
        self.inputs: tuple[str, ...] = tuple(entry.name for entry in session.get_inputs())
        self.outputs: tuple[str, ...] = tuple(entry.name for entry in session.get_outputs())

    def __call__(self, outputs: Sequence[str], feeds: Mapping[str, Tensor]) -> list[Tensor]:
        """The outputs of these names; of ``feeds``, what the graph does not read is left out."""
        arrays = {
            name: value.detach().contiguous().numpy() for name, value in feeds.items() if name in self.inputs
        }
        return [torch.from_numpy(array) for array in self._session.run(list(outputs), arrays)]


ENCODER, STEP = "encoder.onnx", "step.onnx"
"""Files of a captioner as two graphs: of the encoder, once a picture, and of a step, once a word."""


class StepGraphs:
    """A captioner as two graphs, which `prunelab.decode` searches like any other.

    The encoder's graph reads pictures and writes what is of each picture. The step's reads the newest
    ``tokens`` (N,) of all rows, for each row the ``picture`` (N,) that it is of, what is of each picture, and
    caches with a row each; it writes ``log_probs`` (N, V) and, under their names with ``_next``, the caches.

    Args:
        folder: With both graphs, whose facts say what the ``model`` is.
        threads: Of onnxruntime; 0: its own choice.

    Raises:
        UserError: A file is missing or damaged, says nothing of its model, or onnxruntime is not installed.
    """

    def __init__(self, folder: Path, *, threads: int = 0) -> None:
        self.encoder, self.stepper = (Graph(folder / name, threads=threads) for name in (ENCODER, STEP))
        self.facts = self.encoder.facts
        if "model" not in self.facts:
            raise UserError(f"{folder / ENCODER}: no graph of a captioner: it says nothing of its model")
        self.read = tuple(name for name in self.encoder.outputs if name in self.stepper.inputs)

    def fact(self, kind: type[T], name: str) -> T:
        """A configuration that the encoder's file says, such as that of the ``model``.

        Args:
            kind: Its dataclass.
            name: Of the fact.

        Raises:
            UserError: It does not fit the dataclass.
        """
        return from_plain(kind, json.loads(self.facts[name]), where=str(self.encoder.path))

    def begin(self, pictures: Mapping[str, Tensor], caches: Mapping[str, Tensor]) -> State:
        """Encode.

        Args:
            pictures: What the encoder reads, by name; what the step reads, too, is kept.
            caches: As they are before the first word, by name, with a row a picture.
        """
        image = {name: value for name, value in pictures.items() if name in self.stepper.inputs}
        image |= dict(zip(self.read, self.encoder(self.read, pictures), strict=True))
        return State(per_image=image, per_beam=dict(caches))

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Read a word of each row: log-probabilities (N, V) of the next, and the state after it."""
        pictures, _ = replace(state, per_beam=None).size
        picture = torch.arange(pictures).repeat_interleave(len(tokens) // pictures)
        feeds = {"tokens": tokens, "picture": picture, **state.per_image, **state.per_beam}
        log_probs, *after = self.stepper(["log_probs", *(f"{name}_next" for name in state.per_beam)], feeds)
        caches = dict(zip(state.per_beam, after, strict=True))
        return log_probs.clamp(max=0.0), replace(state, per_beam=caches)


def _need(package: str, what: str = "exporting to") -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        line = f"{what} ONNX needs the package {package}: install prunelab[export]"
        raise UserError(line) from error


class _Flat(nn.Module):
    """The module as a function from a row of tensors to a tuple of tensors."""

    def __init__(
        self,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        dynamic: dict[str, Mapping[int, str]],
        names: list[str],
    ) -> None:
        super().__init__()
        self.module = module
        self._leaves, self._spec = tree_flatten((tuple(args), dict(kwargs)))
        self._places = [i for i, leaf in enumerate(self._leaves) if isinstance(leaf, Tensor)]
        self.names = names
        self.dynamic = dynamic
        if len(names) != len(self._places):
            raise ValueError(f"{len(self._places)} input tensors, but {len(names)} input_names {names}")
        if unknown := set(dynamic) - set(names):
            raise ValueError(f"dynamic axes of {sorted(unknown)}, which are not in input_names {names}")
        given = [self._leaves[place] for place in self._places]
        # torch.export takes a size of 1 for a constant, so a dynamic axis begins with 2
        ones = {
            axis
            for name, t in zip(names, given, strict=True)
            for i, axis in self.axes(name)
            if t.shape[i] == 1
        }
        self.example = self.resized(given, dict.fromkeys(ones, 2))

    def axes(self, name: str) -> list[tuple[int, str]]:
        """Dynamic axes of an input: place and name."""
        return sorted(self.dynamic.get(name, {}).items())

    def resized(self, tensors: Sequence[Tensor], sizes: Mapping[str, int]) -> list[Tensor]:
        """The tensors with other sizes of the named axes; rows are repeated, beginning with the last one."""
        result = []
        for name, tensor in zip(self.names, tensors, strict=True):
            for place, axis in self.axes(name):
                if axis in sizes and sizes[axis] != tensor.shape[place]:
                    rows = torch.arange(-1, sizes[axis] - 1, device=tensor.device) % tensor.shape[place]
                    tensor = tensor.index_select(place, rows)
            result.append(tensor)
        return result

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        leaves = list(self._leaves)
        for place, tensor in zip(self._places, tensors, strict=True):
            leaves[place] = tensor
        args, kwargs = tree_unflatten(leaves, self._spec)
        return tuple(leaf for leaf in tree_leaves(self.module(*args, **kwargs)) if isinstance(leaf, Tensor))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's warnings, log lines and graphs to itself."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _trace(flat: _Flat, output_names: list[str], opset: int | None, simplify: Simplify) -> Any:
    """The graph as an ONNX message."""
    what = type(flat.module).__name__
    shapes = tuple(dict(flat.axes(name)) or None for name in flat.names)
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                flat.eval(),
                tuple(flat.example),
                dynamo=True,
                verbose=False,
                input_names=flat.names,
                output_names=output_names,
                dynamic_shapes=(shapes,) if flat.dynamic else None,
                opset_version=opset,
                optimize=simplify == "rewrite",
            )
            assert program is not None
            if simplify == "fold":
                from onnxscript import optimizer

                optimizer.fold_constants(program.model)
                optimizer.remove_unused_nodes(program.model)
            size = sum(p.numel() * p.element_size() for p in flat.state_dict().values())
            if size > LARGEST_FILE:
                raise UserError(f"{what}: {human_bytes(size)} of weights, an ONNX file can hold 2 GB")
            return program.model_proto
    except UserError:
        raise
    except Exception as error:  # the exporter has many ways to say no
        first: BaseException = error
        while first.__cause__ is not None:  # what went wrong, below the layers of advice
            first = first.__cause__
        raise UserError(f"{what} cannot be exported to ONNX: {_first_line(first)}") from error


def _tries(flat: _Flat, sizes: Mapping[str, Sequence[int]]) -> Iterator[list[Tensor]]:
    """The example, and the example with other sizes of one dynamic axis at a time."""
    yield flat.example
    defaults: dict[str, list[int]] = {}
    for name, tensor in zip(flat.names, flat.example, strict=True):
        for place, axis in flat.axes(name):
            defaults.setdefault(
                axis, [1, tensor.shape[place] + 1] if place == 0 else [tensor.shape[place] + 1]
            )
    if unknown := set(sizes) - set(defaults):
        raise ValueError(f"sizes of {sorted(unknown)}, which are no dynamic axes: {sorted(defaults)}")
    for axis, further in {**defaults, **sizes}.items():
        for size in further:
            yield flat.resized(flat.example, {axis: size})


def _compare(
    flat: _Flat, data: bytes, tries: list[list[Tensor]], output_names: list[str], tolerance: float
) -> float:
    """Run file and module side by side; the largest difference."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    what = type(flat.module).__name__
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no common base class of its own
        raise UserError(f"{what}: onnxruntime refuses the exported graph: {_first_line(error)}") from error
    used = {
        entry.name for entry in session.get_inputs()
    }  # inputs that change nothing are dropped by the exporter
    largest = 0.0
    for tensors in tries:
        with torch.no_grad():
            expected = flat(*tensors)
        feeds = {
            name: t.detach().cpu().numpy()
            for name, t in zip(flat.names, tensors, strict=True)
            if name in used
        }
        where = _described(flat.names, tensors)
        try:
            found = session.run(output_names, feeds)
        except Exception as error:
            raise UserError(f"{what}: the exported graph fails on {where}: {_first_line(error)}") from error
        for name, ours, theirs in zip(output_names, expected, found, strict=True):
            difference = _difference(ours.detach().cpu(), torch.tensor(theirs))
            if not difference <= (tolerance if ours.is_floating_point() else 0):
                raise UserError(
                    f"{what}: the exported graph's {name} differs by {difference:.3g} from the model's "
                    f"on {where}, allowed is {tolerance:g}; nothing was written"
                )
            largest = max(largest, difference)
    return largest


def _difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest absolute difference; infinite for other shapes, and where only one is NaN or infinite."""
    if ours.shape != theirs.shape:
        return math.inf
    a, b = ours.double(), theirs.double()
    same = (a == b) | (a.isnan() & b.isnan())
    gap = torch.where(same, 0.0, (a - b).abs()).nan_to_num(nan=math.inf, posinf=math.inf)
    return float(gap.max()) if gap.numel() else 0.0


def _described(names: Sequence[str], tensors: Sequence[Tensor]) -> str:
    pairs = zip(names, tensors, strict=True)
    return ", ".join(f"{name} {'x'.join(map(str, tensor.shape)) or 'scalar'}" for name, tensor in pairs)


def _first_line(error: BaseException) -> str:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"\x1b\[[0-9;]*m", "", line)[:400]  # without colours
