"""The one truth about a run of channel-prune: frozen dataclasses; `channel_prune.lowering` leads into them.

Field names are those of the original's flags, those of its pruning learner without their ``cpr_``. Defaults
are those of ResNet-20 on CIFAR-10; how channels are chosen is that of preset ``fixed``.
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

NETS = ("resnet_v2", "resnet_v1", "mobilenet_v1", "mobilenet_v2", "ssd_vgg16", "tiny")
FOREIGN = ("torchvision:", "timm:")
"""Beginnings of names of networks that other packages build."""
FORMS = ("cifar", "ilsvrc12")
ILSVRC_SIZES = (18, 34, 50, 101, 152, 200)
DATASETS = ("cifar10", "ilsvrc12", "voc", "folder", "tiny", "tiny_voc")
DETECTION = ("voc", "tiny_voc")
"""Data sets of pictures with boxes."""
PIXELS = ("original", "imagenet")
EMPTY_BOXES = ("error", "drop")
OPTIMIZERS = ("sgd", "adam")
SCHEDULES = ("cifar", "ilsvrc", "mobilenet_v2", "ssd", "constant")
LEARNERS = ("full-prec", "chn-pruned-rmt")
EXEC_MODES = ("train", "eval")
SELECTIONS = ("ista", "lasso", "l1", "random")
RECONSTRUCTIONS = ("adam", "ridge", "none")
SAMPLE_MODES = ("train", "eval")
POSITIONS = ("scattered", "crops", "all")
SKIP_MATCHES = ("substring", "parts")
AP_FORMS = ("voc07", "integral")
CONVENTIONS = ("published", "realisable")
AMP = ("off", "bf16")


@dataclass(frozen=True, kw_only=True)
class NetConfig:
    """The network."""

    name: str = "resnet_v2"
    """``resnet_v2`` (the original's), ``resnet_v1``, ``mobilenet_v1``, ``mobilenet_v2``, ``ssd_vgg16``,
    ``tiny``, or one of another package: ``torchvision:NAME``, ``timm:NAME``."""
    dataset_form: str = "cifar"
    """Which ResNet: ``cifar`` (three stages, small pictures) or ``ilsvrc12`` (four)."""
    resnet_size: int = 20
    """Depth of a ResNet: 6n + 2 of the first form; 18, 34, 50, 101, 152 or 200 of the second."""
    mobilenet_depth_mult: float = 1.0
    """Factor of the widths of a MobileNet."""
    nb_classes: int = 10
    """Outputs; 1001 and 21 count class 0, background, which pictures of ILSVRC-12 never have."""
    image_size: int = 32
    """Side of the pictures that the network takes, in pixels."""
    width_divisor: int = 1
    """All widths are divided by it: 1 is published, more is a tiny twin."""
    batch_norm: bool = False
    """Batch norm behind every convolution of ``ssd_vgg16`` but those of its heads. The published network has
    none; it is for trainings without a backbone's weights."""
    weights: str = ""
    """Weights to start from: a model folder, a run, or a foreign file; empty: what save_path says."""

    def __post_init__(self) -> None:
        if not self.name.startswith(FOREIGN):
            check_one_of("net", self.name, NETS)
        check_one_of("dataset_form", self.dataset_form, FORMS)
        for name in ("nb_classes", "image_size", "width_divisor"):
            check_at_least(name, getattr(self, name), 1)
        check_above("mobilenet_depth_mult", self.mobilenet_depth_mult, 0)
        if self.name in ("resnet_v2", "resnet_v1"):
            if self.dataset_form == "ilsvrc12":
                check_one_of("resnet_size", self.resnet_size, ILSVRC_SIZES)
            elif self.resnet_size < 8 or (self.resnet_size - 2) % 6:
                raise UserError(
                    f"resnet_size is {self.resnet_size}, expected 6n + 2 for small pictures: 8, 14, 20, ..."
                )

    @property
    def detects(self) -> bool:
        """Whether it answers with boxes."""
        return self.name == "ssd_vgg16"


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The data set and batches."""

    dataset: str = "cifar10"
    """``cifar10``, ``ilsvrc12``, ``voc``, ``folder`` (a folder of pictures for each class in ``train`` and
    ``val``), or the generated ``tiny`` and ``tiny_voc``."""
    data_dir: str = ""
    """Folder of the data set; empty: its folder in PRUNELAB_DATA."""
    batch_size: int = 128
    """Pictures of a training step, in each process."""
    batch_size_eval: int = 100
    """Pictures of an evaluation batch, in each process."""
    nb_smpls_train: int = 50000
    """Training pictures that an epoch of the schedule counts."""
    nb_smpls_val: int = 5000
    """The original's; nothing is split off."""
    nb_smpls_eval: int = 10000
    """Pictures that an evaluation takes at most."""
    workers: int = 2
    """Processes that load pictures, for each training process; 0: the training process itself."""
    pixels: str = "original"
    """How pixels are scaled: ``original`` (the data set's rule), or ``imagenet`` (0 to 1, then mean and
    deviation of ImageNet, as the networks of torchvision and ``resnet_v1`` learnt it)."""
    label_offset: int = 0
    """Added to a picture's class: 1 where class 0 is background."""
    class_names: tuple[str, ...] = ()
    """Names of the classes, without background; empty: those of the data set."""
    train_sets: tuple[str, ...] = ()
    """Of ``voc``: image sets to train on, as FOLDER/SET; empty: VOC2007/trainval and VOC2012/trainval."""
    eval_sets: tuple[str, ...] = ()
    """Of ``voc``: image sets to evaluate; empty: VOC2007/test."""
    empty_boxes: str = "error"
    """Of ``voc``: boxes without an area are an ``error``, or are left out (``drop``)."""
    fake_data: bool = False
    """Generate a small data set in the real layout and use it in place of data_dir."""

    def __post_init__(self) -> None:
        check_one_of("dataset", self.dataset, DATASETS)
        check_one_of("pixels", self.pixels, PIXELS)
        check_one_of("label_offset", self.label_offset, (0, 1))
        check_one_of("empty_boxes", self.empty_boxes, EMPTY_BOXES)
        for name in ("batch_size", "batch_size_eval", "nb_smpls_train", "nb_smpls_eval"):
            check_at_least(name, getattr(self, name), 1)
        for name in ("workers", "nb_smpls_val"):
            check_at_least(name, getattr(self, name), 0)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Loss and optimisation."""

    optimizer: str = "sgd"
    """``sgd`` with momentum, as published, or ``adam``: faster where a detector begins without a backbone."""
    lrn_rate_init: float = 0.1
    """First learning rate, at a batch of batch_size_norm pictures over all processes."""
    batch_size_norm: int | None = 128
    """Batch that lrn_rate_init is meant for; the rate grows in proportion. None: it does not."""
    momentum: float = 0.9
    """Momentum of SGD."""
    loss_w_dcy: float = 2e-4
    """Weight decay; as ridge also that of the least squares which refit pruned layers."""
    nb_epochs_rat: float = 1.0
    """Factor of the schedule's epochs, boundaries included."""
    schedule: str = "cifar"
    """``cifar`` (250 epochs), ``ilsvrc`` (100), ``mobilenet_v2`` (412, exponential), ``ssd`` (steps of
    `DetectConfig`) or ``constant``."""
    nb_iters: int | None = None
    """Training steps; None: the schedule's."""
    decay_biases: bool = True
    """Decay biases too, as the original does."""
    decay_norms: bool = False
    """Decay scales and shifts of batch normalisation too, as the original does in its MobileNets."""

    def __post_init__(self) -> None:
        check_one_of("optimizer", self.optimizer, OPTIMIZERS)
        check_one_of("schedule", self.schedule, SCHEDULES)
        check_above("lrn_rate_init", self.lrn_rate_init, 0)
        check_above("nb_epochs_rat", self.nb_epochs_rat, 0)
        check_at_least("loss_w_dcy", self.loss_w_dcy, 0)
        check_share("momentum", self.momentum)
        for name in ("batch_size_norm", "nb_iters"):
            if getattr(self, name) is not None:
                check_at_least(name, getattr(self, name), 1)
        if self.schedule == "constant" and self.nb_iters is None:
            raise UserError("schedule is constant and nb_iters is not given, expected a number of steps")


@dataclass(frozen=True, kw_only=True)
class DetectConfig:
    """The detector: matching, loss, schedule, post-processing and files."""

    negative_ratio: float = 3.0
    """Hard negatives for each matched anchor."""
    match_threshold: float = 0.5
    """Overlap from which an anchor is matched."""
    neg_threshold: float = 0.5
    """Overlap below which an anchor is background."""
    select_threshold: float = 0.01
    """Scores up to it are dropped."""
    min_size: float = 0.03
    """Boxes with a side up to it are dropped, as a share of the picture's."""
    nms_threshold: float = 0.45
    """Overlap above which the weaker of two boxes of a class is dropped."""
    nms_topk: int = 200
    """Boxes of a class that are kept after that."""
    keep_topk: int = 400
    """Boxes of a class that enter it."""
    lrn_rate_min: float = 1e-6
    """Least learning rate."""
    lrn_rate_dcy_bnds: tuple[int, ...] = (500, 80000, 100000)
    """Steps at which the rate changes."""
    lrn_rate_dcy_rates: tuple[float, ...] = (0.1, 1.0, 0.1, 0.01)
    """Factors of lrn_rate_init before, between and after them."""
    nb_iters_train: int = 120000
    """Training steps."""
    nb_iters_cls_wmup: int = 10000
    """Steps over which the classification loss grows to its weight."""
    enbl_warm_start: bool = False
    """Start a full training from weights of a backbone."""
    backbone_ckpt_dir: str = "./backbone_models/"
    """Where they lie: a folder with one file of weights, or that file."""
    backbone_model_scope: str = "vgg_16"
    """First part of their names."""
    model_scope: str = "ssd300"
    """First part of this network's names."""
    warm_start_excl_scopes: tuple[str, ...] = (
        "ssd300/multibox_head",
        "ssd300/additional_layers",
        "ssd300/conv4_3_scale",
    )
    """Beginnings of names that keep their random weights."""
    ignore_missing_vars: bool = True
    """Tell what a backbone's file lacks, and go on; else it is an error."""
    outputs_dump_dir: str = "./ssd_outputs/"
    """Where an evaluation writes detections, a file for each class."""
    image_size_eval: int = 300
    """Side of evaluation pictures; must be the network's."""
    nb_bboxs_max: int = 100
    """Objects of a training picture that are used at most."""
    ap: str = "voc07"
    """How average precision is taken: ``voc07`` (11 points) or ``integral``."""

    def __post_init__(self) -> None:
        check_one_of("ap", self.ap, AP_FORMS)
        for name in ("match_threshold", "neg_threshold", "select_threshold", "min_size", "nms_threshold"):
            check_within(name, getattr(self, name), 0, 1)
        check_order("neg_threshold", self.neg_threshold, "match_threshold", self.match_threshold)
        for name in ("nms_topk", "keep_topk", "nb_iters_train", "nb_bboxs_max", "image_size_eval"):
            check_at_least(name, getattr(self, name), 1)
        for name in ("negative_ratio", "nb_iters_cls_wmup", "lrn_rate_min"):
            check_at_least(name, getattr(self, name), 0)
        bounds, rates = self.lrn_rate_dcy_bnds, self.lrn_rate_dcy_rates
        if len(rates) != len(bounds) + 1 or list(bounds) != sorted(set(bounds)):
            raise UserError(
                f"lrn_rate_dcy_bnds is {bounds} and lrn_rate_dcy_rates {rates}, expected rising steps and "
                "one rate more than steps"
            )


@dataclass(frozen=True, kw_only=True)
class PruneConfig:
    """How channels are chosen and layers refitted."""

    prune_ratio: float = 0.5
    """Share of every convolution's input channels that is removed, 0 <= ratio < 1."""
    ratio_list: tuple[float, ...] | None = None
    """A ratio for every convolution in their order; it takes the place of prune_ratio and the skips."""
    skip_frst_layer: bool = True
    """The first convolution keeps all channels."""
    skip_last_layer: bool = False
    """So does the last one."""
    skip_op_names: str | None = None
    """So do convolutions with one of these names, separated by commas."""
    skip_match: str = "parts"
    """When a name is one of those: ``substring`` (the original: conv2d_1 is in conv2d_10 too) or ``parts``
    (whole parts between dots or slashes)."""
    nb_smpls: int = 5000
    """Training pictures that layers are sampled on."""
    nb_crops_per_smpl: int = 10
    """Output positions of each picture that are sampled in a layer."""
    ista_lrn_rate: float = 0.01
    """Step of ``ista``."""
    ista_nb_iters: int = 100
    """Its number of steps."""
    lstsq_lrn_rate: float = 0.001
    """Step of ``adam``."""
    lstsq_nb_iters: int = 100
    """Its number of steps."""
    warm_start: bool = False
    """Choose nothing: start from what an earlier choice left in save_path_ws."""
    loss_w_dcy: float = 2e-4
    """Ridge of the least squares: that of training."""
    batch_size: int = 128
    """Pictures of a forward pass while layers are sampled: those of a training batch."""
    selection: str = "lasso"
    """Which channels stay: ``ista`` (the original's unfinished LASSO), ``lasso`` (solved), ``l1`` (largest
    kernels) or ``random``."""
    reconstruction: str = "ridge"
    """How kernels are refitted: ``adam`` (the original's 100 steps), ``ridge`` (exact) or ``none``."""
    sample_mode: str = "eval"
    """Batch normalisation while layers are sampled: ``train`` (of the batch; the original) or ``eval``."""
    sample_augmented: bool = False
    """Layers are sampled on pictures changed at random as in training (the original), or as in evaluation."""
    sample_memory: float | None = None
    """GiB that maps of the pictures may take which are kept between two layers; None: half of the machine's
    memory, or of what a GPU has free. With less, layers are computed several times, and nothing changes."""
    positions: str = "scattered"
    """Output positions that are sampled: ``crops`` (the original: some at random, one for a whole batch),
    ``scattered`` (as many, each picture's own) or ``all``."""
    compensate_shortcut: bool = True
    """The last convolution of a residual branch also makes up for the error of its shortcut."""
    recalibrate: int = 1000
    """Pictures on which batch normalisation is measured again after pruning; 0: it is not."""
    min_channels: int = 1
    """Channels that every convolution keeps at least."""
    round_to: int = 1
    """Numbers of kept channels are rounded up to multiples of it."""
    seed: int = 0
    """Seed of what is drawn: that of the run."""

    def __post_init__(self) -> None:
        check_share("prune_ratio", self.prune_ratio)
        for place, ratio in enumerate(self.ratio_list or ()):
            check_share(f"ratio_list[{place}]", ratio)
        check_one_of("selection", self.selection, SELECTIONS)
        check_one_of("reconstruction", self.reconstruction, RECONSTRUCTIONS)
        check_one_of("sample_mode", self.sample_mode, SAMPLE_MODES)
        check_one_of("positions", self.positions, POSITIONS)
        check_one_of("skip_match", self.skip_match, SKIP_MATCHES)
        for name in ("nb_smpls", "nb_crops_per_smpl", "batch_size", "min_channels", "round_to"):
            check_at_least(name, getattr(self, name), 1)
        for name in ("ista_nb_iters", "lstsq_nb_iters", "recalibrate", "loss_w_dcy"):
            check_at_least(name, getattr(self, name), 0)
        if self.sample_memory is not None:
            check_at_least("sample_memory", self.sample_memory, 0)
        for name in ("ista_lrn_rate", "lstsq_lrn_rate"):
            check_above(name, getattr(self, name), 0)


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """Learning from the full network's answers."""

    enbl_dst: bool = False
    """Add the cross entropy with the full network's softened answers to the loss."""
    loss_w_dst: float = 4.0
    """Its weight."""
    tempr_dst: float = 4.0
    """Temperature that answers are divided by."""
    save_path_dst: str = "./models_dst/model.ckpt"
    """Teacher: its folder counts, and where that holds none, the full network of save_path."""

    def __post_init__(self) -> None:
        check_at_least("loss_w_dst", self.loss_w_dst, 0)
        check_above("tempr_dst", self.tempr_dst, 0)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What is done, where it is written and when, and on which machine."""

    learner: str = "full-prec"
    """``full-prec`` (train the full network) or ``chn-pruned-rmt`` (choose channels, then fine-tune)."""
    exec_mode: str = "train"
    """``train`` or ``eval``."""
    slim_before_finetune: bool = False
    """Fine-tune the slim network in place of the masked one: the same steps, faster."""
    output: str = ""
    """The run's folder; empty: that of save_path or save_path_cpr, by learner."""
    seed: int = 0
    """Seed of everything random."""
    preset: str = "fixed"
    """``faithful`` (the original's quirks) or ``fixed``; where single quirks are set, they win."""
    resume: bool = False
    """Go on with the run that the folder holds, bit for bit."""
    max_steps: int | None = None
    """Stop after this many training steps; schedules are not shortened."""
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
    """Train, prune, fine-tune and export a small network on generated pictures and print a table."""
    keep_last: int = 2
    """Checkpoints that are kept beside the best."""
    log_dir: str = "./logs"
    """The original's folder for TensorBoard; ours lies in the run's folder."""
    save_path: str = "./models/model.ckpt"
    """The full network: its folder counts."""
    save_path_eval: str = "./models_eval/model.ckpt"
    """The original's copy of it for evaluation; its folder is where ``export`` looks after save_path."""
    save_path_cpr: str = "./models_cpr/model.ckpt"
    """The pruned network (``--cpr_save_path``): its folder counts."""
    save_path_cpr_eval: str = "./models_cpr_eval/model.ckpt"
    """Its copy for evaluation (``--cpr_save_path_eval``)."""
    save_path_ws: str = "./models_cpr_ws/model.ckpt"
    """What choosing channels leaves, before fine-tuning (``--cpr_save_path_ws``): its folder counts."""
    summ_step: int = 100
    """Steps between two lines of the log."""
    save_step: int = 10000
    """Steps between two checkpoints, each with an evaluation."""
    flops_convention: str = "realisable"
    """How multiply-adds are counted: ``published`` (as the paper's tables) or ``realisable`` (what a slim
    network does)."""

    def __post_init__(self) -> None:
        check_one_of("learner", self.learner, LEARNERS)
        check_one_of("exec_mode", self.exec_mode, EXEC_MODES)
        check_one_of("preset", self.preset, PRESETS)
        check_one_of("amp", self.amp, AMP)
        check_one_of("flops_convention", self.flops_convention, CONVENTIONS)
        for name in ("keep_last", "summ_step", "save_step"):
            check_at_least(name, getattr(self, name), 1)
        if self.max_steps is not None:
            check_at_least("max_steps", self.max_steps, 1)
        check_device(self.device)

    @property
    def prunes(self) -> bool:
        """Whether the network is pruned."""
        return self.learner == "chn-pruned-rmt"


@dataclass(frozen=True, kw_only=True)
class QuirkConfig(Quirks):
    """Behaviours of the original that change numbers and are in no other group: True is its way."""

    score_rounding: bool = False
    """Detections are ranked by scores of three decimals, as they are written; else by full scores."""
    box_off_by_one: bool = False
    """Pixels of detections are counted from 1 and those of true boxes from 0; else both the same way."""
    empty_class_ap: bool = False
    """A class whose objects are all difficult or missing enters the mean with 0; else it is left out."""
    expand_third_attempt_lost: bool = False
    """Of three attempts at a random change of a picture with boxes the third is thrown away; else it
    counts."""
    voc_every_picture: bool = False
    """Training takes every picture of VOC 2007 trainval and VOC 2012 that has boxes, whatever the image
    sets say; else the image sets."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that decides what a run does."""

    net: NetConfig = field(default_factory=NetConfig)
    """The network."""
    data: DataConfig = field(default_factory=DataConfig)
    """The data set and batches."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Loss and optimisation."""
    detect: DetectConfig = field(default_factory=DetectConfig)
    """What a detector needs besides."""
    prune: PruneConfig = field(default_factory=PruneConfig)
    """Pruning."""
    distill: DistillConfig = field(default_factory=DistillConfig)
    """Learning from the full network."""
    run: RunOptions = field(default_factory=RunOptions)
    """The run itself."""
    quirks: QuirkConfig = field(default_factory=QuirkConfig)
    """The original's quirks, one by one."""

    def __post_init__(self) -> None:
        if self.net.detects != (self.data.dataset in DETECTION):
            raise UserError(
                f"net {self.net.name} does not go with dataset {self.data.dataset}: "
                f"ssd_vgg16 and a data set of boxes ({', '.join(DETECTION)}) belong together"
            )
        if self.net.detects and self.distill.enbl_dst:
            raise UserError("enbl_dst is True, expected False for ssd_vgg16, whose answer is not one tensor")
        if self.net.detects and self.detect.image_size_eval != self.net.image_size:
            raise UserError(
                f"image_size_eval is {self.detect.image_size_eval}, expected the network's image_size, "
                f"{self.net.image_size}"
            )
