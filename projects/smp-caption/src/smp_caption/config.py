"""The one truth about a run of smp-caption: frozen dataclasses; `smp_caption.lowering` leads into them.

Field names are those of the original's flags wherever it has one, so that a flag, a key of a YAML file and a
field are the same word. Defaults are the original's too, with two exceptions that the Python API needs and
the command line takes back: the architecture, and the quirks (``fixed`` here, ``faithful`` there).
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

UP_DOWN = ("up_down_lstm", "up_down_lstm_prune")
TRANSFORMERS = ("transformer", "transformer_prune")
RELATION_TRANSFORMERS = ("relation_transformer", "relation_transformer_prune")
CAPTION_MODELS = (*UP_DOWN, *TRANSFORMERS, *RELATION_TRANSFORMERS)
COCO = ("mscoco", "mscoco_testing")
DATASETS = (*COCO, "flickr1k", "flickr8k", "flickr30k", "instapic", "captions", "tiny")
TOKENIZERS = ("word", "radix", "unigram", "bpe", "character")
OPTIMISERS = ("adam", "adagrad", "rmsprop", "sgd", "sgdm", "sgdmom")
SCHEDULES = ("noam", "step", "cosine")
PRUNE_TYPES = (
    "supermask",
    "mag_blind",
    "mag_uniform",
    "mag_dist",
    "mag_grad_blind",
    "mag_grad_uniform",
    "lottery_mag_blind",
    "lottery_mag_uniform",
    "lottery_mag_dist",
    "lottery_mask_freeze",
    "snip",
    "mask_freeze",
)
AMP = ("off", "bf16")
SHARED_ATTENTION = ("kv", "qk")
LOGGING_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes of a captioning model (names and defaults are those of the original's flags)."""

    caption_model: str = "up_down_lstm"
    """Architecture; a name that ends in ``_prune`` has masked weights."""
    vocab_size: int = 10001
    """Number of token ids V, specials included."""
    max_seq_length: int = 18
    """Most tokens of a caption, bos and eos included when encoding; most generated tokens when decoding."""
    rnn_size: int = 1000
    """Hidden size R of both LSTM layers."""
    input_encoding_size: int = 1000
    """Word embedding size E."""
    att_hid_size: int = 512
    """Hidden size A of the additive attention."""
    att_feat_size: int = 2048
    """Size F of a region's feature."""
    fc_feat_size: int = 2048
    """Size of the picture's mean feature."""
    drop_prob_lm: float = 0.5
    """Dropout on embeddings and on the language LSTM's output."""
    logit_layers: int = 1
    """Number of linear layers before the softmax."""
    use_bn: int = 0
    """BatchNorm around the region embedding: 0 none, 1 before, 2 before and after."""
    d_model: int = 512
    """Width of a transformer."""
    dim_feedforward: int = 2048
    """Hidden size of a transformer's feed-forward part."""
    num_layers: int = 6
    """Layers of a transformer's encoder, and of its decoder."""
    num_heads: int = 8
    """Attention heads of a transformer."""
    drop_prob_src: float = 0.5
    """Dropout after a transformer's region embedding."""
    drop_prob_layer: float | None = None
    """Dropout of a transformer's positions, attention weights, feed-forward parts and sublayers; None: 0.1,
    and a third of it in a pruned one, as published."""
    share_att_encoder: str | None = None
    """Projections that the encoder's attention shares: None, ``kv`` or ``qk``."""
    share_att_decoder: str | None = None
    """The same for both attentions of the decoder."""
    share_layer_encoder: tuple[int, ...] | None = None
    """Which distinct layer stands at each depth of the encoder, say (0, 0, 0, 1, 1, 1); None: no sharing."""
    share_layer_decoder: tuple[int, ...] | None = None
    """The same for the decoder."""
    no_box_trigonometric_embedding: bool = False
    """Give the relation transformer the four raw box relations instead of their 64 sines and cosines."""
    pad_token_id: int = 0
    """Id that fills up a batch."""
    unk_token_id: int = 1
    """Id of an unknown word; -1: none."""
    bos_token_id: int = 2
    """Id that starts a caption."""
    eos_token_id: int = 3
    """Id that ends a caption."""

    def __post_init__(self) -> None:
        check_one_of("caption_model", self.caption_model, CAPTION_MODELS)
        check_at_least("max_seq_length", self.max_seq_length, 3)
        check_at_least("vocab_size", self.vocab_size, 5)
        for name in ("rnn_size", "input_encoding_size", "att_hid_size", "att_feat_size", "fc_feat_size"):
            check_at_least(name, getattr(self, name), 1)
        for name in ("logit_layers", "d_model", "dim_feedforward", "num_layers", "num_heads"):
            check_at_least(name, getattr(self, name), 1)
        for name in ("drop_prob_lm", "drop_prob_src"):
            check_share(name, getattr(self, name))
        if self.drop_prob_layer is not None:
            check_share("drop_prob_layer", self.drop_prob_layer)
        if self.d_model % self.num_heads:
            raise UserError(f"num_heads {self.num_heads} does not divide d_model {self.d_model}")
        check_one_of("use_bn", self.use_bn, (0, 1, 2))
        for name in ("share_att_encoder", "share_att_decoder"):
            check_one_of(name, getattr(self, name), (None, *SHARED_ATTENTION))
        for name in ("share_layer_encoder", "share_layer_decoder"):
            layers = getattr(self, name)
            if layers is not None and set(layers) != set(range(len(set(layers)))):
                raise UserError(f"{name} is {layers}, expected the numbers 0 to n-1, each at least once")

    @property
    def pruned(self) -> bool:
        """Whether the weights are masked."""
        return self.caption_model.endswith("_prune")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The data set, how captions become tokens, and batches."""

    dataset: str = "mscoco"
    """``mscoco``, its testing twin, ``flickr1k``, ``flickr8k``, ``flickr30k``, ``instapic``, own pictures
    (``captions``) or the embedded ``tiny``."""
    dataset_dir: str = ""
    """Folder of the data set; empty: the folder of the data set's name under PRUNELAB_DATA."""
    retokenize_captions: bool = False
    """Train the tokenizer and the model on raw sentences instead of the split file's tokens."""
    mscoco_online_test: bool = False
    """Train on train + val, validate on Karpathy's test, predict for the files of test2014."""
    input_att_dir: str = ""
    """Region features: a folder of ``.npy`` or a feature store; empty: ``bu/cocobu_att`` of the data set."""
    input_fc_dir: str = ""
    """Mean features of Up-Down; empty: ``bu/cocobu_fc`` of the data set."""
    input_rel_box_dir: str = ""
    """Relative boxes of the relation transformer; empty: ``bu/cocobu_box_relative`` of the data set."""
    tokenizer: str = "word"
    """Kind of tokens."""
    tokenizer_train_files: str = ""
    """File of captions for the tokenizer; empty: the training captions of the data set."""
    radix_base: int = 768
    """Number of digits of the radix tokenizer."""
    seq_per_img: int = 5
    """Captions drawn for each picture of a batch."""
    batch_size: int = 15
    """Pictures of a training batch."""
    batch_size_eval: int = 50
    """Pictures of an evaluation batch."""
    num_workers: int = 4
    """Processes that load batches; 0: the main one."""
    cache_min_free_ram: float = 0.4
    """Keep loaded features in memory while more than this share of it is free; 1: never."""
    cached_tokens: str | None = None
    """Document frequencies for CIDEr-D, read by self-critical training alone: a table (.p or .npz, the ending
    may be left out), or ``corpus`` to count the training captions. None: the data set's
    ``bu/coco-train-words`` if it has one and ``frequencies_with_end`` is set, else ``corpus``."""

    def __post_init__(self) -> None:
        check_one_of("dataset", self.dataset, DATASETS)
        check_one_of("tokenizer", self.tokenizer, TOKENIZERS)
        check_at_least("radix_base", self.radix_base, 2)
        for name in ("seq_per_img", "batch_size", "batch_size_eval"):
            check_at_least(name, getattr(self, name), 1)
        check_at_least("num_workers", self.num_workers, 0)
        check_within("cache_min_free_ram", self.cache_min_free_ram, 0, 1)
        if self.mscoco_online_test and self.dataset not in COCO:
            raise UserError(f"mscoco_online_test needs dataset {' or '.join(COCO)}, not {self.dataset}")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Losses, optimiser and schedule."""

    max_epochs: int = 15
    """Passes over the training pictures."""
    label_smoothing: float = 0.0
    """Share of a target's probability that is spread over the other words."""
    grad_clip: float = 0.1
    """Bound on each single gradient value (not on their norm); 0: none."""
    optim: str = "adam"
    """Optimiser of the schedules ``step`` and ``cosine`` (``noam`` brings its own Adam)."""
    optim_alpha: float = 0.9
    """First beta of Adam, the momentum of ``sgdm`` and ``sgdmom``, alpha of RMSprop."""
    optim_beta: float = 0.999
    """Second beta of Adam."""
    optim_epsilon: float = 1e-8
    """Epsilon of Adam and RMSprop."""
    weight_decay: float = 0.0
    """L2 weight decay; never on masks."""
    lr_scheduler: str = "noam"
    """Learning-rate schedule."""
    noamopt_warmup: int = 10000
    """Warm-up updates of ``noam``."""
    noamopt_factor: float = 1.0
    """Factor of ``noam``."""
    learning_rate: float = 5e-4
    """First learning rate of ``step`` and ``cosine``."""
    learning_rate_min: float = 1e-5
    """Last learning rate of ``cosine``."""
    learning_rate_decay_start: int = 0
    """Last epoch without decay of ``step``; -1: constant."""
    learning_rate_decay_every: int = 3
    """Epochs between two decays of ``step``."""
    learning_rate_decay_rate: float = 0.8
    """Factor of a decay of ``step``."""

    def __post_init__(self) -> None:
        check_at_least("max_epochs", self.max_epochs, 1)
        check_share("label_smoothing", self.label_smoothing)
        check_one_of("optim", self.optim, OPTIMISERS)
        check_one_of("lr_scheduler", self.lr_scheduler, SCHEDULES)
        for name in ("grad_clip", "weight_decay", "optim_epsilon", "learning_rate", "learning_rate_min"):
            check_at_least(name, getattr(self, name), 0.0)
        for name in ("optim_alpha", "optim_beta"):
            check_share(name, getattr(self, name))
        for name in ("noamopt_warmup", "learning_rate_decay_every"):
            check_at_least(name, getattr(self, name), 1)
        check_at_least("learning_rate_decay_start", self.learning_rate_decay_start, -1)


@dataclass(frozen=True, kw_only=True)
class PruneConfig:
    """How weights are pruned."""

    prune_type: str | None = None
    """Method; None for a dense model."""
    prune_sparsity_target: float = 0.8
    """Share of the masked weights that shall be zero."""
    prune_mask_freeze_scope: str = ""
    """Comma-separated prefixes of parameter names whose masks stay as they are."""
    prune_snip_grad_accum: int = 1
    """Batches whose gradients SNIP adds up."""
    prune_gradual_frequency: int = 1000
    """Steps between two prunings of gradual pruning (the original's are always 1000)."""
    prune_supermask_init: float = 5.0
    """First value of every mask logit."""
    prune_supermask_sparsity_weight: float = -1.0
    """Weight of the sparsity loss; negative: derived from the target (`sparsity_weight`)."""
    prune_supermask_lr: float = 100.0
    """Learning rate of the mask logits."""
    prune_supermask_bypass_sigmoid_grad: bool = False
    """Leave the sigmoid's derivative out of a logit's gradient. The original parses this and ignores it."""
    best_sparsity_tolerance: float = 0.05
    """A checkpoint counts as best only when its nonzeros are this close to the target's, relatively."""

    def __post_init__(self) -> None:
        check_one_of("prune_type", self.prune_type, (None, *PRUNE_TYPES))
        check_share("prune_sparsity_target", self.prune_sparsity_target)
        check_at_least("prune_snip_grad_accum", self.prune_snip_grad_accum, 1)
        check_at_least("prune_gradual_frequency", self.prune_gradual_frequency, 1)
        check_at_least("prune_supermask_lr", self.prune_supermask_lr, 0.0)
        check_at_least("best_sparsity_tolerance", self.best_sparsity_tolerance, 0.0)

    def sparsity_weight(self, caption_model: str) -> float:
        """The weight as given, else max(5, 0.5 / (1 - s)) for Up-Down, max(5, 1.5 / (1 - s)) for others."""
        if self.prune_supermask_sparsity_weight >= 0:
            return self.prune_supermask_sparsity_weight
        scale = 0.5 if caption_model in UP_DOWN else 1.5
        return max(5.0, scale / (1 - self.prune_sparsity_target))


@dataclass(frozen=True, kw_only=True)
class ScstConfig:
    """Self-critical training, which starts after cross-entropy."""

    scst_start_epoch: int = -1
    """First epoch of self-critical training; -1: never."""
    scst_num_samples: int = 10
    """Sampled captions of a picture."""
    scst_sample: str = "random"
    """How captions are sampled."""
    scst_baseline: str = "sample"
    """What a sample's score is compared with: the greedy caption's, or the mean of the other samples'."""
    scst_cider_weight: float = 1.0
    """Weight of CIDEr-D in the reward."""
    scst_bleu_weight: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    """Weights of BLEU-1 to BLEU-4 in the reward."""
    scst_end_in_reward: bool = False
    """Count a caption's end as a word of the reward, in samples, references and document frequencies."""

    def __post_init__(self) -> None:
        check_at_least("scst_start_epoch", self.scst_start_epoch, -1)
        check_at_least("scst_num_samples", self.scst_num_samples, 1)
        check_one_of("scst_sample", self.scst_sample, ("random", "beam_search"))
        check_one_of("scst_baseline", self.scst_baseline, ("greedy", "sample"))
        if self.scst_baseline == "sample" and self.scst_num_samples < 2:
            raise UserError(
                f"scst_num_samples {self.scst_num_samples} leaves scst_baseline sample no other one: "
                "expected 2 or more"
            )
        if self.scst_sample == "beam_search" and self.scst_num_samples < 2:
            raise UserError(
                f"scst_num_samples {self.scst_num_samples} with scst_sample beam_search is the likeliest "
                "caption alone, which teaches nothing: expected 2 or more"
            )
        if len(self.scst_bleu_weight) != 4:
            raise UserError(
                f"scst_bleu_weight is {self.scst_bleu_weight}, expected four comma-separated numbers"
            )


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """How captions are generated in evaluation."""

    beam_size_test: int = 2
    """Beams of the test evaluation."""
    beam_size_val: int = 1
    """Beams of the validations during training; 1: greedy."""
    temperature: float = 1.0
    """Divides the log-probabilities before each search step."""
    decoding_constraint: bool = False
    """Forbid repeating the previous token."""
    length_penalty: str = ""
    """How a finished beam's score depends on its length: empty (plain sum), ``wu_A`` or ``avg_A``."""
    group_size: int = 1
    """Groups of diverse beam search."""
    diversity_lambda: float = 0.5
    """What a token costs for each earlier group that uses it."""

    def __post_init__(self) -> None:
        for name in ("beam_size_test", "beam_size_val", "group_size"):
            check_at_least(name, getattr(self, name), 1)
        check_above("temperature", self.temperature, 0)
        kind = self.length_penalty.partition("_")[0]
        if self.length_penalty and kind not in ("wu", "avg"):
            raise UserError(
                f"length_penalty is {self.length_penalty!r}, expected an empty word, wu_A or avg_A"
            )


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where a run lives, what it writes and when, and on which machine."""

    log_dir: str = ""
    """Folder of runs; empty: PRUNELAB_RUNS, else ``runs`` in the working directory."""
    id: str = ""
    """Name of the run's folder in ``log_dir``."""
    output: str = ""
    """The run's folder itself; wins over ``log_dir`` and ``id``."""
    start_from: str = ""
    """Checkpoint, model folder or run to start from."""
    resume: bool = False
    """Go on with the run that this folder holds, bit for bit."""
    resume_training: bool = False
    """With ``start_from``: go on with that run's last state. Of a run of ours that is all of it; of one of
    the original the last weights, and the ``optimizer_last.pth`` beside them, which tells the steps."""
    seed: int = 8888
    """Seed of everything random."""
    save_checkpoint_every: int = 6000
    """Steps between two validations, each of which saves a checkpoint."""
    losses_log_every: int = 25
    """Steps between two lines of metrics."""
    console_every: int = 5
    """Steps between two lines on a console that is no terminal."""
    keep_last: int = 2
    """Checkpoints that are kept beside the best."""
    logging_level: str = "INFO"
    """Least level of lines on the console: WARNING leaves warnings alone, ERROR and CRITICAL none; DEBUG says
    what INFO says. ``log.txt`` holds all of them."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    amp: str = "off"
    """Mixed precision: ``off`` or ``bf16``."""
    compile: bool = False
    """Compile the model with torch.compile."""
    max_steps: int | None = None
    """Stop after this many steps; schedules are not shortened."""
    dry_run: bool = False
    """Check the configuration and stop before data are read."""
    fake_data: bool = False
    """Generate a small data set in the real layout and use it instead of ``dataset_dir``."""
    tour: bool = False
    """Train dense and pruned on embedded data, evaluate, export and print a table."""
    preset: str = "fixed"
    """``faithful`` (the original's quirks) or ``fixed``; where single quirks are set, they win."""

    def __post_init__(self) -> None:
        for name in ("save_checkpoint_every", "losses_log_every", "console_every", "keep_last"):
            check_at_least(name, getattr(self, name), 1)
        check_one_of("logging_level", self.logging_level, LOGGING_LEVELS)
        check_one_of("amp", self.amp, AMP)
        check_one_of("preset", self.preset, PRESETS)
        if self.max_steps is not None:
            check_at_least("max_steps", self.max_steps, 1)
        check_device(self.device)


@dataclass(frozen=True, kw_only=True)
class QuirksConfig(Quirks):
    """Behaviours of the original that change numbers: True is the original's way, False ours."""

    masks_per_call: bool = False
    """Draw a supermask anew at each call of its layer, so at each time step of an LSTM; else once a step."""
    truncation_drops_eos: bool = False
    """A caption that is cut to ``max_seq_length`` loses its eos; else its last token becomes eos."""
    last_column_fed: bool = False
    """Up-Down also predicts from the last column of the captions, for which there is no target."""
    few_captions_fail: bool = False
    """A picture with fewer captions than ``seq_per_img`` gives fewer rows; else captions are repeated."""
    frozen_masks_sampled: bool = False
    """Masks in ``prune_mask_freeze_scope`` are still drawn at random in training; else rounded."""
    original_decoding: bool = False
    """Decode as the original: with unknown words in captions, with log-probabilities of ended rows on
    record, and without diverse beams, which it never ran."""
    mixed_caches: bool = False
    """Decode with one attention cache for all depths that share a layer (ACORT's published scores), so that
    their keys mix; else each depth has its own."""
    uncached_pruned: bool = False
    """A pruned relation transformer decodes without attention caches, so that it sees the newest token alone,
    in validation and in self-critical training."""
    target_of_all_masks: bool = False
    """A checkpoint counts as best only when all masks together are near the sparsity target, also those
    in ``prune_mask_freeze_scope`` and those taken from a checkpoint; else only masks that the run makes."""
    signed_snip: bool = False
    """SNIP ranks gradients with their sign; else by size."""
    gradients_through_samples: bool = False
    """Self-critical training keeps the gradients of its sampling; else it samples without, and scores the
    samples by one pass with gradients."""
    frequencies_with_end: bool = False
    """Document frequencies count the end and unknown words, which neither samples nor references hold."""
    weight_in_run_name: bool = False
    """The run's folder of a supermask run gets the suffix ``__wg_`` with the sparsity loss's weight."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that decides what a run does."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The network."""
    data: DataConfig = field(default_factory=DataConfig)
    """The data set and batches."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Losses and optimisation."""
    prune: PruneConfig = field(default_factory=PruneConfig)
    """Pruning."""
    scst: ScstConfig = field(default_factory=ScstConfig)
    """Self-critical training."""
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    """Decoding in evaluation."""
    run: RunConfig = field(default_factory=RunConfig)
    """The run itself."""
    quirks: QuirksConfig = field(default_factory=QuirksConfig)
    """The original's quirks, one by one."""

    def __post_init__(self) -> None:
        name, method = self.model.caption_model, self.prune.prune_type
        if self.model.pruned and method is None:
            raise UserError(f"caption_model {name} needs prune_type, one of {', '.join(PRUNE_TYPES)}")
        if not self.model.pruned and method is not None:
            raise UserError(f"prune_type {method} needs a pruned model: caption_model {name}_prune")
        if name in UP_DOWN and self.optim.label_smoothing > 0 and self.quirks.last_column_fed:
            raise UserError(
                f"label_smoothing {self.optim.label_smoothing} fails with {name} in the original, whose "
                "prediction is longer than the target: use preset fixed or quirks.last_column_fed false"
            )

    @property
    def sparsity_weight(self) -> float:
        """Weight of the sparsity loss of this model."""
        return self.prune.sparsity_weight(self.model.caption_model)

    @property
    def network_vocab_size(self) -> int:
        """Token ids V of the network: vocab_size, or a radix tokenizer's digits, pad, bos and eos."""
        return self.data.radix_base + 3 if self.data.tokenizer == "radix" else self.model.vocab_size

    @property
    def noam_width(self) -> int:
        """The d_model of ``noam``: rnn_size for Up-Down, where the original stops with an error."""
        return self.model.rnn_size if self.model.caption_model in UP_DOWN else self.model.d_model
