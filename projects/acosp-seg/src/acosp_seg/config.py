"""The one truth about a run of acosp-seg: frozen dataclasses; `acosp_seg.lowering` leads into them.

Field names are the keys of the original's YAML files, with four exceptions: ``output`` (its ``save_path``),
``seed`` (``manual_seed``), ``resume_from`` (``resume``, a file there, while ours goes on with a run) and the
lists of numbers, which are tuples. Defaults are those of the original's first configuration, PSPNet-50 on
ADE20K, except that quirks are off (``fixed``): files of the original turn them on.
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
    check_order,
    check_share,
    check_within,
)
from prunelab.errors import UserError

ARCHS = ("psp", "segnet", "resnet18")
DATASETS = ("ade20k", "voc2012", "cityscapes", "camvid", "cifar10", "tiny", "folder")
SPLITS = ("train", "val", "test")
OPTIMISERS = ("sgd", "adam")
SCHEDULES = ("poly", "cosine", "cosine_epoch")
ZOOMS = (1, 2, 4, 8)
AMP = ("off", "bf16")
STRIDE = 8
"""Output stride of PSPNet, whose inputs have sides 8n + 1."""


def _fits_stride(name: str, size: int) -> None:
    if (size - 1) % STRIDE:
        below = (size - 1) // STRIDE * STRIDE + 1
        raise UserError(
            f"{name} is {size}, expected 8n + 1 for PSPNet: the nearest are {below} and {below + STRIDE}"
        )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network."""

    arch: str = "psp"
    """``psp`` (PSPNet), ``segnet``, or ``resnet18`` (a classifier of 32x32 pictures)."""
    layers: int | None = 50
    """Depth of PSPNet's ResNet trunk: 50 (published), 101 or 152. Of no meaning for the others."""
    classes: int = 150
    """Number of classes K; labels are 0 to K - 1."""
    zoom_factor: int = 8
    """How much larger PSPNet's main output is than its features: 1, 2, 4 or 8."""
    dropout: float = 0.1
    """Share of whole feature maps that PSPNet's heads drop in training."""
    bins: tuple[int, ...] = (1, 2, 3, 6)
    """Sides of the grids of PSPNet's pyramid pooling; none: no pyramid."""
    width: int = 64
    """Channels of the first stage, by which all others scale: 64 is published, less is a tiny twin."""
    pretrained: str = ""
    """File of initial weights for the trunk or encoder; empty: random weights."""

    def __post_init__(self) -> None:
        check_one_of("arch", self.arch, ARCHS)
        if self.arch == "psp":
            check_one_of("layers", self.layers, (50, 101, 152))
        check_at_least("classes", self.classes, 2)
        check_one_of("zoom_factor", self.zoom_factor, ZOOMS)
        check_share("dropout", self.dropout)
        check_at_least("width", self.width, 1)
        if min(self.bins, default=1) < 1:
            raise UserError(f"bins is {self.bins}, expected whole numbers from 1 on")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The data set, random changes of training pictures, and batches."""

    dataset: str = "ade20k"
    """A data set by name, the embedded ``tiny``, or ``folder`` (own pictures)."""
    data_root: str = "/data/ade20k"
    """Folder that the paths in list files start from."""
    train_list: str = "/data/ade20k/list/training.txt"
    """File of training pairs, ``picture label`` a line."""
    val_list: str = "/data/ade20k/list/validation.txt"
    """File of pairs that are evaluated after each epoch, with ``evaluate``."""
    test_list: str = "/data/ade20k/list/validation.txt"
    """File of what ``test`` predicts: pairs, or pictures alone with split ``test``."""
    split: str = "val"
    """What test_list is: ``val`` or ``train`` have labels, ``test`` has none."""
    names_path: str = "data/ade20k/ade20k_names.txt"
    """Class names, one a line; empty: the data set's."""
    colors_path: str = "data/ade20k/ade20k_colors.txt"
    """Class colours, three numbers a line; empty: the data set's."""
    ignore_label: int = 255
    """Label of pixels without a class, left out of loss and metrics."""
    train_h: int = 473
    """Height of training crops, in pixels."""
    train_w: int = 473
    """Width of training crops, in pixels."""
    scale_min: float = 0.5
    """Least factor of the random resize."""
    scale_max: float = 2.0
    """Greatest factor of the random resize."""
    rotate_min: float = -10.0
    """Least angle of the random rotation, in degrees."""
    rotate_max: float = 10.0
    """Greatest angle of the random rotation, in degrees."""
    batch_size: int = 16
    """Pictures of a training step, all processes together."""
    batch_size_val: int = 8
    """Pictures of a validation batch, all processes together."""
    workers: int = 16
    """Processes that load pictures, all training processes together; 0: the training process itself."""
    fake_data: bool = False
    """Generate a small data set in the real layout and use it in place of data_root."""
    check_labels: int = 200
    """Label files whose values are looked at before the first step; 0: none, -1: all."""

    def __post_init__(self) -> None:
        check_one_of("dataset", self.dataset, DATASETS)
        check_one_of("split", self.split, SPLITS)
        for name in ("train_h", "train_w", "batch_size", "batch_size_val"):
            check_at_least(name, getattr(self, name), 1)
        check_at_least("workers", self.workers, 0)
        check_at_least("check_labels", self.check_labels, -1)
        check_within("ignore_label", self.ignore_label, 0, 255)
        check_above("scale_min", self.scale_min, 0)
        check_order("scale_min", self.scale_min, "scale_max", self.scale_max)
        check_order("rotate_min", self.rotate_min, "rotate_max", self.rotate_max)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Loss, optimiser and schedule."""

    optimiser: str = "sgd"
    """``sgd`` with momentum, or ``adam`` (the classifier's)."""
    base_lr: float = 0.01
    """First learning rate."""
    epochs: int = 100
    """Passes over the training pictures."""
    start_epoch: int = 0
    """Index of the first epoch, from 0."""
    lr_schedule: str = "poly"
    """``poly`` or ``cosine`` (both a step), or ``cosine_epoch`` (set once an epoch)."""
    power: float = 0.9
    """Exponent of ``poly``."""
    momentum: float = 0.9
    """Momentum of ``sgd``."""
    weight_decay: float = 0.0001
    """L2 weight decay, of everything: biases, BatchNorm and mask logits too."""
    head_factor: float = 10.0
    """How much faster PSPNet's pyramid and heads learn than its trunk."""
    aux_weight: float = 0.4
    """Weight of the auxiliary head's loss; SegNet has no such head."""
    sync_bn: bool = True
    """Take BatchNorm's statistics over all processes; of no meaning in one."""

    def __post_init__(self) -> None:
        check_one_of("optimiser", self.optimiser, OPTIMISERS)
        check_one_of("lr_schedule", self.lr_schedule, SCHEDULES)
        check_at_least("epochs", self.epochs, 1)
        check_at_least("start_epoch", self.start_epoch, 0)
        for name in ("base_lr", "power", "weight_decay", "aux_weight", "head_factor"):
            check_at_least(name, getattr(self, name), 0)
        check_share("momentum", self.momentum)


@dataclass(frozen=True, kw_only=True)
class PruneConfig:
    """How channels are pruned while the network trains."""

    sparsity: float = 0.0
    """Share of every masked convolution's channels that is removed; 0: no masks."""
    starting_epoch: int = 0
    """Last epoch whose end leaves the temperature at its first value."""
    ending_epoch: int = 0
    """Epoch at whose start soft masks become masks of 0 and 1."""
    learnable_weights: bool = True
    """Learn which channels stay; False: a random choice that is only cooled down."""
    refill_pruned: bool = False
    """Give pruned filters new random weights when masks become hard, and go on without masks."""
    min_remaining_elements: int = 8
    """Least number of channels that a layer keeps (all of them, where it has fewer)."""
    initial_temp: float = 1.0
    """First temperature of the soft masks."""
    final_temp: float = 0.001
    """Temperature towards which they cool."""
    slim_after_pruning: bool = False
    """Train on in a network that has only the kept channels, from ending_epoch on."""

    def __post_init__(self) -> None:
        check_share("sparsity", self.sparsity)
        for name in ("starting_epoch", "ending_epoch"):
            check_at_least(name, getattr(self, name), 0)
        check_at_least("min_remaining_elements", self.min_remaining_elements, 1)
        check_above("final_temp", self.final_temp, 0)
        check_order("final_temp", self.final_temp, "initial_temp", self.initial_temp)
        if self.sparsity > 0:
            check_order("starting_epoch", self.starting_epoch, "ending_epoch", self.ending_epoch)
        if self.slim_after_pruning and self.refill_pruned:
            raise UserError("slim_after_pruning does not go with refill_pruned, which prunes nothing")

    @property
    def active(self) -> bool:
        """Whether the network gets masks at all."""
        return self.sparsity > 0


@dataclass(frozen=True, kw_only=True)
class TestConfig:
    """Prediction of whole pictures by a sliding window, and its files."""

    __test__ = False  # not a class of tests, whatever its name

    base_size: int = 512
    """Longer side that a picture is resized to at scale 1, in pixels."""
    test_h: int = 473
    """Height of a window."""
    test_w: int = 473
    """Width of a window."""
    scales: tuple[float, ...] = (1.0,)
    """Factors of base_size whose predictions are averaged."""
    flip: bool = True
    """Average with the prediction for the mirrored window."""
    stride_rate: float = 2 / 3
    """Step from window to window, as a share of its side."""
    window_batch: int = 0
    """Windows that go through the network together, mirrored ones not counted; 0: as many as its size and
    the machine's memory make fast."""
    has_prediction: bool = False
    """Score the pictures that save_folder holds already, and run no network."""
    index_start: int = 0
    """First line of test_list, from 0."""
    index_step: int = 0
    """Number of its lines; 0: to the end."""
    model_path: str = "/logs/exp/ade20k/pspnet50/model/train_epoch_100.pth"
    """Checkpoint of the original or of ours: a file, or a folder (a model or a run)."""
    save_folder: str = "/logs/exp/ade20k/pspnet50/result/epoch_100/val/ss"
    """Where ``gray`` and ``color`` pictures go."""
    calc_results: bool = True
    """Score the predictions."""
    result_path: str = "/logs/exp/evals/ade20k_pspnet50_0.csv"
    """CSV file of IoU and accuracy by class."""
    sparse: bool = False
    """The checkpoint has masks; it is looked at anyway, so this changes nothing."""
    demo_save_path: str = ""
    """Where the original's demo tool puts its pictures."""

    def __post_init__(self) -> None:
        for name in ("base_size", "test_h", "test_w"):
            check_at_least(name, getattr(self, name), 1)
        for name in ("index_start", "index_step", "window_batch"):
            check_at_least(name, getattr(self, name), 0)
        if not self.scales or min(self.scales) <= 0:
            raise UserError(f"scales is {self.scales}, expected numbers above 0")
        if not 0 < self.stride_rate <= 1:
            raise UserError(f"stride_rate is {self.stride_rate}, expected 0 < stride_rate <= 1")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where a run lives, what it writes and when, and on which machine."""

    output: str = ""
    """The run's folder; empty: a folder of the model's name among the runs."""
    seed: int = 0
    """Seed of everything random."""
    resume: bool = False
    """Go on with the run that the folder holds, bit for bit."""
    resume_from: str = ""
    """Checkpoint of the original to go on from: its weights, optimiser and epoch."""
    weight: str = ""
    """Checkpoint whose weights a new run starts from."""
    evaluate: bool = False
    """Evaluate val_list after each epoch."""
    print_freq: int = 10
    """Steps between two lines of the log."""
    save_freq: int = 10
    """Epochs between two checkpoints."""
    keep_last: int = 2
    """Checkpoints that are kept beside the best."""
    original_files: bool = False
    """Also write the original's ``train_epoch_N.pth``, every save_freq epochs and at the end."""
    max_steps: int | None = None
    """Stop after this many steps (``train``) or pictures (``test``); schedules are not shortened."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    amp: str = "off"
    """Mixed precision: ``off`` or ``bf16``."""
    compile: bool = False
    """Compile the network with torch.compile."""
    channels_last: bool = False
    """Keep pictures and features with channels as the last axis in memory."""
    dry_run: bool = False
    """Check the configuration and stop before data are read."""
    tour: bool = False
    """Train dense and pruned on embedded data, evaluate, export and print a table."""
    preset: str = "fixed"
    """``faithful`` (the original's quirks) or ``fixed``; where single quirks are set, they win."""
    train_gpu: tuple[int, ...] = (0, 1, 2, 3)
    """GPUs of a training; the launch file starts a process for each of those that exist."""
    test_gpu: tuple[int, ...] = (0,)
    """GPUs of a test; the launch file shows the first of them to it."""
    multiprocessing_distributed: bool = True
    """The original's; processes are started by torchrun, which knows better."""
    dist_url: str = "tcp://127.0.0.1:6789"
    """The original's; torchrun says where processes meet."""
    dist_backend: str = "nccl"
    """The original's; nccl on GPUs and gloo elsewhere."""
    world_size: int = 1
    """The original's; torchrun says how many processes there are."""
    rank: int = 0
    """The original's; torchrun numbers the processes."""

    def __post_init__(self) -> None:
        for name in ("print_freq", "save_freq", "keep_last"):
            check_at_least(name, getattr(self, name), 1)
        check_one_of("amp", self.amp, AMP)
        check_one_of("preset", self.preset, PRESETS)
        if self.max_steps is not None:
            check_at_least("max_steps", self.max_steps, 1)
        check_device(self.device)


@dataclass(frozen=True, kw_only=True)
class QuirkConfig(Quirks):
    """Behaviours of the original that change numbers: True is the original's way, False ours."""

    temperature_lag: bool = False
    """An epoch uses the temperature of the one before, so that the final one is never used."""
    stored_mask: bool = False
    """Evaluation and hard masks use the mask of the last training forward; else one made from the logits
    as they are."""
    ending_zero_keeps_all: bool = False
    """``ending_epoch: 0`` makes hard masks before any training, which keep all channels; else an error."""
    void_in_metrics: bool = False
    """The final scores take 255 for the void label whatever ignore_label says, and label K for the last
    class: void pixels count against the scores of CamVid. Else void pixels are left out."""
    void_below_classes: bool = False
    """An ignore_label among the classes counts void pixels as right ones in scores; else an error."""
    refill_freezes: bool = False
    """After refill_pruned the convolutions never train again; else they do."""
    demo_last_scale: bool = False
    """The demo tool shows the prediction of the last scale; else the mean over all scales."""
    names_cut_at_dot: bool = False
    """Files of predictions are named up to the picture's first dot; else only the ending is dropped."""
    loss_per_sample: bool = False
    """The classifier's log divides the sum of its batches' mean losses by the number of pictures; else by
    that of batches."""
    best_may_be_soft: bool = False
    """The classifier's best model may come from before its masks are hard; else only from after that."""
    end_stays_soft: bool = False
    """The classifier's masks stay soft where ending_epoch is not reached; else the end makes them hard."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that decides what a run does."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The network."""
    data: DataConfig = field(default_factory=DataConfig)
    """The data set and batches."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Loss and optimisation."""
    prune: PruneConfig = field(default_factory=PruneConfig)
    """Pruning."""
    test: TestConfig = field(default_factory=TestConfig)
    """Prediction and scores."""
    run: RunOptions = field(default_factory=RunOptions)
    """The run itself."""
    quirks: QuirkConfig = field(default_factory=QuirkConfig)
    """The original's quirks, one by one."""

    def __post_init__(self) -> None:
        if self.model.arch == "psp":
            for name in ("train_h", "train_w"):
                _fits_stride(name, getattr(self.data, name))
            for name in ("test_h", "test_w"):
                _fits_stride(name, getattr(self.test, name))
            if self.data.batch_size < 2:
                raise UserError(
                    f"batch_size is {self.data.batch_size}, expected at least 2 for PSPNet, whose pyramid "
                    "normalises over single pixels"
                )
        # What keeps all channels is that the mask stored so far is one of ones.
        keeps_all = self.quirks.ending_zero_keeps_all and self.quirks.stored_mask
        if self.prune.active and self.prune.ending_epoch == 0 and not keeps_all:
            raise UserError(
                f"ending_epoch is 0 with sparsity {self.prune.sparsity}, expected at least 1: masks made "
                "before any training keep all channels (preset faithful does just that)"
            )
        if self.data.ignore_label < self.model.classes and not self.quirks.void_below_classes:
            raise UserError(
                f"ignore_label is {self.data.ignore_label}, expected one outside the classes 0 to "
                f"{self.model.classes - 1}"
            )
        if (self.model.arch == "resnet18") != (self.data.dataset == "cifar10"):
            raise UserError(
                f"arch {self.model.arch} does not go with dataset {self.data.dataset}: "
                "resnet18 and cifar10 belong together"
            )
