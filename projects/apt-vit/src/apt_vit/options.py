"""What the commands besides ``train`` are asked to do, as plain data with checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prunelab.doors import check_above, check_at_least, check_device, check_one_of, check_within

MODES = ("dropped", "masked", "plain")
LAYOUTS = ("auto", "packed", "padded")
SPLITS = ("train", "val", "test")
EXPORT_FORMATS = ("onnx", "original")
ROWS = ("plain", "faithful", "fixed", "random", "cls-attention")


def _check_keep_rate(value: float | None) -> None:
    if value is not None:
        check_above("keep_rate", value, 0)
        check_within("keep_rate", value, 0, 1)


@dataclass(frozen=True, kw_only=True)
class TestOptions:
    """``test``: accuracy, tokens and multiply-adds of a model, unpruned and pruned."""

    __test__ = False  # not a class of tests, whatever its name

    model: str = ""
    """Model folder, run, checkpoint of the original, or another known file; empty: the newest run's best."""
    split: str = "test"
    """Pictures that are classified: train, val or test."""
    output: str = ""
    """File for the figures, as JSON; empty: they are printed alone."""
    max_steps: int | None = None
    """Stop after this many batches."""
    dry_run: bool = False
    """Check the command line and stop."""
    print_config: bool = False
    """Print the configuration as YAML and stop."""
    typed: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the configuration that were typed; see `apt_vit.lowering.lower_test`."""

    def __post_init__(self) -> None:
        check_one_of("split", self.split, SPLITS)
        if self.max_steps is not None:
            check_at_least("max_steps", self.max_steps, 1)


@dataclass(frozen=True, kw_only=True)
class InferOptions:
    """``infer``: the original's inference: classify the test pictures with tokens really dropped."""

    model: str = ""
    """Model folder, run, or known file; empty: the original's file of name in output_dir: 1_..., in mode
    plain 0_...."""
    mode: str = "dropped"
    """dropped (pruned tokens are gone), masked (they are hidden) or plain (nothing is pruned)."""
    layout: str = "auto"
    """How pictures with different numbers of tokens make a batch: packed, padded, or auto."""
    show_shapes: bool = False
    """Print the shapes of every picture behind each clip layer; under faithful they are printed anyway."""
    max_steps: int | None = None
    """Stop after this many batches."""
    dry_run: bool = False
    """Check the command line and stop."""
    print_config: bool = False
    """Print the configuration as YAML and stop."""
    typed: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the configuration that were typed; see `apt_vit.lowering.lower_infer`."""

    def __post_init__(self) -> None:
        check_one_of("mode", self.mode, MODES)
        check_one_of("layout", self.layout, LAYOUTS)
        if self.max_steps is not None:
            check_at_least("max_steps", self.max_steps, 1)

    @property
    def stream(self) -> int:
        """The original's stream: 0 unpruned, 1 pruned."""
        return 0 if self.mode == "plain" else 1


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """``demo``: name what pictures show, and draw the patches that are kept."""

    files: tuple[str, ...] = ()
    """Pictures, or folders of pictures; none: test pictures of the run that the model lies in."""
    model: str = ""
    """Model folder, run, tour or known file; empty: the newest run's best."""
    output: str = "demo"
    """Folder for the pictures that are written."""
    top: int = 3
    """Classes that are named for a picture."""
    threshold: float | None = None
    """Tokens with a greater prune probability go; None: the model's own."""
    keep_rate: float | None = None
    """Share of the remaining tokens that each clip layer keeps; None: the model's own rule."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    dry_run: bool = False
    """Check the command line and stop."""
    typed: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the network that were typed, for a file that does not tell them."""

    def __post_init__(self) -> None:
        check_at_least("top", self.top, 1)
        check_device(self.device)
        if self.threshold is not None:
            check_within("threshold", self.threshold, 0, 1)
        _check_keep_rate(self.keep_rate)


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """``convert``: a published file into a model folder of ours."""

    source: str
    """Google's npz, a checkpoint of the original, a ViT of timm, a run or a model folder."""
    destination: str
    """Model folder that is written."""
    dry_run: bool = False
    """Say what is recognised and write nothing."""
    typed: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the network and `preset` that were typed, for what a file does not tell."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """``export``: a trained model in another format."""

    model: str = ""
    """Model folder, run or known file; empty: the newest run's best."""
    format: str = "onnx"
    """onnx (a graph) or original (its checkpoint file)."""
    output: str = ""
    """File that is written; empty: beside the model."""
    keep_rate: float | None = None
    """Of ONNX: the graph drops tokens, and each clip layer keeps this share; None: nothing is pruned."""
    dry_run: bool = False
    """Check the command line and stop."""
    typed: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the network that were typed, for a file that does not tell them."""

    def __post_init__(self) -> None:
        check_one_of("format", self.format, EXPORT_FORMATS)
        _check_keep_rate(self.keep_rate)


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """``compare``: ways to prune tokens, each trained by the same recipe."""

    rows: tuple[str, ...] = ROWS
    """Ways: plain (nothing is pruned), faithful, fixed, random and cls-attention (with as many multiply-adds
    as fixed)."""
    seeds: tuple[int, ...] = (0, 1)
    """Seeds: of the weights, of the order of pictures, and of what is drawn."""
    rates: tuple[float, ...] = (0.9, 0.8, 0.7, 0.6, 0.5)
    """Keep rates at which every trained network is asked as well, for the figure."""
    jobs: int = 1
    """Rows that are trained at a time, each with one thread of a CPU."""

    def __post_init__(self) -> None:
        for row in self.rows:
            check_one_of("rows", row, ROWS)
        for rate in self.rates:
            check_above("rates", rate, 0)
            check_within("rates", rate, 0, 1)
        check_at_least("jobs", self.jobs, 1)
