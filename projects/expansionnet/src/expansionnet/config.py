"""The one truth about a run of expansionnet: frozen dataclasses; `expansionnet.lowering` leads into them.

Field names are those of the original's flags where it has one. Defaults are the original's, with the
quirks of preset ``fixed``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from prunelab.doors import (
    PRESETS,
    Quirks,
    check_above,
    check_at_least,
    check_device,
    check_one_of,
    check_share,
    check_within,
)
from prunelab.errors import UserError

DATASETS = ("karpathy", "own", "tiny")
OPTIMIZERS = ("adam", "radam")
SCHEDULES = ("annealing", "custom_warmup_anneal")
BASELINES = ("average", "greedy")
SCORING = ("rescored", "original")
AMP = ("off", "bf16")


@dataclass(frozen=True, kw_only=True)
class SwinConfig:
    """The backbone, a Swin transformer."""

    img_size: int = 384
    """Side of the pictures, in pixels."""
    patch_size: int = 4
    """Side of a patch."""
    embed_dim: int = 192
    """Width of the first stage; every later one is twice as wide."""
    depths: tuple[int, ...] = (2, 2, 18, 2)
    """Blocks of each stage."""
    num_heads: tuple[int, ...] = (6, 12, 24, 48)
    """Attention heads of each stage."""
    window_size: int = 12
    """Side of the attention windows, in tokens."""
    mlp_ratio: float = 4.0
    """Hidden width of a block over its width."""
    drop_path_rate: float = 0.1
    """Greatest rate at which training skips a block; it grows linearly with depth."""

    def __post_init__(self) -> None:
        if len(self.depths) != len(self.num_heads):
            raise UserError(
                f"depths has {len(self.depths)} stages and num_heads {len(self.num_heads)}, expected as many"
            )
        for name in ("img_size", "patch_size", "embed_dim", "window_size"):
            check_at_least(name, getattr(self, name), 1)
        whole = self.patch_size * 2 ** (len(self.depths) - 1)
        if self.img_size % whole:
            raise UserError(f"img_size is {self.img_size}, expected a multiple of {whole}")
        check_above("mlp_ratio", self.mlp_ratio, 0)
        check_share("drop_path_rate", self.drop_path_rate)

    @property
    def width(self) -> int:
        """Width of a token of the last stage."""
        return self.embed_dim * 2 ** (len(self.depths) - 1)

    @property
    def tokens(self) -> int:
        """Tokens of a picture after the last stage."""
        return (self.img_size // (self.patch_size * 2 ** (len(self.depths) - 1))) ** 2


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The captioning body."""

    is_end_to_end: bool = True
    """Whether the backbone is part of the model; else it reads features."""
    model_dim: int = 512
    """Width D."""
    N_enc: int = 3
    """Encoder layers."""
    N_dec: int = 3
    """Decoder layers."""
    ff: int = 2048
    """Hidden width of the feed-forward blocks."""
    num_heads: int = 8
    """Heads of the cross attention."""
    num_exp_enc_list: tuple[int, ...] = (32, 64, 128, 256, 512)
    """Sizes of the groups of static expansion vectors; their sum is P."""
    num_exp_dec: int = 16
    """Dynamic expansion vectors E of each token."""
    img_feature_dim: int = 1536
    """Width of a visual token; end to end, that of the backbone."""
    max_seq_len: int = 0
    """Positions of the decoder; 0: those of the longest training caption and 20 more (74 for COCO)."""
    vocab_size: int = 0
    """Words V; 0: those of the vocabulary (10,000 for COCO)."""
    layer_norm_eps: float = 1e-5
    """Epsilon of all layer norms."""
    expansion_eps: float = 1e-9
    """Epsilon of the expansion's sums."""
    enc_drop: float = 0.1
    """Dropout of the encoder layers."""
    dec_drop: float = 0.1
    """Dropout of the decoder layers."""
    enc_input_drop: float = 0.1
    """Dropout of the projected visual tokens."""
    dec_input_drop: float = 0.1
    """Dropout of the word embeddings, before they are scaled."""
    drop_other: float = 0.1
    """Dropout of the joined outputs of all layers."""
    swin: SwinConfig = field(default_factory=SwinConfig)
    """The backbone: of the model itself, or the one whose features it reads."""

    def __post_init__(self) -> None:
        for name in ("model_dim", "N_enc", "N_dec", "ff", "num_heads", "num_exp_dec", "img_feature_dim"):
            check_at_least(name, getattr(self, name), 1)
        for name in ("max_seq_len", "vocab_size"):
            check_at_least(name, getattr(self, name), 0)
        for name in ("enc_drop", "dec_drop", "enc_input_drop", "dec_input_drop", "drop_other"):
            check_share(name, getattr(self, name))
        for name in ("layer_norm_eps", "expansion_eps"):
            check_above(name, getattr(self, name), 0)
        if self.model_dim % self.num_heads:
            raise UserError(
                f"model_dim is {self.model_dim}, expected a multiple of num_heads, which is {self.num_heads}"
            )
        if not self.num_exp_enc_list or min(self.num_exp_enc_list) < 1:
            raise UserError(
                f"num_exp_enc_list is {list(self.num_exp_enc_list)}, expected sizes of at least 1"
            )
        if self.is_end_to_end and self.img_feature_dim != self.swin.width:
            raise UserError(
                f"img_feature_dim is {self.img_feature_dim}, expected the backbone's {self.swin.width}"
            )


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Captions, pictures and features."""

    dataset: str = "karpathy"
    """``karpathy`` (``dataset_*.json`` in captions_path), ``own`` (``captions.json`` there) or the generated
    ``tiny``."""
    captions_path: str = "./github_ignore_material/raw_data/"
    """Folder of the captions, or their file."""
    images_path: str = "./github_ignore_material/raw_data/"
    """Folder of the pictures."""
    features_path: str = "./github_ignore_material/raw_data/"
    """Features of the pictures: an HDF5 file, a feature store, or a folder of NumPy files."""
    preproc_images_hdf5_filepath: str | None = None
    """HDF5 of prepared pictures, named ``<id>_img``; they take the place of images_path."""
    vocab_path: str | None = None
    """Vocabulary: a ``vocabulary.json``, a published pickle, or a model folder; None: that of the training
    captions, or of the weights that training starts from."""
    dict_min_occurrences: int = 5
    """Words that training captions hold less often are UNK."""
    limited_num_val_images: int = 5000
    """Validation pictures that are used at most."""
    batch_size: int = 64
    """Samples of a micro-batch, of all processes together."""
    eval_parallel_batch_size: int = 16
    """Pictures of an evaluation batch, in each process."""
    workers: int = 2
    """Processes that load samples, for each training process; 0: the training process itself."""
    fake_data: bool = False
    """Generate a small data set in the real layout and use it."""

    def __post_init__(self) -> None:
        check_one_of("dataset", self.dataset, DATASETS)
        for name in ("dict_min_occurrences", "limited_num_val_images", "batch_size"):
            check_at_least(name, getattr(self, name), 1)
        check_at_least("eval_parallel_batch_size", self.eval_parallel_batch_size, 1)
        check_at_least("workers", self.workers, 0)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Loss and optimisation."""

    optim_type: str = "adam"
    """``adam`` or ``radam`` (the paper's variant)."""
    sched_type: str = "custom_warmup_anneal"
    """``annealing`` or ``custom_warmup_anneal``; the original has no default that works."""
    lr: float = 2e-4
    """Learning rate."""
    min_lr: float = 5e-7
    """Least learning rate after the warm-up, of ``custom_warmup_anneal``."""
    warmup_iters: int = 4000
    """Micro-batches of the warm-up."""
    anneal_coeff: float = 0.8
    """Factor of the learning rate, of ``custom_warmup_anneal``; ``annealing`` always takes 0.8."""
    anneal_every_epoch: float = 3.0
    """Epochs between two factors."""
    num_accum: int = 1
    """Micro-batches whose gradients are summed for an update."""
    num_epochs: int = 5
    """Passes over the training split."""
    label_smoothing: float = 0.1
    """Share of the target that all other words get, of the cross entropy."""

    def __post_init__(self) -> None:
        check_one_of("optim_type", self.optim_type, OPTIMIZERS)
        check_one_of("sched_type", self.sched_type, SCHEDULES)
        for name in ("lr", "anneal_coeff", "anneal_every_epoch"):
            check_above(name, getattr(self, name), 0)
        for name in ("min_lr", "warmup_iters"):
            check_at_least(name, getattr(self, name), 0)
        for name in ("num_accum", "num_epochs"):
            check_at_least(name, getattr(self, name), 1)
        check_share("label_smoothing", self.label_smoothing)


@dataclass(frozen=True, kw_only=True)
class ScstConfig:
    """Self-critical training."""

    reinforce: bool = False
    """Train by reward; else by cross entropy."""
    scst_max_len: int = 20
    """Most words of a sample, the end included."""
    num_samples: int = 5
    """Samples of each picture."""
    baseline: str = "average"
    """What a reward is compared with: the ``average`` of the picture's other samples, or its ``greedy``
    caption's reward."""
    end_in_reward: bool = True
    """The end of a caption is a word of it when rewards are computed (STANDARD of SacreEOS), which keeps
    captions from breaking off."""
    scoring: str = "rescored"
    """``rescored``: samples are drawn without gradients and scored by one forward pass. ``original``: the
    gradients of every step of the sampling are kept."""
    sample_mode: str = "eval"
    """The decoder's dropout while samples are drawn: ``train`` (on; the original) or ``eval`` (off)."""

    def __post_init__(self) -> None:
        check_at_least("scst_max_len", self.scst_max_len, 1)
        check_at_least("num_samples", self.num_samples, 1 if self.baseline == "greedy" else 2)
        check_one_of("baseline", self.baseline, BASELINES)
        check_one_of("scoring", self.scoring, SCORING)
        check_one_of("sample_mode", self.sample_mode, ("train", "eval"))
        if self.scoring == "rescored" and self.sample_mode == "train":
            raise UserError("sample_mode is train, expected eval with scoring rescored")


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """Decoding in evaluation."""

    eval_beam_sizes: tuple[int, ...] = (3,)
    """Beams; each size is evaluated."""
    max_len: int = 0
    """Most words of a caption, its start and end included; 0: the model's positions, or the original's 20 in
    self-critical training."""
    suppress_unk: bool = True
    """Captions never hold UNK."""

    def __post_init__(self) -> None:
        if not self.eval_beam_sizes or min(self.eval_beam_sizes) < 1:
            raise UserError(
                f"eval_beam_sizes is {list(self.eval_beam_sizes)}, expected numbers of at least 1"
            )
        if self.max_len:
            check_at_least("max_len", self.max_len, 2)
        check_at_least("max_len", self.max_len, 0)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where a run is written and when, what it starts from, and on which machine."""

    save_path: str = "./github_ignore_material/saves/"
    """Folder of the original's checkpoints; each kind of run has a folder of its own in it."""
    output: str = ""
    """The run's folder; empty: the one in save_path that belongs to the kind of run."""
    seed: int = 1234
    """Seed of everything random."""
    preset: str = "fixed"
    """``faithful`` (the original's quirks) or ``fixed``; where single quirks are set, they win."""
    partial_load: bool = False
    """Reading features: start from body_save_path."""
    backbone_save_path: str = ""
    """Weights of the backbone: a published Swin, a checkpoint or a model folder."""
    body_save_path: str = ""
    """Weights of the body (and of the backbone, where it holds them): a checkpoint or a model folder."""
    resume: bool = False
    """Go on with the run that the folder holds, bit for bit."""
    max_steps: int | None = None
    """Stop after this many micro-batches; schedules are not shortened."""
    num_gpus: int = 1
    """Processes that the original starts; ours are started by torchrun."""
    ddp_sync_port: int = 12354
    """The original's port; torchrun chooses its own."""
    save_every_minutes: float = 25
    """Minutes between two checkpoints."""
    how_many_checkpoints: int = 1
    """Checkpoints that are kept beside the best."""
    print_every_iter: int = 1000
    """Micro-batches between two lines of the log."""
    eval_every_iter: int = 999999
    """Micro-batches between two evaluations, besides those after each epoch."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    amp: str = "off"
    """Mixed precision: ``off`` or ``bf16``."""
    compile: bool = False
    """Compile the network with torch.compile."""
    channels_last: bool = False
    """Keep pictures with channels as the last axis in memory."""
    dry_run: bool = False
    """Check the configuration and stop before data are read."""
    tour: bool = False
    """Train a small captioner on generated pictures through all phases and print a table."""

    def __post_init__(self) -> None:
        check_one_of("preset", self.preset, PRESETS)
        check_one_of("amp", self.amp, AMP)
        check_device(self.device)
        for name in ("how_many_checkpoints", "print_every_iter", "eval_every_iter", "num_gpus"):
            check_at_least(name, getattr(self, name), 1)
        check_above("save_every_minutes", self.save_every_minutes, 0)
        check_within("ddp_sync_port", self.ddp_sync_port, 0, 65535)
        if self.max_steps is not None:
            check_at_least("max_steps", self.max_steps, 1)


@dataclass(frozen=True, kw_only=True)
class QuirkConfig(Quirks):
    """Behaviours of the original that change numbers and are in no other group: True is its way."""

    black_pictures: bool = False
    """A picture that is not RGB is replaced by a black one, and none is turned upright as its EXIF data says;
    else pictures are converted and turned."""
    lenient_captions: bool = False
    """Of the caption file, entries of unknown splits are left out, and of two entries of a split with the
    same id the later one takes the place of the earlier; else both are refused."""
    first_step_alone: bool = False
    """Updates happen after micro-batches 1, 1 + num_accum, 1 + 2 num_accum, ..., and what is left at the end
    is dropped; else after every num_accum, and after the last."""
    mean_of_means: bool = False
    """Of several processes, each divides its loss by its own number of words (or samples); else by the number
    of all, so that every word counts alike."""
    drop_last_word: bool = False
    """Evaluation drops a caption's last word also where the length limit cut it off; else only the end."""
    start_in_validation_loss: bool = False
    """The validation loss is divided by a number of words that counts the start; else by those predicted."""
    original_order: bool = False
    """Samples come in the order of the original's loader; else in that of a sampler that any number of
    processes shares."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that decides what a run does."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The network."""
    data: DataConfig = field(default_factory=DataConfig)
    """The data set and batches."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Loss and optimisation."""
    scst: ScstConfig = field(default_factory=ScstConfig)
    """Self-critical training."""
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    """Decoding in evaluation."""
    run: RunOptions = field(default_factory=RunOptions)
    """The run itself."""
    quirks: QuirkConfig = field(default_factory=QuirkConfig)
    """The original's quirks, one by one."""
