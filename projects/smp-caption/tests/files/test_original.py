"""The original's files: written, read back, converted, of every version that it can convert itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prunelab.errors import UserError
from prunelab.mask import masks
from prunelab.mask.files import load_state
from smp_caption import convert, export
from smp_caption.captioner import Captioner
from smp_caption.cli import ALL_GROUPS
from smp_caption.config import Config, DecodeConfig, OptimConfig, PruneConfig, QuirksConfig
from smp_caption.files import original
from smp_caption.options import ConvertOptions, ExportOptions, TestOptions
from smp_caption.steps import make_optimizer
from smp_caption.test import test as score

OURS = ("best", "last", "pruned", "checkpoints", "config.yaml", "pruned.pack")


def features(pictures: Path) -> list[np.ndarray]:
    return [np.load(pictures / "bu/cocobu_att" / f"{number}.npy") for number in range(17, 22)]


@pytest.fixture
def published(finished: Callable[[str, str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """Copies what the original itself would have left of a run: no file of ours."""

    def get(kind: str) -> Path:
        folder = tmp_path / f"original_{kind}"
        if folder.exists():
            return folder
        shutil.copytree(finished(kind, "faithful"), folder, ignore=lambda _, names: set(OURS) & set(names))
        return folder

    return get


def test_a_dense_run_of_the_original_is_loaded_as_ours(
    published: Callable[[str], Path], finished: Callable[[str, str], Path], pictures: Path
) -> None:
    folder = published("dense")
    ours = Captioner.from_pretrained(finished("dense", "faithful") / "best")
    assert original.find(folder) == folder / original.BEST
    assert original.find(folder, last=True) == folder / original.LAST
    for path in (folder, folder / original.BEST):
        theirs = original.load(path)
        assert theirs.caption_features(features(pictures)) == ours.caption_features(features(pictures))
        assert (theirs.config, theirs.mask, theirs.decode) == (ours.config, None, ours.decode)


@pytest.mark.parametrize("name", [original.BEST, original.PRUNED, original.SPARSE, original.BINARY])
def test_every_file_of_a_pruned_run_says_the_same(
    name: str, published: Callable[[str], Path], finished: Callable[[str, str], Path], pictures: Path
) -> None:
    folder, ours = published("pruned"), Captioner.from_pretrained(finished("pruned", "faithful") / "best")
    theirs = original.load(folder / name)
    masked = name in (original.BEST, original.BINARY)
    assert theirs.config.pruned == bool(masks(theirs.model)) == masked
    assert theirs.caption_features(features(pictures)) == ours.caption_features(features(pictures))


def test_exporting_loading_and_exporting_gives_the_same_file(
    published: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind, source, kinds in (
        ("dense", original.BEST, ["original"]),
        ("pruned", original.BEST, ["original", "sparse", "binary"]),
    ):
        folder = published(kind)
        for number, name in enumerate(kinds):
            first = export.export(
                ExportOptions(model=str(folder / source), format=name, output=str(folder / f"{number}.pth"))
            )
            again = export.export(
                ExportOptions(model=str(first), format="original", output=str(folder / f"{number}_again.pth"))
            )
            before, after = (load_state(path)[0] for path in (first, again))
            assert list(before) == list(after)
            for key, value in before.items():
                assert torch.equal(value.to_dense(), after[key]), key
        reference = load_state(folder / source)[0]
        assert all(
            torch.equal(value, reference[key]) for key, value in load_state(folder / "0.pth")[0].items()
        )
        convert.convert(ConvertOptions(source=str(folder / source), destination=str(tmp_path / kind)))
        back = export.export(
            ExportOptions(model=str(tmp_path / kind), format="original", output=str(tmp_path / f"{kind}.pth"))
        )
        state = load_state(back)[0]
        assert list(state) == list(reference)
        assert all(torch.equal(state[key], value) for key, value in reference.items())
    said = capsys.readouterr().out
    assert "up_down_lstm_prune, 32 tensors (11 masks)" in said
    assert "unused keys: none; missing keys: none" in said
    assert f"written: {tmp_path / 'pruned'}" in said


@pytest.mark.parametrize("place", ["beside the model", "elsewhere"])
@pytest.mark.parametrize("kind", ["best", "pruned"])
def test_an_export_of_any_run_is_loaded_with_what_is_written_beside_it(
    kind: str, place: str, finished: Callable[[str, str], Path], pictures: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(finished("pruned", "fixed"), tmp_path / "run")
    if place == "elsewhere":  # where nothing tells of the run
        run = shutil.copytree(run / kind, tmp_path / "alone/model").parent
    output = "" if place == "beside the model" else str(tmp_path / "new/model.pth")
    model = run / (kind if place == "beside the model" else "model")
    file = export.export(ExportOptions(model=str(model), output=output))
    ours, theirs = Captioner.from_pretrained(model), original.load(file)
    assert theirs.config == ours.config
    assert (
        (theirs.mask and theirs.mask.kind)
        == (ours.mask and ours.mask.kind)
        == ({"best": "supermask"}.get(kind))
    )
    assert theirs.caption_features(features(pictures)) == ours.caption_features(features(pictures))
    before = (file.parent / "config.json").read_bytes()
    export.export(ExportOptions(model=str(file), output=str(file.parent / "again.pth")))
    assert (file.parent / "config.json").read_bytes() == before


def test_converting_dry_writes_nothing_and_exports_say_where_they_would_go(
    published: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = published("pruned")
    convert.main([str(folder), str(tmp_path / "there"), "--dry-run"])
    assert not (tmp_path / "there").exists()
    export.main([str(folder), "--dry-run", "--output", str(tmp_path / "copy.pth")])
    assert "would be written to" in capsys.readouterr().out
    assert not (tmp_path / "copy.pth").exists()
    with pytest.raises(SystemExit):
        export.main([str(folder)])
    assert "not written over the model itself" in capsys.readouterr().err
    assert not list(folder.glob("model_best.pth.*"))


def test_the_original_would_find_all_its_flags_in_the_configuration(
    published: Callable[[str], Path],
) -> None:
    written = json.loads((published("pruned") / "config.json").read_text())
    flags = {name for _, group in ALL_GROUPS for name in group}
    assert flags - set(written) == set()
    for name in ("bos_token_id", "eos_token_id", "unk_token_id", "pad_token_id", "num_special_symbols"):
        assert name in written


@pytest.mark.parametrize("kind", ["dense", "pruned"])
def test_the_configuration_of_an_originals_run_comes_back_with_its_quirks(
    kind: str, published: Callable[[str], Path], finished: Callable[[str, str], Path]
) -> None:
    ours, theirs = original.run_config(finished(kind, "faithful")), original.run_config(published(kind))
    assert theirs.quirks == ours.quirks == QuirksConfig.of("faithful")
    for group in ("data", "optim", "decode", "prune"):
        assert getattr(theirs, group) == getattr(ours, group), group
    assert theirs.model == ours.model
    assert original.run_config(published(kind).parent) == Config()


def test_an_originals_run_is_scored_as_ours(
    published: Callable[[str], Path], finished: Callable[[str, str], Path], tmp_path: Path
) -> None:
    run = finished("pruned", "faithful")
    wanted = json.loads(next(run.glob("test_beam_2/score_????????.json")).read_text())
    folder = published("pruned")
    found = score(TestOptions(log_dir=str(folder), num_workers=0, output=str(tmp_path / "scores")))
    assert {f"test/{name}": pytest.approx(value) for name, value in wanted.items()} == found
    half = TestOptions(
        log_dir=str(folder.parent),
        id=folder.name,
        model_file=original.PRUNED,
        load_as_float16=True,
        num_workers=0,
    )
    assert set(score(half)) == set(found)
    state = load_state(folder / "model_best_pruned_float16.pth")[0]
    assert {value.dtype for value in state.values()} == {torch.float16}
    assert set(score(replace(half, model_file=original.SPARSE))) == set(found)
    sparse = load_state(folder / "model_best_pruned_sparse_float16.pth")[0]
    assert sparse["logit.weight"].layout == torch.sparse_coo
    assert (sparse["logit.weight"].dtype, sparse["logit.bias"].dtype) == (torch.float16, torch.float16)


def test_an_optimiser_of_the_original_is_loaded_and_one_of_something_else_is_one_line(
    published: Callable[[str], Path], tmp_path: Path
) -> None:
    folder, file = published("pruned"), tmp_path / "optimizer_last.pth"
    captioner = original.load(folder / original.LAST)
    prune = PruneConfig(prune_type="supermask")

    def optimizer(**changes: Any) -> torch.optim.Optimizer:
        optim = OptimConfig(lr_scheduler="cosine", **changes)
        return make_optimizer(captioner.model, optim, prune)

    written = torch.load(folder / original.OPTIMIZER_LAST, weights_only=True)
    # PyTorch 1.6 counted steps in plain numbers and knew fewer options.
    groups = [
        {name: value for name, value in group.items() if name not in ("fused", "foreach", "maximize")}
        for group in written["param_groups"]
    ]
    plain = {n: {**state, "step": int(state["step"])} for n, state in written["state"].items()}
    torch.save({"state": plain, "param_groups": groups}, file)
    found = optimizer(learning_rate=0.5)
    original.load_optimizer(found, file)
    assert [group["lr"] for group in found.param_groups] == [0.5, 100.0]
    assert found.param_groups[0]["fused"]
    for number, state in found.state_dict()["state"].items():
        assert all(torch.equal(state[name], written["state"][number][name]) for name in state)

    damages: list[tuple[Any, str]] = [
        ([1], "holds no optimiser; expected the keys state and param_groups"),
        ({"state": {}}, "holds no optimiser"),
        ({"state": {}, "param_groups": groups[:1]}, r"groups of \[21\] parameters, expected \[21, 11\]"),
        (
            {"state": {0: {"exp_avg": torch.zeros(2, 3)}}, "param_groups": groups},
            r"exp_avg of parameter 0 has shape \(2, 3\), expected \(30, 16\): it is of another model",
        ),
    ]
    for content, said in damages:
        torch.save(content, file)
        with pytest.raises(UserError, match=said):
            original.load_optimizer(optimizer(), file)
    torch.save(written, file)
    with pytest.raises(UserError, match="has no momentum: it is of another optimiser than SGD"):
        original.load_optimizer(optimizer(optim="sgdm"), file)
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(UserError, match=r"optimizer_last.pth: no file of weights, or cut off"):
        original.load_optimizer(optimizer(), file)


def test_features_of_an_originals_run_go_where_its_data_set_goes(published: Callable[[str], Path]) -> None:
    folder = published("dense")
    plain = json.loads((folder / "config.json").read_text())
    assert plain["input_att_dir"] == f"{plain['dataset_dir']}/bu/cocobu_att"
    plain |= {
        "dataset_dir": "/their/coco",
        "input_att_dir": "/their/coco/bu/cocobu_att/",
        "input_fc_dir": "/elsewhere",
    }
    (folder / "config.json").write_text(json.dumps(plain))
    data = original.run_config(folder).data
    assert (data.dataset_dir, data.input_att_dir, data.input_fc_dir) == ("/their/coco", "", "/elsewhere")


def old(version: str, **changes: Any) -> dict[str, Any]:
    base = {"version": version, "caption_model": "relation_transformer", "vocab_size": 10000}
    return {**base, **changes}


def test_configurations_of_older_versions_are_brought_up_to_date() -> None:
    new = old("1.0.0-alpha", num_heads=4, share_att_encoder="kv")
    assert original.up_to_date(new, "c") == new
    assert original.up_to_date(old("0.6.0", num_heads=4), "c")["num_heads"] == 4
    five = original.up_to_date(old("0.5.0", box_trigonometric_embedding=False, share_att_encoder="kv"), "c")
    assert five["vocab_size"] == 10000
    assert five["no_box_trigonometric_embedding"] is True
    assert "box_trigonometric_embedding" not in five
    assert five["num_heads"] == 8
    assert [five[f"share_{what}_{part}"] for what in ("att", "layer") for part in ("encoder", "decoder")] == [
        None
    ] * 4
    sizes = {"input_encoding_size": 256, "rnn_size": 1024, "drop_prob_lm": 0.3}
    two = original.up_to_date(old("0.2.1", **sizes), "c")
    assert (two["vocab_size"], two["d_model"], two["dim_feedforward"], two["drop_prob_src"]) == (
        10001,
        256,
        1024,
        0.3,
    )
    assert two["no_box_trigonometric_embedding"] is False
    up_down = original.up_to_date(old("0.2.1", **sizes | {"caption_model": "up_down_lstm"}), "c")
    assert (up_down["rnn_size"], up_down["input_encoding_size"], up_down["vocab_size"]) == (1024, 256, 10001)
    for beam, sample in ((True, "beam_search"), (False, "random")):
        one = original.up_to_date(old("0.1.0", **sizes, scst_beam_search=beam, scst_mode="greedy"), "c")
        assert (one["scst_sample"], one["scst_baseline"]) == (sample, "greedy")
        assert not {"scst_mode", "scst_beam_search"} & set(one)


def test_options_of_decoding_that_were_written_into_a_configuration_by_hand_are_read(tmp_path: Path) -> None:
    options = {"decoding_constraint": 1, "temperature": 2, "length_penalty": "wu_0.9", "group_size": 2}
    (tmp_path / "config.json").write_text(json.dumps(old("1.0.0-alpha", **options)))
    found = original.run_config(tmp_path).decode
    assert found == DecodeConfig(
        decoding_constraint=True, temperature=2.0, length_penalty="wu_0.9", group_size=2
    )


@pytest.mark.parametrize("weights", ["0.5,0,0,1", [0.5, 0, 0, 1]])
def test_every_group_of_a_configuration_is_read_and_what_is_null_is_left_open(
    weights: Any, tmp_path: Path
) -> None:
    content = {
        "caption_model": "relation_transformer_prune",
        "tokenizer": "radix",
        "unk_token_id": None,
        "share_layer_encoder": [0, 0, 1],
        "cached_tokens": None,
        "prune_type": "mag_grad_uniform",
        "prune_sparsity_target": 0.975,
        "scst_start_epoch": 0,
        "scst_num_samples": 15,
        "scst_bleu_weight": weights,
        "lr_scheduler": "step",
        "beam_size_val": 3,
    }
    (tmp_path / "config.json").write_text(json.dumps(content))
    cfg = original.run_config(tmp_path)
    assert (cfg.model.unk_token_id, cfg.model.share_layer_encoder) == (-1, (0, 0, 1))
    assert (cfg.prune.prune_type, cfg.prune.prune_sparsity_target) == ("mag_grad_uniform", 0.975)
    assert (cfg.scst.scst_num_samples, cfg.scst.scst_bleu_weight) == (15, (0.5, 0.0, 0.0, 1.0))
    assert (cfg.optim.lr_scheduler, cfg.decode.beam_size_val, cfg.data.tokenizer) == ("step", 3, "radix")
    assert cfg.quirks == QuirksConfig.of("faithful")
    (tmp_path / "config.json").write_text(json.dumps({**content, "caption_model": "relation_transformer"}))
    assert original.run_config(tmp_path).prune == PruneConfig()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"version": "0.0.0", "caption_model": "up_down_lstm"}, "version 0.0.0 cannot be converted"),
        ({"version": "new", "caption_model": "up_down_lstm"}, "version is 'new', expected one such as"),
        ({"version": "1.0.0"}, "no configuration of a captioning run; expected the key caption_model"),
        ([1], "no configuration of a captioning run"),
        ({"caption_model": "up_down_gru"}, "caption_model is 'up_down_gru', expected one of"),
        ({"caption_model": "up_down_lstm", "rnn_size": "big"}, "rnn_size"),
        ({"caption_model": "up_down_lstm", "tokenizer": "words"}, "tokenizer is 'words', expected one of"),
        ({"caption_model": "up_down_lstm", "rnn_size": 17}, r"fc_embed.0.weight 16x12 \(expected 17x"),
    ],
)  # fmt: skip
def test_a_broken_configuration_is_one_line(
    content: Any, said: str, published: Callable[[str], Path]
) -> None:
    folder = published("dense")
    if isinstance(content, dict) and ("rnn_size" in content or "tokenizer" in content):
        content = {**json.loads((folder / "config.json").read_text()), **content}
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=said):
        original.load(folder)


def test_what_is_missing_beside_a_file_is_named(published: Callable[[str], Path], tmp_path: Path) -> None:
    folder = published("dense")
    shutil.rmtree(folder / "tokenizer")
    with pytest.raises(UserError, match=r"has no tokenizer/word.model, expected a run or a model"):
        original.load(folder)
    alone = tmp_path / "alone.pth"
    shutil.copy(folder / original.BEST, alone)
    with pytest.raises(UserError, match=r"config.json: cannot be read"):
        original.load(alone)
    shutil.copytree(published("pruned") / "tokenizer", folder / "tokenizer")
    other = original.load(alone, config_file=folder / "config.json")
    assert other.config.rnn_size == 16
    assert {f.name for f in fields(other.config)} <= set(json.loads((folder / "config.json").read_text()))
