"""Every shipped YAML configuration, and what a configuration is."""

from __future__ import annotations

import ast
import functools
import inspect
import re
import runpy
import shlex
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunelab.config import from_plain, to_plain, yaml_text
from prunelab.doors import field_docs, read_yaml
from prunelab.errors import UserError
from prunelab.mask import MaskSpec
from smp_caption import cli
from smp_caption import config as config_module
from smp_caption.config import Config, ModelConfig, QuirksConfig
from smp_caption.lowering import FIELDS, as_begun, lower, read_flat, run_folder, start_place
from smp_caption.model import build
from smp_caption.pruner import mask_spec

PROJECT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((PROJECT / "config").rglob("*.yaml"))
NAMES = [str(path.relative_to(PROJECT)) for path in CONFIGS]

# Fields about where and how a run is made rather than what it computes: no file names them.
NOT_IN_FILES = {
    *("log_dir", "output", "resume", "resume_training", "console_every", "keep_last", "logging_level"),
    *("device", "amp", "compile", "max_steps", "dry_run", "fake_data", "tour"),
}
UP_DOWN_FIELDS = {*cli.UP_DOWN_FLAGS, "use_bn"}
TRANSFORMER_FIELDS = {*cli.TRANSFORMER_FLAGS, *cli.RELATION_FLAGS, "drop_prob_layer"}

# What the specification of the published system counts: weights, those of them that are masked, masks.
PUBLISHED = {
    "up_down_lstm": (53_151_538, 53_122_512, 11),
    "relation_transformer": (55_443_777, 55_332_864, 1 + 6 * (4 + 8 + 2) + 6 * (4 + 4 + 2) + 2),
    "transformer": (55_440_657, None, None),
    "config/acort/base.yaml": (14_979_347, None, None),
    "config/acort/small.yaml": (4_213_779, None, None),
}
OTHER_SIZES = {"config/acort/base_al.yaml", "config/ort/small.yaml", "config/ort/xsmall.yaml"}

DIFFERENT_FROM_THE_ORIGINAL = {
    "dataset_dir": "a path of the authors' machine in the original: resolved from PRUNELAB_DATA",
    "log_dir": "the original writes into its own source folder: PRUNELAB_RUNS, else ./runs",
    "console_every": "no flag of the original, which prints every 5 steps: the same number as a field",
    "keep_last": "no counterpart: whole checkpoints are kept beside the original's two files",
}


@functools.cache
def load(path: Path) -> Config:
    return lower(cli.parse_train(["--config", str(path)]))


def header(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    return "\n".join(line.removeprefix("#").strip() for line in lines if line.startswith("#"))


def test_number_of_shipped_configurations() -> None:
    counted = Counter(path.parent.name for path in CONFIGS)
    assert counted == {"up_down": 32, "ort": 30, "acort": 5, "flickr1k": 8, "tiny": 3}


def test_files_are_what_their_table_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(PROJECT / "scripts")
    written = runpy.run_path(str(PROJECT / "scripts/make_configs.py"))["write"](tmp_path)
    texts = {str(path.relative_to(tmp_path)): path.read_text(encoding="utf-8") for path in written}
    assert texts == {str(path.relative_to(PROJECT / "config")): path.read_text("utf-8") for path in CONFIGS}


@pytest.mark.parametrize("path", CONFIGS, ids=NAMES)
def test_configuration_says_what_it_is_and_equals_its_command_line(path: Path) -> None:
    text = header(path)
    for part in (
        "row" if path.parent.name != "acort" else "ACORT",
        "Expected:",
        "Time and hardware:",
        "Command",
    ):
        assert part in text
    assert f"--config {path.relative_to(PROJECT)}" in text
    flags = re.search(r"The same as flags:\n(.*)", text, re.DOTALL)
    assert flags is not None
    words = shlex.split(flags[1].replace("\\\n", " "))
    assert words[:5] == ["uv", "run", "--package", "smp-caption", "train"]
    assert load(path) == lower(cli.parse_train(words[5:]))


@pytest.mark.parametrize("path", CONFIGS, ids=NAMES)
def test_configuration_is_complete_in_one_file(path: Path) -> None:
    cfg, values = load(path), read_flat(str(path))
    wanted = {f.name for cls in FIELDS.groups.values() for f in fields(cls)} - NOT_IN_FILES
    wanted -= TRANSFORMER_FIELDS if cfg.model.caption_model in config_module.UP_DOWN else UP_DOWN_FIELDS
    if cfg.data.tokenizer != "radix":
        wanted -= {"radix_base"}
    if not cfg.model.pruned:
        wanted -= {f.name for f in fields(config_module.PruneConfig)} - {"prune_type"}
    if cfg.scst.scst_start_epoch < 0:
        wanted -= {f.name for f in fields(config_module.ScstConfig)} | {"cached_tokens"}
    assert wanted == set(values)


@functools.cache
def counts(cfg: ModelConfig, mask: MaskSpec | None) -> tuple[int, int, int]:
    """Weights, those that are masked, and masks of a network."""
    with torch.device("meta"):
        model = build(cfg, mask)
    masks = [p.numel() for name, p in model.named_parameters() if name.endswith("_pruning_mask")]
    return sum(p.numel() for p in model.parameters()) - sum(masks), sum(masks), len(masks)


def counted(cfg: Config) -> tuple[int, int, int]:
    """The same; nothing but sizes is left, so that rows that prune in another way share an answer."""
    sizes = replace(cfg.model, vocab_size=cfg.network_vocab_size, drop_prob_lm=0.0, drop_prob_src=0.0)
    return counts(sizes, mask_spec(cfg.model, cfg.prune))


PAPERS = [path for path in CONFIGS if path.parent.name in ("up_down", "ort", "acort")]


@pytest.mark.parametrize("path", PAPERS, ids=[str(path.relative_to(PROJECT)) for path in PAPERS])
def test_configuration_of_the_paper_builds_its_model_with_the_published_number_of_weights(path: Path) -> None:
    cfg, name = load(path), str(path.relative_to(PROJECT))
    assert cfg.quirks == QuirksConfig.of("faithful")
    found = counted(cfg)
    if name in OTHER_SIZES:
        assert 0 < found[0] < PUBLISHED["relation_transformer"][0]
        return
    weights, masked, masks = PUBLISHED.get(
        name.replace("scst_", "") if "acort" in name else cfg.model.caption_model.removesuffix("_prune"),
    ) or pytest.fail(f"{name}: no published count")
    assert found == ((weights, masked, masks) if cfg.model.pruned else (weights, 0, 0))


def test_plain_transformer_has_the_published_number_of_weights() -> None:
    cfg = lower(cli.parse_train(["--caption_model", "transformer"]))
    assert counted(cfg)[0] == PUBLISHED["transformer"][0]


@pytest.mark.parametrize("path", [path for path in CONFIGS if path not in PAPERS])
def test_small_configuration_builds_a_small_model(path: Path) -> None:
    weights, masked, _ = counted(load(path))
    assert 0 < weights < 3e6
    assert (masked > 0) == load(path).model.pruned


def test_files_start_from_runs_that_other_files_make() -> None:
    folders = {str(run_folder(load(path))) for path in CONFIGS}
    started = [start for path in CONFIGS if (start := load(path).run.start_from)]
    assert len(started) > 30
    for start in started:
        run = Path(start).parent if start.endswith("model_best_bin_mask.pth") else Path(start)
        assert str(run) in folders


def test_start_from_a_run_is_found_where_runs_were_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cfg = load(PROJECT / "config/ort/hard_dist_0.95.yaml")
    assert start_place(cfg) == Path("runs/ort_dense")
    monkeypatch.setenv("PRUNELAB_RUNS", str(tmp_path / "moved"))
    assert start_place(cfg) == Path("runs/ort_dense")
    (tmp_path / "moved/ort_dense").mkdir(parents=True)
    assert start_place(cfg) == tmp_path / "moved/ort_dense"
    assert as_begun(cfg, tmp_path / "new").run.start_from == str(tmp_path / "moved/ort_dense")
    (tmp_path / "runs/ort_dense").mkdir(parents=True)
    assert start_place(cfg) == Path("runs/ort_dense")
    assert start_place(load(PROJECT / "config/ort/dense.yaml")) is None


def test_values_that_differ_from_the_original_are_known() -> None:
    known = {f.name for cls in FIELDS.groups.values() for f in fields(cls)}
    assert set(DIFFERENT_FROM_THE_ORIGINAL) <= known
    defaults = config_module.RunConfig()
    assert (defaults.console_every, defaults.log_dir) == (5, "")
    assert config_module.DataConfig().dataset_dir == ""


def test_key_value_pairs_and_flags_win_over_a_file() -> None:
    path = str(PROJECT / "config/up_down/smp_0.95.yaml")
    words = ["--config", path, "--seed", "3", "optim.learning_rate", "0.5", "masks_per_call", "false"]
    cfg = lower(cli.parse_train(words))
    assert (cfg.run.seed, cfg.optim.learning_rate, cfg.quirks.masks_per_call) == (3, 0.5, False)
    assert cfg.quirks.truncation_drops_eos
    fixed = lower(cli.parse_train(["--config", path, "--preset", "fixed"]))
    assert fixed.quirks == QuirksConfig.of("fixed")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim:\n  learning_rat: 0.1\n", "unknown key optim.learning_rat: did you mean learning_rate"),
        ("optm:\n  learning_rate: 0.1\n", "unknown group optm: did you mean optim"),
        ("optim:\n  learning_rate: fast\n", "learning_rate"),
        ("optim:\n  max_epochs: 0\n", "max_epochs is 0, expected at least 1"),
        ("- 1\n", "expected the groups model, data"),
        ("optim: [\n", "broken YAML"),
    ],
)
def test_mistakes_in_a_file_are_answered_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load(path)
    assert message in str(caught.value)
    assert "wrong.yaml" in str(caught.value)


def test_missing_file_and_unknown_key_on_the_command_line_are_named() -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml"):
        load(Path("nowhere.yaml"))
    with pytest.raises(UserError, match="learning_rate"):
        lower(cli.parse_train(["--config", str(CONFIGS[0]), "learning_rat", "0.1"]))


def test_every_field_has_a_docstring() -> None:
    tree = ast.parse(inspect.getsource(config_module))
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            assert set(field_docs(getattr(config_module, node.name))) == {
                f.name for f in fields(getattr(config_module, node.name))
            }


SOME = {
    "model": {
        "rnn_size": st.integers(1, 2000),
        "drop_prob_lm": st.floats(0, 0.99),
        "share_layer_encoder": st.sampled_from([None, (0,), (0, 0, 1), (1, 0)]),
        "share_att_encoder": st.sampled_from([None, "kv", "qk"]),
    },
    "data": {"dataset_dir": st.text(max_size=20), "seq_per_img": st.integers(1, 9)},
    "optim": {"learning_rate": st.floats(0, 10), "optim_epsilon": st.floats(1e-12, 1)},
    "scst": {"scst_bleu_weight": st.tuples(*[st.floats(0, 9)] * 4)},
    "run": {"max_steps": st.none() | st.integers(1, 10**9), "id": st.text(max_size=9), "seed": st.integers()},
    "quirks": {"masks_per_call": st.booleans()},
}


@settings(max_examples=60, deadline=None)
@given(values=st.fixed_dictionaries({group: st.fixed_dictionaries(kinds) for group, kinds in SOME.items()}))
def test_configuration_to_yaml_and_back_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, dict[str, Any]]
) -> None:
    cfg = Config(**{group: FIELDS.groups[group](**kinds) for group, kinds in values.items()})
    file = tmp_path_factory.getbasetemp() / "written.yaml"
    file.write_text(yaml_text(to_plain(cfg)), encoding="utf-8")
    assert from_plain(Config, read_yaml(file)) == cfg


def test_noam_works_for_up_down_and_takes_its_hidden_size() -> None:
    assert Config().noam_width == 1000
    transformer = Config(model=ModelConfig(caption_model="transformer", d_model=256))
    assert transformer.noam_width == 256
