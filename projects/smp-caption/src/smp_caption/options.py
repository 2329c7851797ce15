"""What the commands besides ``train`` are asked to do, as plain data with checks."""

from __future__ import annotations

from dataclasses import dataclass

from prunelab.doors import PRESETS, check_at_least, check_one_of
from prunelab.errors import UserError

EXPORT_FORMATS = ("original", "sparse", "binary", "packed", "onnx")
FEATURE_FORMATS = ("npy", "store")


@dataclass(frozen=True, kw_only=True)
class TestOptions:
    """``test``: caption a split and score the captions. None: as the run or model was trained."""

    __test__ = False  # not a class of tests, whatever its name

    log_dir: str = ""
    """Folder of runs, or a run or model itself."""
    id: str = ""
    """Name of the run's folder in log_dir."""
    model_file: str = ""
    """Checkpoint in the run, or a file or model folder; empty: the best that the run has."""
    beam_size_test: int = 0
    """Beams; above 0: the test split."""
    beam_size_val: int = 0
    """Beams; above 0: the validation split."""
    batch_size_eval: int = 50
    """Pictures of a batch."""
    eval_dir_suffix: str = ""
    """Added to the name of the folder that is written."""
    load_as_float16: bool = False
    """Round the weights to half precision, save them so, and compute in single precision."""
    mscoco_online_test: bool = False
    """Caption the files of test2014 for COCO's evaluation server."""
    dataset: str | None = None
    """Data set."""
    dataset_dir: str | None = None
    """Folder of the data set."""
    logging_level: str = "INFO"
    """Taken as the original takes it; what test prints is its result, at any level."""
    output: str = ""
    """Folder for captions and scores; empty: beside the checkpoint."""
    metrics: tuple[str, ...] = ("BLEU", "ROUGE_L", "CIDEr")
    """Scores; METEOR and SPICE need Java."""
    constant: bool = False
    """Score the best constant caption of the training pictures in place of a model."""
    num_workers: int = 4
    """Processes that load batches."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    preset: str | None = None
    """faithful or fixed."""
    amp: str = "off"
    """Mixed precision: off or bf16."""
    compile: bool = False
    """Compile the model with torch.compile."""
    max_steps: int | None = None
    """Stop after this many batches."""
    dry_run: bool = False
    """Check the command line and stop."""
    fake_data: bool = False
    """Generate a small data set in the real layout and use it."""
    print_config: bool = False
    """Print what would be done as YAML and stop."""

    def __post_init__(self) -> None:
        if self.beam_size_test < 0 or self.beam_size_val < 0:
            raise UserError("beam_size_test and beam_size_val are numbers of beams, expected 0 or more")
        if self.beam_size_test > 0 and self.beam_size_val > 0:
            raise UserError(
                f"beam_size_test {self.beam_size_test} and beam_size_val {self.beam_size_val}: "
                "expected only one of them above 0, since each names a split"
            )
        if self.preset is not None:
            check_one_of("preset", self.preset, PRESETS)

    @property
    def split(self) -> str:
        """The split that is captioned: ``val`` where its beams are given, else ``test``."""
        return "val" if self.beam_size_val > 0 else "test"

    @property
    def beam_size(self) -> int | None:
        """Number of beams; None: the configuration's."""
        return (self.beam_size_val if self.split == "val" else self.beam_size_test) or None


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """``demo``: caption pictures."""

    files: tuple[str, ...] = ()
    """Pictures, or folders of pictures."""
    model: str = ""
    """Model folder or run; empty: the newest run."""
    beam_size: int = 2
    """Beams."""
    output: str = ""
    """Folder for a page of pictures with captions; empty: text only."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    dry_run: bool = False
    """Check the command line and stop."""

    def __post_init__(self) -> None:
        if not self.files:
            raise UserError("demo needs at least one picture: smp-caption demo FILE...")
        check_at_least("beam_size", self.beam_size, 1)


@dataclass(frozen=True, kw_only=True)
class ExtractOptions:
    """``extract``: pictures to region features."""

    images: str = ""
    """Folder of pictures."""
    dataset_json: str = ""
    """Caption file or folder of a data set; statistics come from its training pictures."""
    backbone: str = "resnet20_cifar"
    """resnet20_cifar, timm:NAME or torchvision:NAME."""
    weights: str = ""
    """Local weights file, or pretrained (the library's download); empty: random weights."""
    scales: str = "32:1,64:3,128:5"
    """SIDE:CELLS of each scale: pixels of the resized picture, cells along a side of its grid."""
    boxes: str = ""
    """Folder of boxes, <id>.npy with absolute x1, y1, x2, y2: a region a box, in place of the grid."""
    no_colour: bool = False
    """Leave mean and spread of a cell's colours out."""
    format: str = "npy"
    """npy (the original's folders) or store (memory-mapped shards)."""
    output: str = "features"
    """Folder that is written."""
    batch_size: int = 32
    """Pictures of a batch."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    seed: int = 8888
    """Seed of random weights."""
    dry_run: bool = False
    """Check the command line and stop."""

    def __post_init__(self) -> None:
        if bool(self.images) == bool(self.dataset_json):
            raise UserError("extract needs either --images DIR or --dataset-json FILE")
        check_at_least("batch_size", self.batch_size, 1)
        self.scale_pairs()

    def scale_pairs(self) -> tuple[tuple[int, int], ...]:
        """The scales as (pixels, cells)."""
        try:
            pairs = [part.split(":") for part in self.scales.split(",")]
            return tuple((int(side), int(cells)) for side, cells in pairs)
        except ValueError as error:
            raise UserError(f"scales is {self.scales!r}, expected SIDE:CELLS,SIDE:CELLS,...") from error


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """``convert``: a checkpoint of the original into a model folder of ours."""

    source: str
    """File or run folder of the original."""
    destination: str
    """Model folder that is written."""
    config_file: str = ""
    """The original's config.json; empty: the one beside the source."""
    dry_run: bool = False
    """Say what is recognised and write nothing."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """``export``: a trained model into another format."""

    model: str
    """Model folder or run."""
    format: str = "original"
    """original, sparse, binary (masks rounded), packed or onnx."""
    output: str = ""
    """File or folder that is written; empty: beside the model."""
    dry_run: bool = False
    """Check the command line and stop."""


@dataclass(frozen=True, kw_only=True)
class CollectScoresOptions:
    """``collect-scores``: the scores of many runs in a table for each kind of model."""

    log_dir: str = ""
    """Folder of runs, searched at any depth; empty: PRUNELAB_RUNS, else runs."""
    output: str = ""
    """Folder of the tables; empty: log_dir."""
    dry_run: bool = False
    """Check the command line and stop."""


@dataclass(frozen=True, kw_only=True)
class CollectCaptionsOptions:
    """``collect-captions-plus``: what several runs say of each picture."""

    runs: tuple[str, ...] = ()
    """Runs, or their folders of captions (such as runs/a/test_beam_2)."""
    evaluation: str = "test"
    """First letters of the folder of captions in a run: test, val, test_beam_5."""
    output: str = "captions.csv"
    """Table that is written."""
    show: int = 10
    """Pictures that are printed: those about which the runs' scores differ most."""
    dry_run: bool = False
    """Check the command line and stop."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise UserError("collect-captions-plus needs at least one run: collect-captions-plus RUN...")
        check_at_least("show", self.show, 0)


@dataclass(frozen=True, kw_only=True)
class PlotOptions:
    """``plot-sparsities`` and ``plot-scores``: pictures of finished runs."""

    runs: tuple[str, ...] = ()
    """Runs to compare; of plot-scores: folders that hold runs. None: PRUNELAB_RUNS, else runs."""
    output: str = ""
    """File that is written, .png, .pdf or .svg; empty: sparsities.png or scores.png."""
    score: str = "CIDEr"
    """Score of plot-scores."""
    evaluation: str = "test"
    """First letters of the folder of captions in a run whose scores count."""
    title: str = ""
    """Line above the picture."""
    dry_run: bool = False
    """Check the command line and stop."""
