"""What the commands besides ``train``, ``test`` and ``prune`` are asked to do, as plain data with checks."""

from __future__ import annotations

from dataclasses import dataclass

from prunelab.doors import check_at_least, check_one_of, check_share, check_within

EXPORT_FORMATS = ("onnx", "onnx-masked", "slim", "original")
METHODS = ("faithful", "fixed", "l1", "random", "torch-pruning")


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """``demo``: classify pictures, or find objects in them."""

    files: tuple[str, ...] = ()
    """Pictures, or folders of pictures; none: some that the newest tour generated."""
    model: str = ""
    """Model folder, run, or tour; empty: the newest tour's slim network."""
    output: str = ""
    """Folder for the pictures that are written; empty: demo."""
    top: int = 5
    """Classes that are named for a picture."""
    draw: bool = False
    """Of a classifier: also write each picture with its class on it. A detector's are always written."""
    threshold: float = 0.5
    """Least score of a box that is drawn."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    dry_run: bool = False
    """Check the command line and stop."""

    def __post_init__(self) -> None:
        check_at_least("top", self.top, 1)
        check_within("threshold", self.threshold, 0, 1)


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """``convert``: foreign weights into a model folder of ours."""

    source: str
    """Weights: arrays under the original's names, a torch file, or a run or model folder."""
    destination: str
    """Model folder that is written."""
    net: str = ""
    """Network that the weights are of; empty: told from their names and shapes."""
    dry_run: bool = False
    """Say what is recognised and write nothing."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """``export``: a trained model in another format."""

    model: str = ""
    """Model folder or run; empty: the newest one."""
    format: str = "onnx"
    """onnx (a file of the slim network), onnx-masked (of the one with channels of zeros), slim (a model
    folder with really fewer channels) or original (under its names)."""
    output: str = ""
    """File or folder that is written; empty: beside the model."""
    image_size: int = 0
    """Side of the pictures of an ONNX file; 0: that of the model."""
    round_to: int = 1
    """Numbers of channels of a slim network are rounded up to multiples of it."""
    enbl_fake_prune: bool = False
    """Prune channels at random first, as a test of speed."""
    fake_prune_ratio: float = 0.5
    """Share of channels that this removes."""
    nb_repts_warmup: int = 10
    """Runs of each network before it is timed."""
    nb_repts: int = 0
    """Runs that are timed, of the dense, the masked and the slim network; 0: none is."""
    dry_run: bool = False
    """Check the command line and stop."""

    def __post_init__(self) -> None:
        check_one_of("format", self.format, EXPORT_FORMATS)
        for name in ("image_size", "nb_repts_warmup", "nb_repts"):
            check_at_least(name, getattr(self, name), 0)
        check_at_least("round_to", self.round_to, 1)
        check_share("fake_prune_ratio", self.fake_prune_ratio)


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """``compare``: ways to choose channels, on one trained network."""

    methods: tuple[str, ...] = METHODS
    """Ways that are compared: faithful, fixed, l1 (largest kernels, refitted as fixed is), random (refitted
    too) and torch-pruning (its L1 norm, on inner channels alone, at equal multiplications)."""
    ratios: tuple[float, ...] = (0.3, 0.5, 0.7)
    """Shares of every layer's input channels that go."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds: of the pictures, of what is drawn, and of fine-tuning."""
    finetune_seconds: float = 60.0
    """How long each network is fine-tuned, on a CPU in seconds of processor time; 0: it is not."""
    jobs: int = 1
    """Rows that are made at a time, each with one thread of a CPU."""

    def __post_init__(self) -> None:
        for method in self.methods:
            check_one_of("methods", method, METHODS)
        for ratio in self.ratios:
            check_share("ratios", ratio)
        check_at_least("finetune_seconds", self.finetune_seconds, 0)
        check_at_least("jobs", self.jobs, 1)
