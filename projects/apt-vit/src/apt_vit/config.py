"""The one truth about a run of apt-vit: frozen dataclasses; `apt_vit.lowering` leads into them.

Field names are those of the original's flags and ConfigDicts. Defaults are those of ViT-B_16 on CIFAR-10;
what is pruned and learnt, and how, is that of preset ``fixed``.
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

MODEL_TYPES = ("ViT-B_16", "ViT-B_32", "ViT-L_16", "ViT-L_32", "ViT-H_14", "R50-ViT-B_16", "testing", "tiny")
"""Names of `apt_vit.configs`; the last one is ours, for the tour and for tests."""
DATASETS = ("cifar10", "cifar100", "folder", "tiny")
DECAYS = ("cosine", "linear", "constant", "warmup_constant")
METHODS = ("agent", "plain", "random", "cls-attention")
REWARD_DROPOUTS = ("fresh", "off")
CHECKSUMS = ("error", "warn")
AMP = ("off", "bf16")
CLIP_LAYERS = (2, 5, 8)
"""Blocks that the original prunes after, whatever the depth."""


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """The stem of a hybrid."""

    num_layers: tuple[int, ...] = (3, 4, 9)
    """Units of its stages."""
    width_factor: float = 1.0
    """Factor of its widths; 1 is 64 channels behind the first convolution."""

    def __post_init__(self) -> None:
        for place, units in enumerate(self.num_layers):
            check_at_least(f"resnet.num_layers[{place}]", units, 1)
        check_above("resnet.width_factor", self.width_factor, 0)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network."""

    model_type: str = "ViT-B_16"
    """Name of its sizes; one's own sizes may have any name."""
    patch_size: tuple[int, int] | None = (16, 16)
    """Height and width of a patch in pixels; None for a hybrid."""
    patch_grid: tuple[int, int] | None = None
    """Of a hybrid: patches along each side of a picture of 224 pixels."""
    resnet: ResNetConfig | None = None
    """Of a hybrid: its stem."""
    hidden_size: int = 768
    """Width D of tokens."""
    mlp_dim: int = 3072
    """Width of the hidden layer of a block's MLP."""
    num_heads: int = 12
    """Heads of attention; D is a multiple."""
    num_layers: int = 12
    """Blocks."""
    attention_dropout_rate: float = 0.0
    """Dropout of attention probabilities and of what attention gives."""
    dropout_rate: float = 0.1
    """Dropout of embeddings and in the MLPs."""
    img_size: tuple[int, int] = (224, 224)
    """Height and width of pictures, in pixels."""
    num_classes: int = 10
    """Outputs C."""
    clip_layers: tuple[int, ...] = CLIP_LAYERS
    """Blocks after which tokens are pruned, from 0; there is an agent for each."""
    normalise_agent_input: bool = True
    """Agents see tokens after a layer norm without parameters; else raw, as in the original."""
    root_pool_same: bool = True
    """The stem's pooling pads as the published weights learnt it ("same"); else not, as in the original."""
    stem_as_published: bool = True
    """The stem's convolutions pad, its shortcuts' norms group channels and its weights are standardised as
    the published weights learnt it; else as in the original."""
    pretrained_dir: str = "checkpoint/ViT-B_16.npz"
    """Weights to start from: an npz file, a model folder, a run, or another known file; empty: random."""
    zero_head: bool = True
    """Weights from an npz file begin with a head of zeros."""

    def __post_init__(self) -> None:
        if (self.patch_size is None) != (self.patch_grid is not None):
            raise UserError(
                f"patches.size is {self.patch_size} and patches.grid {self.patch_grid}, expected one of them"
            )
        if (self.resnet is None) != (self.patch_grid is None):
            raise UserError("resnet and patches.grid belong together, expected both or none")
        for name in ("hidden_size", "mlp_dim", "num_heads", "num_layers", "num_classes"):
            check_at_least(name, getattr(self, name), 1)
        if self.hidden_size % self.num_heads:
            raise UserError(
                f"hidden_size is {self.hidden_size}, expected a multiple of num_heads {self.num_heads}"
            )
        for name in ("attention_dropout_rate", "dropout_rate"):
            check_share(name, getattr(self, name))
        for pixels in self.img_size:
            check_at_least("img_size", pixels, 1)
        if list(self.clip_layers) != sorted(set(self.clip_layers)) or min(self.clip_layers, default=0) < 0:
            raise UserError(f"clip_layers is {self.clip_layers}, expected rising numbers of blocks, from 0")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The data set and batches."""

    dataset: str = "cifar10"
    """``cifar10``, ``cifar100``, ``folder`` (a folder of pictures for each class in ``train`` and ``val``),
    or the generated ``tiny``."""
    data_dir: str = "./data"
    """Folder that holds the data set."""
    download: bool = True
    """Fetch CIFAR where it is missing."""
    checksum: str = "error"
    """CIFAR files that are not the published ones are an ``error``, or get a line (``warn``)."""
    train_batch_size: int = 72
    """Pictures of an update, in each process; divided by gradient_accumulation_steps."""
    eval_batch_size: int = 32
    """Pictures of an evaluation batch, in each process."""
    num_workers: int = 4
    """Processes that load pictures, for each training process; 0: the training process itself."""
    flip: bool = True
    """Training pictures are mirrored at random; the original does not."""
    crop_scale: float = 0.05
    """Least share of a training picture's area that a random crop shows."""
    validation_share: float = 0.1
    """Share of training pictures that is kept back to select the best model; 0: the test pictures select it,
    as in the original."""
    class_names: tuple[str, ...] = ()
    """Names of the classes; empty: those of the data set."""
    fake_data: bool = False
    """Generate a small data set in the real layout and use it in place of data_dir."""

    def __post_init__(self) -> None:
        check_one_of("dataset", self.dataset, DATASETS)
        check_one_of("checksum", self.checksum, CHECKSUMS)
        for name in ("train_batch_size", "eval_batch_size"):
            check_at_least(name, getattr(self, name), 1)
        check_at_least("num_workers", self.num_workers, 0)
        check_share("validation_share", self.validation_share)
        check_above("crop_scale", self.crop_scale, 0)
        check_within("crop_scale", self.crop_scale, 0, 1)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimisation."""

    learning_rate: float = 3e-2
    """Base rate of SGD."""
    agent_learning_rate: float | None = None
    """Base rate of the agents; None: learning_rate."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 0.0
    """Weight decay."""
    num_steps: int = 50000
    """Updates."""
    decay_type: str = "cosine"
    """How the rate falls: ``cosine`` or ``linear``; in Python also ``constant`` and ``warmup_constant``."""
    warmup_steps: int = 500
    """Updates over which the rate rises."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    gradient_accumulation_steps: int = 3
    """Micro-batches A of an update."""

    def __post_init__(self) -> None:
        check_one_of("decay_type", self.decay_type, DECAYS)
        check_above("learning_rate", self.learning_rate, 0)
        if self.agent_learning_rate is not None:
            check_above("agent_learning_rate", self.agent_learning_rate, 0)
        check_share("momentum", self.momentum)
        check_at_least("weight_decay", self.weight_decay, 0)
        check_at_least("warmup_steps", self.warmup_steps, 0)
        check_above("max_grad_norm", self.max_grad_norm, 0)
        for name in ("num_steps", "gradient_accumulation_steps"):
            check_at_least(name, getattr(self, name), 1)


@dataclass(frozen=True, kw_only=True)
class PruneConfig:
    """Which tokens are dropped, and how agents learn it."""

    method: str = "agent"
    """Who chooses: ``agent``; ``plain`` prunes nothing and trains no agent; ``random`` and ``cls-attention``
    (the tokens that the classification token attends to least) drop as many as keep_rate says."""
    threshold: float = 0.5
    """Tokens with a greater prune probability are pruned, where keep_rate is None."""
    keep_rate: float | None = None
    """Share of the remaining tokens, the classification token among them, that each clip layer keeps; None:
    the threshold decides."""
    greedy_share: float = 0.5
    """Share of single actions that try the likeliest token; others try one at random."""
    reward_dropout: str = "off"
    """Dropout in the passes that rewards come from: ``fresh`` masks in each (the original), or ``off``."""
    plain_loss: float = 0.0
    """Weight of the cross entropy of the unpruned pass; the original has none."""
    keep_penalty: float = 0.0
    """Weight of the squared difference between the agents' mean keep probability and keep_target."""
    keep_target: float = 0.7
    """Share of tokens that keep_penalty pulls each agent to."""
    drop_in_training: bool = True
    """Pruned tokens are left out of the training passes too; without dropout this changes no number but by
    rounding, and with it dropout draws other numbers than where tokens are masked."""

    def __post_init__(self) -> None:
        check_one_of("method", self.method, METHODS)
        check_one_of("reward_dropout", self.reward_dropout, REWARD_DROPOUTS)
        for name in ("threshold", "greedy_share", "keep_target"):
            check_within(name, getattr(self, name), 0, 1)
        for name in ("plain_loss", "keep_penalty"):
            check_at_least(name, getattr(self, name), 0)
        if self.keep_rate is not None:
            check_above("keep_rate", self.keep_rate, 0)
            check_within("keep_rate", self.keep_rate, 0, 1)
        elif self.method in ("random", "cls-attention"):
            raise UserError(f"prune method {self.method} and no keep_rate, expected a share such as 0.7")

    @property
    def trains_agents(self) -> bool:
        """Whether there are agents to train."""
        return self.method == "agent"


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What is done, where it is written and when, and on which machine."""

    name: str = "apt"
    """Name of the run: of its folder in logs, and of the original's checkpoint files."""
    output_dir: str = "output"
    """Where the original's checkpoint files go."""
    output: str = ""
    """The run's folder; empty: that of name in output_dir."""
    log_dir: str = "logs"
    """The original's folder for TensorBoard."""
    seed: int = 42
    """Seed of everything random."""
    preset: str = "fixed"
    """``faithful`` (the original's quirks) or ``fixed``; where single quirks are set, they win."""
    eval_every: int = 500
    """Updates between two evaluations."""
    save_every: int = 500
    """Updates between two checkpoints."""
    resume: bool = False
    """Go on with the run that the folder holds, bit for bit."""
    max_steps: int | None = None
    """Stop after this many updates; schedules are not shortened."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    amp: str = "off"
    """Mixed precision: ``off`` or ``bf16``."""
    compile: bool = False
    """Compile the network with torch.compile."""
    channels_last: bool = False
    """Keep pictures and the stem's features with channels as the last axis in memory."""
    dry_run: bool = False
    """Check the configuration and stop before data are read."""
    tour: bool = False
    """Train and prune a small network on generated pictures and print a table."""
    keep_last: int = 2
    """Checkpoints that are kept beside the best."""
    local_rank: int = -1
    """Place of the process, as older launchers pass it; torchrun's variables win."""
    fp16: bool = False
    """The original's mixed precision; means bf16 here."""
    fp16_opt_level: str = "O2"
    """The original's level of it; without effect."""
    loss_scale: float = 0.0
    """The original ignores it, and so do we."""

    def __post_init__(self) -> None:
        check_one_of("preset", self.preset, PRESETS)
        check_one_of("amp", self.amp, AMP)
        for name in ("keep_last", "eval_every", "save_every"):
            check_at_least(name, getattr(self, name), 1)
        if self.max_steps is not None:
            check_at_least("max_steps", self.max_steps, 1)
        check_device(self.device)


@dataclass(frozen=True, kw_only=True)
class QuirkConfig(Quirks):
    """Behaviours of the original that change numbers and are in no other group: True is its way."""

    explore_within_batch: bool = False
    """Random single actions try tokens 1 to B - 1 of a batch of B; else all patch tokens."""
    zero_reward_keeps: bool = False
    """A reward of exactly 0 teaches to keep; else it teaches nothing."""
    identical_agents: bool = False
    """All agents begin with equal random weights; else with weights that prune nothing, and differ."""
    joint_clipping: bool = False
    """Gradients of backbone and agents are clipped by their common norm; else apart."""
    scheduler_first: bool = False
    """The schedule steps before the optimiser, so that update k, from 1, has the rate of k; else of k - 1."""
    carry_leftovers: bool = False
    """Micro-batches left over at an epoch's end enter the next epoch's first update; else an update of their
    own ends the epoch."""
    stop_without_update: bool = False
    """An epoch of fewer micro-batches than an update needs ends the training; else it goes on."""
    batch_mean_loss: bool = False
    """The loss of an evaluation is the mean of its batches' means; else of its pictures."""
    agent_loss_logged: bool = False
    """``train/loss`` is the last agent's loss, and both streams are written as ``test/accuracy``; else each
    loss and accuracy has its name."""
    zoom_edge_zeros: bool = False
    """Resized position embeddings lose their last row and column at some sizes, as scipy's zoom does."""
    same_order_every_epoch: bool = False
    """Several processes see samples in the same order in every epoch."""
    same_exploration: bool = False
    """All processes draw the same random actions."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that decides what a run does."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The network."""
    data: DataConfig = field(default_factory=DataConfig)
    """The data set and batches."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimisation."""
    prune: PruneConfig = field(default_factory=PruneConfig)
    """Pruning."""
    run: RunOptions = field(default_factory=RunOptions)
    """The run itself."""
    quirks: QuirkConfig = field(default_factory=QuirkConfig)
    """The original's quirks, one by one."""

    def __post_init__(self) -> None:
        if self.run.preset == "fixed":
            self._check_fit()
        if self.data.train_batch_size < self.optim.gradient_accumulation_steps:
            raise UserError(
                f"train_batch_size is {self.data.train_batch_size}, expected at least the "
                f"{self.optim.gradient_accumulation_steps} gradient_accumulation_steps that it is divided by"
            )
        if self.prune.trains_agents and self.quirks.explore_within_batch and self.micro_batch_size < 2:
            raise UserError(
                f"train_batch_size is {self.data.train_batch_size} and gradient_accumulation_steps "
                f"{self.optim.gradient_accumulation_steps}: a micro-batch of 1 picture, expected at least 2 "
                "where random actions try tokens 1 to B - 1 (explore_within_batch)"
            )

    def _check_fit(self) -> None:
        """Refuse what the original passes over in silence: blocks beyond the depth, pixels beside patches."""
        model = self.model
        if self.prune.method != "plain" and any(n >= model.num_layers for n in model.clip_layers):
            raise UserError(
                f"clip_layers is {model.clip_layers}, expected blocks 0 to {model.num_layers - 1}: there are "
                f"{model.num_layers}"
            )
        sides = zip(model.img_size, model.patch_size or (1, 1), strict=True)
        if any(pixels % patch for pixels, patch in sides):
            raise UserError(
                f"img_size is {model.img_size}, expected multiples of the patch size {model.patch_size}"
            )

    @property
    def micro_batch_size(self) -> int:
        """Pictures B of a micro-batch, in each process."""
        return self.data.train_batch_size // self.optim.gradient_accumulation_steps
