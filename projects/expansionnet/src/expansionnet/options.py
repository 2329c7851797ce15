"""What the commands besides ``train`` are asked to do, as plain data with checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from expansionnet.config import AMP, SwinConfig
from prunelab.doors import PRESETS, check_at_least, check_device, check_one_of, check_within
from prunelab.errors import UserError

SPLITS = ("val", "test")
METRICS = ("CIDEr", "BLEU", "ROUGE_L", "METEOR", "SPICE")
DTYPES = ("fp32", "fp16")
EXPORT_FORMATS = ("onnx", "original")
ORIGINAL_OPSET, LEAST_OPSET = 14, 18
"""Versions of ONNX's operators: the original's, and the oldest that torch's exporter writes."""


@dataclass(frozen=True, kw_only=True)
class TestOptions:
    """``test``: caption splits of a data set and score the captions."""

    __test__ = False  # not a class of tests, whatever its name

    save_model_path: str = ""
    """Checkpoint, model folder or run; of an ensemble the folder of its models; empty: the newest run."""
    is_ensemble: bool = False
    """Average the predictions of all models in save_model_path."""
    show_predictions: bool = False
    """Write the captions beside their references to predictions.txt."""
    splits: tuple[str, ...] = SPLITS
    """Splits that are captioned: val, test."""
    metrics: tuple[str, ...] = METRICS[:3]
    """Scores: CIDEr, BLEU, ROUGE_L; METEOR and SPICE need Java."""
    server_name: str = ""
    """Name of a method: captions are also written as the files that COCO's evaluation server takes."""
    constant: bool = False
    """Score the best constant caption of the training pictures in place of a model."""
    output: str = ""
    """Folder for captions and scores; empty: beside the model."""
    max_steps: int | None = None
    """Stop each split after this many batches."""
    dry_run: bool = False
    """Check the command line and stop."""
    print_config: bool = False
    """Print the configuration as YAML and stop."""
    original: bool = False
    """Whether the model was named as the original names it, which means its quirks."""
    typed: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the configuration that were typed; see `expansionnet.lowering.lower_test`."""

    def __post_init__(self) -> None:
        if not self.splits:
            raise UserError(f"splits is empty, expected some of {', '.join(SPLITS)}")
        for split in self.splits:
            check_one_of("splits", split, SPLITS)
        for metric in self.metrics:
            check_one_of("metrics", metric, METRICS)
        if self.max_steps is not None:
            check_at_least("max_steps", self.max_steps, 1)


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """``demo``: caption pictures."""

    files: tuple[str, ...] = ()
    """Pictures, or folders of pictures; none: some test pictures of the run's own data set."""
    load_path: str = ""
    """Checkpoint, model folder or run; empty: the newest run's best model."""
    backbone: str = ""
    """Weights of the backbone, for a model that reads features."""
    vocab_path: str = ""
    """Vocabulary of a checkpoint that has none: vocabulary.json, a published pickle, or a model folder."""
    beam_size: int = 5
    """Beams."""
    max_len: int = 0
    """Most words of a caption, its start and end included; 0: the model's positions."""
    json: str = ""
    """File for the captions as JSON; - prints them so."""
    output: str = ""
    """Folder for a page and a picture of pictures with captions; empty: text only."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    preset: str = "fixed"
    """faithful (a picture that is not RGB is black, captions may hold UNK) or fixed."""
    dry_run: bool = False
    """Check the command line and stop."""
    typed: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the model that were typed, for a checkpoint that does not tell them."""

    def __post_init__(self) -> None:
        check_at_least("beam_size", self.beam_size, 1)
        check_at_least("max_len", self.max_len, 0)
        check_one_of("preset", self.preset, PRESETS)
        check_device(self.device)


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """``data-generator``: compute the backbone's features of the pictures of a data set."""

    save_model_path: str = ""
    """Weights of the backbone: a published Swin, a checkpoint with one, a model folder or a run."""
    output_path: str = "./github_ignore_material/raw_data/precalc_features.hdf5"
    """What is written: an HDF5 file where the name ends in .hdf5 or .h5, else a feature store, a folder."""
    images_path: str = ""
    """Folder of the pictures; empty: images in the system's folder of temporary files, as in the original."""
    captions_path: str = "./github_ignore_material/raw_data/"
    """Folder of the captions, or their file."""
    dtype: str = "fp32"
    """fp32, or fp16 in half the space."""
    dataset: str = "karpathy"
    """karpathy, own or tiny."""
    batch_size: int = 8
    """Pictures of a batch, in each process."""
    workers: int = 2
    """Processes that read pictures, for each process; 0: the process itself."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    amp: str = "off"
    """Mixed precision: off or bf16."""
    compile: bool = False
    """Compile the backbone with torch.compile."""
    channels_last: bool = False
    """Keep pictures with channels as the last axis in memory."""
    resume: bool = False
    """Go on with an unfinished output of the same backbone."""
    max_steps: int | None = None
    """Stop after this many batches; --resume goes on."""
    fake_data: bool = False
    """Generate a small data set in the real layout and use it."""
    random_weights: bool = False
    """Use a backbone without trained weights, and keep it beside the features, in OUTPUT_PATH.backbone."""
    seed: int = 1234
    """Seed of such weights."""
    preset: str = "faithful"
    """faithful (a picture that is not RGB is black) or fixed."""
    dry_run: bool = False
    """Check the command line and stop."""
    swin: SwinConfig = field(default_factory=SwinConfig)
    """The backbone's sizes; the weights' own, where they tell them."""

    def __post_init__(self) -> None:
        check_one_of("dtype", self.dtype, DTYPES)
        check_one_of("preset", self.preset, PRESETS)
        check_one_of("amp", self.amp, AMP)
        check_at_least("batch_size", self.batch_size, 1)
        check_at_least("workers", self.workers, 0)
        check_device(self.device)
        if self.max_steps is not None:
            check_at_least("max_steps", self.max_steps, 1)


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """``convert``: a published file into a model folder of ours."""

    source: str
    """Checkpoint or ensemble member of the original, Swin of Microsoft or timm, vocabulary pickle, or a
    folder."""
    destination: str
    """Model folder (of a vocabulary: file) that is written."""
    vocab_path: str = ""
    """Vocabulary of a checkpoint that has none: vocabulary.json, a published pickle, a model folder, or the
    captions that it was trained on."""
    dict_min_occurrences: int = 5
    """Words that training captions hold less often are UNK, where a vocabulary is made of captions."""
    preset: str = "fixed"
    """faithful or fixed: how the model is going to caption."""
    dry_run: bool = False
    """Say what is recognised and write nothing."""
    typed: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the model that were typed, for what a checkpoint does not tell."""

    def __post_init__(self) -> None:
        check_one_of("preset", self.preset, PRESETS)


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """``export``: a trained model in another format."""

    model: str = ""
    """Checkpoint, model folder or run; empty: the newest run's best model."""
    format: str = "onnx"
    """onnx (a graph of the encoder and one of a decoder's step) or original (its checkpoint)."""
    output: str = ""
    """Folder of the ONNX files, or the checkpoint's file; empty: beside the model."""
    onnx_opset: int = LEAST_OPSET
    """Version of ONNX's operators; for those before 18, which the exporter does not write, 18 is taken."""
    onnx_simplify: bool = False
    """Compute what is constant in the graphs, which makes them smaller; the numbers stay."""
    beam_size: int = 3
    """Beams of the captions that are compared."""
    pictures: tuple[str, ...] = ()
    """Pictures on which the export is verified; none: generated ones."""
    vocab_path: str = ""
    """Vocabulary of a checkpoint that has none."""
    dry_run: bool = False
    """Check the command line and stop."""
    typed: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the model that were typed, for a checkpoint that does not tell them."""

    def __post_init__(self) -> None:
        check_one_of("format", self.format, EXPORT_FORMATS)
        check_within("onnx_opset", self.onnx_opset, ORIGINAL_OPSET, 25)
        check_at_least("beam_size", self.beam_size, 1)


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """``onnx2tensorrt``: TensorRT engines from exported ONNX files."""

    onnx_path: str = "./rf_model.onnx"
    """Folder that export wrote."""
    engine_path: str = "./model_engine.trt"
    """Engine of the encoder; that of the decoder's step is called -step beside it."""
    data_type: str = "fp32"
    """fp32 or fp16."""
    max_pictures: int = 8
    """Most pictures at a time."""
    max_beams: int = 5
    """Most beams of a picture."""
    dry_run: bool = False
    """Check the command line and stop."""

    def __post_init__(self) -> None:
        check_one_of("data_type", self.data_type, DTYPES)
        check_at_least("max_pictures", self.max_pictures, 1)
        check_at_least("max_beams", self.max_beams, 1)
