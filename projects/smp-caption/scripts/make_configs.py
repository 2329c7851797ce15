"""Write every YAML file under ``config/``: ``python scripts/make_configs.py [FOLDER]``.

The rows of the published tables differ in a few flags each, so the flags stand here once, and each file gets
all values that they mean: it is complete in itself. A test compares the files with what this writes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from config_file import Row, Texts

CONFIG = Path(__file__).resolve().parents[1] / "config"

# --- the published tables ---

PAPER = "End-to-End Supermask Pruning (Tan et al. 2021)"
COMPACT = "ACORT, a compact Object Relation Transformer,"
TARGETS = ("0.95", "0.975", "0.9875", "0.991")
TOLERANCE = "tolerance 1.0 CIDEr (seeds differ)"
WEIGHTS = {"0.95": "40", "0.975": "80", "0.9875": "80", "0.991": "120"}
"""Weight of the sparsity loss by target, for both models."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """One of the two tables."""

    name: str
    title: str
    model: str
    weights: float
    """Masked weights in millions."""
    common: Texts
    """Flags of all its rows."""
    pruned: Texts
    """Flags of its pruned rows."""
    dense: str
    """CIDEr of the dense row, and more."""
    named_weight: str
    """The target whose weight of the sparsity loss the authors name."""
    smp: tuple[str, ...]
    gradual: tuple[str, ...]
    hard: Mapping[str, tuple[str, ...]]
    lottery: Mapping[str, tuple[str, ...]]
    snip: tuple[str, ...]
    scst: tuple[str, str, str]
    """CIDEr of the dense model, at 95 % and at 99.1 %, each with its size."""
    scst_pruned_samples: str
    """Samples of a picture in self-critical training of a sparse model."""


UP_DOWN_TABLE = Family(
    name="up_down",
    title="Up-Down",
    model="up_down_lstm",
    weights=53.122512,
    common={"lr_scheduler": "cosine", "learning_rate": "0.01", "optim_epsilon": "0.01"},
    pruned={"drop_prob_lm": "0.1"},
    dense="111.3, BLEU-4 35.7",
    named_weight="0.991",
    smp=("112.5, BLEU-4 35.5", "110.6, BLEU-4 34.8", "109.0, BLEU-4 35.0", "107.8, BLEU-4 34.8"),
    gradual=("109.7, BLEU-4 34.9", "107.0, BLEU-4 34.4", "103.4, BLEU-4 33.5"),
    hard={
        "blind": ("", "", ""),
        "dist": ("110.0", "105.9", "101.3"),
        "uniform": ("110.2", "105.4", "100.5"),
    },
    lottery={
        "uniform": ("107.7", "103.8", "99.3"),
        "gradual": ("109.5", "106.6", "102.2"),
        "blind": ("", "", ""),
    },
    snip=("38.2, BLEU-4 16.9", "34.7, BLEU-4 15.8", "32.6, BLEU-4 15.2"),
    scst=("125.9; 212.6 MB", "124.9; 2.7 M nonzero weights, 53.3 MB", "120.1; 0.5 M nonzero weights, 9.7 MB"),
    scst_pruned_samples="60",
)
ORT_TABLE = Family(
    name="ort",
    title="ORT",
    model="relation_transformer",
    weights=55.332864,
    common={},
    pruned={"drop_prob_src": "0.1"},
    dense="114.7",
    named_weight="0.9875",
    smp=("113.7", "113.7", "110.7", "109.3"),
    gradual=("115.3", "113.2", "110.0", "107.0"),
    hard={
        "blind": ("4.1", "0.7", "0.9"),
        "dist": ("112.5", "106.6", "96.9"),
        "uniform": ("113.0", "106.9", "59.8"),
    },
    lottery={"gradual": ("115.7", "112.9", "109.8", "107.1")},
    snip=("47.2", "44.0", "37.3"),
    scst=("130.3; 232.2 MB", "129.4; 2.9 M nonzero weights, 66.2 MB", "124.3; 20.8 MB"),
    scst_pruned_samples="15",
)
SCST: Texts = {
    "lr_scheduler": "step",
    "learning_rate": "0.00005",
    "learning_rate_decay_start": "-1",
    "batch_size": "5",
    "max_epochs": "10",
    "scst_start_epoch": "0",
    "scst_bleu_weight": "0,0,0,1",
    "losses_log_every": "75",
}
"""Self-critical training of every model: a constant rate, CIDEr-D and BLEU-4 as the reward."""
ROUNDED = "The table rounds this target to 0.988."
COLLAPSED = "no score: the run collapsed (0.0 in the authors' plots)."
EPSILON = "Adam's epsilon of this run is not recorded: the flag's default here."


def expected(score: str) -> str:
    """What a row of the tables is expected to reach."""
    return f"CIDEr {score}, beam 2, cross-entropy; {TOLERANCE}." if score else COLLAPSED


def cost(epochs: int = 15) -> str:
    """Steps of a run by cross-entropy."""
    return f"not measured here. {epochs} epochs of 7552 steps of 15 pictures with 5 captions each."


def table(family: Family) -> Iterator[Row]:
    """All files of a table."""
    name, title = family.name, f"{PAPER}, {family.title} on COCO (Karpathy test), row:"
    yield Row(
        file=f"{name}/dense",
        title=f"{title} dense baseline.",
        expected=expected(family.dense),
        cost=cost(),
        flags={"caption_model": family.model, **family.common},
    )
    for file, row, method, scores, more in methods(family):
        for target, score in zip(TARGETS, scores, strict=False):
            left = f"{(1 - float(target)) * family.weights:.1f} M nonzero weights of {family.weights:.1f} M."
            notes = (ROUNDED, left) if target == "0.9875" else (left,)
            flags = {name: value.format(target=target) for name, value in more.items()}
            if method == "supermask":
                flags["prune_supermask_sparsity_weight"] = WEIGHTS[target]
                notes = (*notes, *_weight_note(family, target))
            yield Row(
                file=f"{name}/{file}_{target}",
                title=f"{title} {row} {target}.",
                expected=expected(score),
                notes=notes + _start_note(flags),
                cost=cost(int(flags.get("max_epochs", 15))),
                flags={
                    "caption_model": f"{family.model}_prune",
                    "prune_type": method,
                    "prune_sparsity_target": target,
                    **family.common,
                    **family.pruned,
                    **flags,
                },
            )
    yield from scst_rows(family)


def methods(family: Family) -> Iterator[tuple[str, str, str, tuple[str, ...], Texts]]:
    """File, name of the row, prune type, scores by target, and flags of every way to prune."""
    dense = {"start_from": f"runs/{family.name}_dense"}
    yield "smp", "SMP", "supermask", family.smp, {}
    yield "gradual", "gradual pruning", "mag_grad_uniform", family.gradual, {}
    classes = {"blind": "class-blind", "dist": "class-distribution", "uniform": "class-uniform"}
    for kind, scores in family.hard.items():
        more = dense | {"max_epochs": "10"}
        yield f"hard_{kind}", f"hard pruning ({classes[kind]})", f"mag_{kind}", scores, more
    for kind, scores in family.lottery.items():
        if kind == "gradual":
            start = {"start_from": f"runs/{family.name}_gradual_{{target}}"}
            yield "lottery_gradual", "lottery ticket (gradual)", "lottery_mask_freeze", scores, start
        else:
            row = f"lottery ticket ({classes[kind]})"
            yield f"lottery_{kind}", row, f"lottery_mag_{kind}", scores, dense
    yield "snip", "SNIP", "snip", family.snip, {}


def _weight_note(family: Family, target: str) -> tuple[str]:
    weight = WEIGHTS[target]
    if target == family.named_weight:
        return (f"Weight of the sparsity loss: {weight}, as in the named run.",)
    swept = f"is not recorded (40, 80, 120 were swept): {weight} here."
    return (f"The weight of the sparsity loss behind this cell {swept}",)


def _start_note(flags: Texts) -> tuple[str, ...]:
    """Which file makes the run that one starts from."""
    if "start_from" not in flags:
        return ()
    start = flags["start_from"].removeprefix("runs/")
    run = start.partition("/")[0].partition("__wg_")[0]
    family = next(name for name in ("up_down", "ort", "acort", "flickr1k") if run.startswith(name))
    return (f"Starts from the run of config/{family}/{run.removeprefix(f'{family}_')}.yaml.",)


def scst_rows(family: Family) -> Iterator[Row]:
    """Self-critical training of the dense model and of two sparse ones."""
    title = f"{PAPER}, {family.title} on COCO (Karpathy test), row: self-critical training,"
    start = {"start_from": f"runs/{family.name}_dense"}
    scores = iter(family.scst)
    yield scst_row(
        f"{family.name}/scst_dense",
        f"{title} dense.",
        next(scores),
        {"caption_model": family.model, **family.pruned, "scst_num_samples": "15", **start},
    )
    for target, score in zip(("0.95", "0.991"), scores, strict=True):
        start = f"runs/{family.name}_smp_{target}__wg_{float(WEIGHTS[target]):.1f}/model_best_bin_mask.pth"
        flags = {
            "caption_model": f"{family.model}_prune",
            "prune_type": "mask_freeze",
            "prune_sparsity_target": target,
            **family.pruned,
            "scst_num_samples": family.scst_pruned_samples,
            "start_from": start,
        }
        yield scst_row(f"{family.name}/scst_{target}", f"{title} SMP {target}.", score, flags)


def scst_row(file: str, title: str, score: str, flags: Texts) -> Row:
    """One run of self-critical training."""
    score, _, size = score.partition(";")
    notes = (f"{size.strip()}.",) if size else ()
    samples = flags["scst_num_samples"]
    return Row(
        file=file,
        title=title,
        expected=f"CIDEr {score}, beam 2, self-critical; {TOLERANCE}.",
        notes=(*notes, *_start_note(flags), EPSILON),
        cost=f"not measured here. 226570 steps of 5 pictures with {samples} samples each.",
        flags={**flags, **SCST},
    )


# --- compact transformers ---

RADIX: Texts = {"tokenizer": "radix", "radix_base": "768", "max_seq_length": "26"}
SHARED_ATTENTION: Texts = {"share_att_encoder": "kv", "share_att_decoder": "kv"}


def shared(layers: str) -> Texts:
    """Flags of a transformer whose encoder and decoder share layers."""
    return {"share_layer_encoder": layers, "share_layer_decoder": layers}


def acort_rows() -> Iterator[Row]:
    """ACORT: base, small, all layers shared, and two by self-critical training."""
    twice, once = shared("(0, 0, 0, 1, 1, 1)"), shared("(0, 0, 0, 0, 0, 0)")
    small = {"d_model": "256", "dim_feedforward": "1024"}
    model = {"caption_model": "relation_transformer", **RADIX, **SHARED_ATTENTION}
    unknown = "no cross-entropy score is in the tables; see the file of self-critical training."
    sizes = {
        "base": ("14,979,347 weights", {**model, **twice}),
        "small": ("4,213,779 weights", {**model, **twice, **small}),
        "base_al": ("one layer stands at all six depths", {**model, **once}),
    }
    for name, (size, flags) in sizes.items():
        row = name.replace("_al", "-AL")
        yield Row(
            file=f"acort/{name}",
            title=f"{COMPACT} on COCO (Karpathy test): {row}, {size}.",
            expected=unknown if name != "base_al" else "no score is in the tables.",
            cost=cost(),
            flags=flags,
        )
    for name, score in {"base": "127.8", "small": "126.9"}.items():
        start = {"drop_prob_src": "0.1", "scst_num_samples": "15", "start_from": f"runs/acort_{name}"}
        title = f"{COMPACT} on COCO (Karpathy test): {name}, self-critical training."
        yield scst_row(f"acort/scst_{name}", title, score, {**sizes[name][1], **start})


def small_ort_rows() -> Iterator[Row]:
    """The relation transformer in two smaller sizes."""
    for name, width, hidden in (("small", "256", "1024"), ("xsmall", "104", "416")):
        yield Row(
            file=f"ort/{name}",
            title=f"ORT-{name} (d_model {width}) on COCO, of ACORT's comparison; no row of these tables.",
            expected="no score is in the tables.",
            cost=cost(),
            flags={"caption_model": "relation_transformer", "d_model": width, "dim_feedforward": hidden},
        )


# --- small runs: real pictures and generated ones ---

BEAT = "more than 1.3 times the test CIDEr of the best constant caption."
ABOVE = "above the test CIDEr of the best constant caption."
FLICKR1K: Texts = {
    "dataset": "flickr1k",
    "att_feat_size": "195",
    "lr_scheduler": "cosine",
    "weight_decay": "0.00001",
    "num_workers": "0",
    "vocab_size": "1000",
    "save_checkpoint_every": "300",
    "beam_size_val": "5",
    "beam_size_test": "5",
    "preset": "fixed",
}
SMALL_UP_DOWN: Texts = {
    "fc_feat_size": "195",
    "rnn_size": "256",
    "input_encoding_size": "128",
    "att_hid_size": "96",
    "drop_prob_lm": "0.1",
    "learning_rate": "0.002",
    "batch_size": "5",
}
SMALL_ORT: Texts = {
    "d_model": "128",
    "dim_feedforward": "512",
    "num_layers": "2",
    "num_heads": "4",
    "drop_prob_src": "0.3",
    "learning_rate": "0.001",
    "batch_size": "15",
    "save_checkpoint_every": "100",
}
SPARSE_ORT: Texts = {"prune_sparsity_target": "0.95", "learning_rate": "0.002", "max_epochs": "30"}
"""The few weights that are left learn with larger steps, and longer."""


def flickr1k_rows() -> Iterator[Row]:
    """991 real pictures: Up-Down dense and pruned, and the relation transformer in every way to prune."""
    att = ("--input_att_dir", "FEATURES/att")
    for name, row, flags in (
        ("dense", "dense", {"caption_model": "up_down_lstm", "max_epochs": "14"}),
        (
            "smp_0.8",
            "supermask-pruned to 80 %",
            {"caption_model": "up_down_lstm_prune", **supermask("0.8", "250"), "max_epochs": "16"},
        ),
    ):
        yield Row(
            file=f"flickr1k/{name}",
            title=f"Up-Down on the 991 pictures of flickr1k, {row}; no row of the paper.",
            expected=BEAT,
            cost="about ten minutes on one CPU core.",
            flags={**flags, **FLICKR1K, **SMALL_UP_DOWN},
            features=(*att, "--input_fc_dir", "FEATURES/fc"),
        )
    for name, row, flags in ort_on_flickr1k():
        pruned = "_prune" if "prune_type" in flags else ""
        yield Row(
            file=f"flickr1k/{name}",
            title=f"ORT on the 991 pictures of flickr1k, {row}; no row of the paper.",
            expected=ABOVE,
            notes=_start_note(flags),
            cost="about five minutes on one CPU core.",
            flags={"caption_model": f"relation_transformer{pruned}", **FLICKR1K, **SMALL_ORT, **flags},
            features=(*att, "--input_rel_box_dir", "FEATURES/box_relative"),
        )


def ort_on_flickr1k() -> Iterator[tuple[str, str, Texts]]:
    """File, row and flags of the relation transformer's runs."""
    start = {"start_from": "runs/flickr1k_ort_dense"}
    yield "ort_dense", "dense", {"max_epochs": "18"}
    # While its masks are drawn most weights take part: it overfits without the dropout of the dense network.
    smp = {**SPARSE_ORT, **supermask("0.95", "120"), "drop_prob_layer": "0.1"}
    yield "ort_smp_0.95", "supermask-pruned to 95 %", smp
    hard = {**SPARSE_ORT, "prune_type": "mag_uniform", **start}
    yield "ort_hard_uniform_0.95", "pruned once to 95 % of each matrix", hard
    gradual = {**SPARSE_ORT, "prune_type": "mag_grad_uniform", "prune_gradual_frequency": "50"}
    yield "ort_gradual_0.95", "pruned to 95 % step by step", gradual
    snip = {**SPARSE_ORT, "prune_type": "snip", "learning_rate": "0.003", "max_epochs": "40"}
    yield "ort_snip_0.95", "pruned to 95 % before training", snip
    scst = {
        "lr_scheduler": "step",
        "learning_rate": "0.00002",
        "learning_rate_decay_start": "-1",
        "max_epochs": "2",
        "save_checkpoint_every": "50",
        "scst_start_epoch": "0",
        "scst_num_samples": "5",
    }
    yield "ort_scst", "self-critical training", {**start, **scst}


def supermask(target: str, weight: str) -> Texts:
    """Flags of a supermask run."""
    flags = {"prune_type": "supermask", "prune_sparsity_target": target}
    return {**flags, "prune_supermask_sparsity_weight": weight}


TINY: Texts = {
    "dataset": "tiny",
    "model_size": "testing",
    "lr_scheduler": "cosine",
    "num_workers": "0",
    "batch_size": "16",
    "batch_size_eval": "64",
    "max_epochs": "15",
    "save_checkpoint_every": "300",
    "preset": "fixed",
}


def tiny_rows() -> Iterator[Row]:
    """Generated pictures."""
    up_down = {"rnn_size": "128", "drop_prob_lm": "0.1", "learning_rate": "0.004"}
    pruned = {"caption_model": "up_down_lstm_prune", **supermask("0.95", "30"), **TINY, **up_down}
    relation = {"d_model": "64", "dim_feedforward": "256", "drop_prob_src": "0.1", "learning_rate": "0.002"}
    for name, title, flags in (
        ("dense", "small Up-Down model, dense", {"caption_model": "up_down_lstm", **TINY, **up_down}),
        ("smp_0.95", "small Up-Down model, supermask-pruned to 95 %", pruned),
        (
            "ort",
            "small Object Relation Transformer, dense",
            {"caption_model": "relation_transformer", **TINY, **relation},
        ),
    ):
        model, _, how = title.partition(", ")
        yield Row(
            file=f"tiny/{name}",
            title=f"A {model} on the embedded data set, {how}; no row of the paper.",
            expected="far above the best constant caption; no fixed score.",
            cost="about a minute on two CPU cores.",
            flags=flags,
        )


def rows() -> Iterator[Row]:
    """Every file, in the order of the README."""
    yield from table(UP_DOWN_TABLE)
    yield from table(ORT_TABLE)
    yield from small_ort_rows()
    yield from acort_rows()
    yield from flickr1k_rows()
    yield from tiny_rows()


def write(folder: Path) -> list[Path]:
    """Write all files, and say which."""
    written = []
    for row in rows():
        path = folder / f"{row.file}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(row.text(), encoding="utf-8")
        written.append(path)
    return written


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="write every YAML file under config/")
    parser.add_argument("folder", nargs="?", type=Path, default=CONFIG)
    print(f"{len(write(parser.parse_args().folder))} files")
