"""Every shipped configuration, the CamVid study, and what a configuration is."""

from __future__ import annotations

import ast
import inspect
import json
import math
import shutil
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from acosp.soft_topk import kept_channels
from acosp_seg import cli, study, train, train_cifar10
from acosp_seg import config as config_module
from acosp_seg.config import Config, ModelConfig, QuirkConfig
from acosp_seg.lowering import ALIASES, FIELDS, Raw, lower, lower_cifar10, lower_file, run_folder
from acosp_seg.model import build
from acosp_seg.options import StudyOptions
from prunelab.config import from_plain, to_plain, yaml_text
from prunelab.doors import apply_pairs, field_docs, read_sections, read_yaml
from prunelab.errors import UserError
from testing.parity import Folder, of_kind

PROJECT = Path(__file__).resolve().parents[1]
TEMPLATE = "camvid/camvid_segnet_base.yaml"
CONFIGS = sorted(
    path for path in (PROJECT / "config").rglob("*.yaml") if not path.match("config/*/study/*.yaml")
)
OWN = ("small", "tiny")  # what we measure on a CPU, and twins on generated data
PAPER = [path for path in CONFIGS if path.parent.name not in OWN]
TINY = [path for path in CONFIGS if path.parent.name == "tiny"]
MEASURED = [path for path in CONFIGS if path.parent.name == "small"]

CHECKOUT = "a path of the authors' checkout: the class tables of this package"
RUN_PLACE = "a path of the authors' machine: the folder of the run, where training puts it"
ONLY_SCORED = "the published value scores pictures of an earlier run and never tests the network"
DIFFERENT: dict[str, dict[str, str]] = {
    "ade20k/ade20k_pspnet50.yaml": {"model_path": "tests epoch 90 of 100"},
    "voc2012/voc2012_pspnet50_0.5.yaml": {"result_path": "writes over the scores of the dense row"},
    "camvid/camvid_segnet.yaml": {"model_path": "tests epoch 440 of 450"},
    "cityscapes/cityscapes_pspnet50.yaml": {"save_path": RUN_PLACE},
}
"""Values that differ from the published files, by file and key, with the reason."""
EVERYWHERE = {
    "cityscapes/cityscapes_pspnet50*": {
        "has_prediction": ONLY_SCORED,
        "model_path": RUN_PLACE,
        "demo_save_path": RUN_PLACE,
    },
    **{
        f"{name}*": {"colors_path": CHECKOUT, "names_path": CHECKOUT}
        for name in ("voc2012/", "cityscapes/", "camvid/camvid_segnet.")
    },
}
"""The same for files by pattern."""

COUNTS = {
    ("psp", 21): (49_081_578, 49_022_442, (24_519_306, 12_267_738, 6_141_954, 3_090_946)),
    ("psp", 19): (49_080_038, 49_020_902, (24_517_766, 12_266_198, 6_140_414, 3_089_406)),
    ("psp", 150): (49_180_908, 49_121_772, (24_618_636, 12_367_068, 6_241_284, 3_190_276)),
    ("segnet", 11): (29_449_377, 29_433_483, (14_719_915, 7_363_131, 3_684_739, 1_854_883)),
    ("segnet", 19): (29_454_009, 29_438_099, (14_724_531, 7_367_747, 3_689_355, 1_859_499)),
}
"""All parameters, those of convolutions, and those of the filters that are kept at 2x, 4x, 8x, 16x."""
SPARSITIES = (0.5, 0.75, 0.875, 0.9375)


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def load(path: Path, *words: str) -> Config:
    return lower(cli.parse_train(["--config", str(path), *words]))


def header(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    return "\n".join(line.removeprefix("#").strip() for line in lines if line.startswith("#"))


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the generated study."""
    folder = tmp_path_factory.mktemp("study") / "camvid"
    study.create_study(StudyOptions(template=str(PROJECT / "config" / TEMPLATE), output=str(folder)))
    return folder


def test_number_of_shipped_and_generated_configurations(studied: Path) -> None:
    assert len(PAPER) == 22
    assert len(list(studied.rglob("*.yaml"))) == 75
    assert len({name_of(path) for path in [*PAPER, *studied.rglob("*.yaml")]}) == 97
    names = sorted(path.parent.name for path in PAPER)
    assert {name: names.count(name) for name in names} == {
        "ade20k": 5,
        "camvid": 2,
        "cityscapes": 10,
        "voc2012": 5,
    }


@pytest.mark.parity
@of_kind("configs")
def test_values_are_the_published_ones_but_for_those_that_are_listed(folder: Folder, studied: Path) -> None:
    recorded = folder.json("configs.json")
    ours = {name_of(path): path for path in [*PAPER, *studied.rglob("*.yaml")]}
    assert recorded["configs"].keys() <= ours.keys()
    for name, change in recorded["configs"].items():
        absent = set(change["absent"])
        published = {k: v for k, v in recorded["base"].items() if k not in absent} | change["set"]
        written = read_sections(ours[name])
        reasons = dict(DIFFERENT.get(name, {}))
        for pattern, more in EVERYWHERE.items():
            if Path(name).match(pattern):
                reasons |= more
        assert written.keys() - published.keys() == published.keys() - written.keys() == set(), name
        differing = {k for k in published if written[k] != published[k]}
        assert differing == reasons.keys() & published.keys(), name


@pytest.mark.parity
@of_kind("configs")
def test_key_value_pairs_are_taken_as_the_original_takes_them(folder: Folder, tmp_path: Path) -> None:
    base = folder.json("base.json")
    file = tmp_path / "base.yaml"
    file.write_text(yaml_text({"ALL": base}), encoding="utf-8")
    for case in folder.json("overrides.json"):
        if "error" in case:
            with pytest.raises(UserError):
                apply_pairs(base, case["opts"], strict=True)
            continue
        values = apply_pairs(base, case["opts"], strict=True)
        assert {k: v for k, v in values.items() if v != base[k]} == case["result"]
        ours = apply_pairs(base, case["opts"])
        assert {k: v for k, v in ours.items() if v != base[k]} == case["result"]
        lowered = lowered_or_refused(str(file), case["opts"])
        for key, value in case["result"].items() if lowered else ():
            name = ALIASES.get(key, key)
            assert to_plain(getattr(getattr(lowered, FIELDS.group_of[name]), name)) == value


def lowered_or_refused(path: str, pairs: list[str]) -> Config | None:
    """The configuration; none where the original would take the values and fail with them later."""
    try:
        return lower_file(path, tuple(pairs))
    except UserError as error:
        if "expected 8n + 1" not in str(error):
            raise
        return None


def test_pairs_may_set_what_the_file_leaves_empty_and_whole_numbers() -> None:
    path = PROJECT / "config/ade20k/ade20k_pspnet50.yaml"
    cfg = load(path, "manual_seed", "3", "TRAIN.weight", "x.pth", "base_lr", "1", "stored_mask", "false")
    assert (cfg.run.seed, cfg.run.weight, cfg.optim.base_lr) == (3, "x.pth", 1.0)
    assert not cfg.quirks.stored_mask
    assert cfg.quirks.temperature_lag
    assert load(path, "resume", "y.pth").run.resume_from == "y.pth"
    assert load(path, "save_path", "here").run.output == "here"
    assert load(path, "output", "there").run.output == "there"
    assert load(path, "rotate_min", "-5").data.rotate_min == -5


@pytest.mark.parametrize("path", CONFIGS, ids=map(name_of, CONFIGS))
def test_configuration_says_what_it_is_and_is_complete(path: Path) -> None:
    text = header(path)
    dataset, name = path.parent.name, path.stem.removeprefix(f"{path.parent.name}_")
    for part in ("Data:", "Time and hardware:", "Command"):
        assert part in text
    assert "Expected:" in text or "EXPECTED" in text
    if path.parent.name != "camvid":
        assert f"tool/train.sh {dataset} {name}" in text or f"--config {path.relative_to(PROJECT)}" in text
    sections = read_yaml(path)
    assert list(sections) == ["DATA", "TRAIN", "Distributed", "TEST"]


def test_every_configuration_lowers_faithfully_and_starts(studied: Path) -> None:
    ready = [path for path in [*PAPER, *studied.rglob("*.yaml")] if name_of(path) != TEMPLATE]
    assert len(ready) == 96
    folders = set()
    for path in ready:
        cfg = load(path)
        assert cfg.quirks == QuirkConfig.of("faithful")
        assert cfg.data.dataset == cfg.data.data_root.removeprefix("/data/")
        assert cfg.model.pretrained
        folders.add(run_folder(cfg))
    assert len(folders) == len(ready)
    assert load(ready[0], "--fake-data").model.pretrained == ""


def test_the_template_is_no_configuration() -> None:
    with pytest.raises(UserError, match="camvid_segnet_base"):
        load(PROJECT / "config" / TEMPLATE)


def test_ending_epoch_zero_is_an_error_under_fixed_alone(studied: Path) -> None:
    path = studied / "camvid_segnet_0.5_0.yaml"
    assert load(path).quirks.ending_zero_keeps_all
    with pytest.raises(UserError, match=r"ending_epoch is 0 with sparsity 0\.5"):
        load(path, "--preset", "fixed")
    with pytest.raises(UserError, match="ending_epoch is 0"):  # without that quirk it would prune at once
        load(path, "stored_mask", "false")
    assert load(studied / "camvid_segnet_0_0.yaml", "--preset", "fixed").prune.active is False


@cache
def convolutions(arch: str, classes: int) -> tuple[int, tuple[tuple[bool, int, int], ...]]:
    """All parameters of a network, and of each convolution: prunable, filters, parameters of a filter."""
    with torch.device("meta"):
        model = build(ModelConfig(arch=arch, classes=classes))
    found = [
        (
            not getattr(module, "unprunable", False),
            module.out_channels,
            module.weight[0].numel() + (module.bias is not None),
        )
        for module in model.modules()
        if isinstance(module, nn.Conv2d)
    ]
    return sum(p.numel() for p in model.parameters()), tuple(found)


@pytest.mark.parametrize("path", PAPER, ids=map(name_of, PAPER))
def test_configuration_builds_its_network_with_the_known_number_of_parameters(
    path: Path, studied: Path
) -> None:
    cfg = load(studied / "camvid_segnet_0_300.yaml" if name_of(path) == TEMPLATE else path)
    total, of_convs, kept = COUNTS[cfg.model.arch, cfg.model.classes]
    parameters, convs = convolutions(cfg.model.arch, cfg.model.classes)
    assert parameters == total
    assert sum(filters * each for _, filters, each in convs) == of_convs
    assert sum(prunable for prunable, _, _ in convs) == {"psp": 61, "segnet": 25}[cfg.model.arch]
    for sparsity, count in zip(SPARSITIES, kept, strict=True):
        left = sum(
            (kept_channels(filters, sparsity) if prunable else filters) * each
            for prunable, filters, each in convs
        )
        assert left == count
        assert math.isclose(of_convs / left, 1 / (1 - sparsity), rel_tol=0.04)


def test_the_study_names_every_run_once_and_deals_the_annealed_ones_to_nine_lines(studied: Path) -> None:
    names = [run.name for run in study.runs()]
    assert len(set(names)) == 75
    assert sum(name.endswith("_annealed") for name in names) == 20
    assert sum("_seed" in name for name in names) == 40
    lines = (studied / "bash_commands.txt").read_text(encoding="utf-8").splitlines()
    dealt = [command.split()[-1] for line in lines for command in line.split(" && ")]
    assert len(lines) == 9
    assert sorted(dealt) == sorted(name for name in names if name.endswith("_annealed"))
    text = (studied / "camvid_segnet_0.5_300_seed2.yaml").read_text(encoding="utf-8")
    assert "51.85 +- 0.83 mIoU" in text
    assert "MODEL" not in text


def test_one_run_of_the_study_is_made_on_demand_and_a_wrong_name_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    template = ["--template", str(PROJECT / "config" / TEMPLATE)]
    study.main([*template, "--output", str(tmp_path / "a"), "--name", "segnet_0.5_450"])
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["camvid_segnet_0.5_450.yaml"]
    study.main([*template, "--output", str(tmp_path / "b"), "--dry-run"])
    assert not (tmp_path / "b").exists()
    assert "would write 75 configurations" in capsys.readouterr().out
    for words in (["--name", "segnet_0.5_45"], ["--template", str(tmp_path / "none.yaml")]):
        with pytest.raises(SystemExit) as stop:
            study.main(words)
        assert stop.value.code == 2
    assert "did you mean segnet_0.5_450" in capsys.readouterr().err


def test_tiny_configurations_hold_small_networks_of_every_kind() -> None:
    seen = set()
    for path in TINY:
        cfg = load(path)
        seen.add((cfg.model.arch, cfg.prune.active))
        with torch.device("meta"):
            model = build(cfg.model)
        assert sum(p.numel() for p in model.parameters()) < 4_000_000
    assert seen >= {("psp", False), ("segnet", False), ("segnet", True), ("resnet18", True)}


def test_what_is_measured_on_real_pictures_is_a_narrow_segnet_without_quirks() -> None:
    assert MEASURED
    for path in MEASURED:
        cfg = load(path)
        assert (cfg.model.arch, cfg.data.dataset, cfg.quirks) == ("segnet", "camvid", QuirkConfig())
        assert cfg.model.width < 64


def test_the_classifiers_recipe_is_the_published_one() -> None:
    cfg = lower_cifar10(Raw())
    assert (cfg.model.arch, cfg.model.classes, cfg.data.dataset) == ("resnet18", 10, "cifar10")
    assert (cfg.optim.optimiser, cfg.optim.base_lr, cfg.optim.weight_decay) == ("adam", 0.01, 1e-4)
    assert (cfg.data.batch_size, cfg.optim.epochs, cfg.prune.ending_epoch) == (512, 50, 10)
    assert cfg.quirks == QuirkConfig.of("faithful")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("TRAIN:\n  epoch: 3\n", "unknown key epoch: did you mean epochs"),
        ("TRAIN:\n  epochs: many\n", "epochs"),
        ("TRAIN:\n  epochs: 0\n", "epochs is 0, expected at least 1"),
        (
            "TRAIN:\n  train_h: 480\n",
            "train_h is 480, expected 8n + 1 for PSPNet: the nearest are 473 and 481",
        ),
        ("TEST:\n  test_w: 1024\n", "test_w is 1024"),
        ("TRAIN:\n  batch_size: 1\n", "batch_size is 1, expected at least 2"),
        ("TRAIN:\n  sparsity: 1.0\n", "sparsity is 1.0, expected 0 <= sparsity < 1"),
        ("TRAIN:\n  sparsity: 0.5\n  starting_epoch: 9\n  ending_epoch: 3\n", "starting_epoch is 9"),
        ("TRAIN:\n  layers: 34\n", "layers is 34, expected one of 50, 101, 152"),
        ("TRAIN:\n  arch: pspnet\n", "arch is 'pspnet', expected one of psp"),
        ("TRAIN:\n  arch: resnet18\n", "resnet18 and cifar10 belong together"),
        ("TRAIN:\n  zoom_factor: 3\n", "zoom_factor is 3"),
        ("TRAIN:\n  ignore_label: 256\n", "ignore_label is 256, expected 0 to 255"),
        ("TRAIN:\n  lr_schedule: step\n", "lr_schedule is 'step', expected one of poly"),
        ("TEST:\n  scales: []\n", "expected numbers above 0"),
        ("TEST:\n  split: tests\n", "did you mean test"),
        ("TRAIN:\n  slim_after_pruning: true\n  refill_pruned: true\n", "does not go with refill_pruned"),
        ("- 1\n", "expected sections"),
        ("TRAIN: [\n", "broken YAML"),
    ],
)
def test_mistakes_in_a_file_are_answered_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load(path)
    assert message in str(caught.value)
    assert "wrong.yaml" in str(caught.value)


def test_a_void_label_among_the_classes_is_refused_by_fixed_alone(tmp_path: Path) -> None:
    path = tmp_path / "void.yaml"
    path.write_text("TRAIN:\n  ignore_label: 3\n", encoding="utf-8")
    assert load(path).data.ignore_label == 3
    with pytest.raises(UserError, match="expected one outside the classes 0 to 149"):
        load(path, "--preset", "fixed")


def test_missing_file_and_unknown_key_on_the_command_line_are_named() -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml"):
        load(Path("nowhere.yaml"))
    with pytest.raises(UserError, match="did you mean base_lr"):
        load(PAPER[0], "base_rl", "0.1")
    with pytest.raises(UserError, match="has no value"):
        load(PAPER[0], "base_lr")


def test_every_field_has_a_docstring() -> None:
    for node in ast.parse(inspect.getsource(config_module)).body:
        if isinstance(node, ast.ClassDef):
            cls = getattr(config_module, node.name)
            assert set(field_docs(cls)) == {f.name for f in fields(cls)}


SOME = {
    "model": {"classes": st.integers(2, 255), "dropout": st.floats(0, 0.99), "width": st.integers(1, 99)},
    "data": {"data_root": st.text(max_size=20), "train_h": st.integers(0, 99).map(lambda n: 8 * n + 1)},
    "optim": {"base_lr": st.floats(0, 10), "lr_schedule": st.sampled_from(config_module.SCHEDULES)},
    "prune": {"sparsity": st.floats(0, 0.99), "ending_epoch": st.integers(1, 500)},
    "test": {"scales": st.lists(st.floats(0.1, 3), min_size=1, max_size=3).map(tuple)},
    "run": {"max_steps": st.none() | st.integers(1, 10**9), "seed": st.integers(), "output": st.text()},
    "quirks": {"stored_mask": st.booleans()},
}


@settings(max_examples=40, deadline=None)
@given(values=st.fixed_dictionaries({group: st.fixed_dictionaries(kinds) for group, kinds in SOME.items()}))
def test_configuration_to_yaml_and_back_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, dict[str, Any]]
) -> None:
    values["data"]["ignore_label"] = 255
    cfg = Config(**{group: FIELDS.groups[group](**kinds) for group, kinds in values.items()})
    file = tmp_path_factory.getbasetemp() / "written.yaml"
    file.write_text(yaml_text(to_plain(cfg)), encoding="utf-8")
    assert from_plain(Config, read_yaml(file)) == cfg
    assert lower_file(str(file)) == cfg


SMALL = {
    "psp": "train_h 57 train_w 57 test_h 57 test_w 57",
    "segnet": "train_h 48 train_w 64 test_h 48 test_w 64",
}
"""Pairs that make pictures small enough for a CPU."""
FAMILIES = ["voc2012/voc2012_pspnet50_0.5.yaml", "cityscapes/cityscapes_segnet_0.75.yaml"]


def start(path: Path, output: Path) -> dict[str, Any]:
    """Two steps of a configuration on generated data, in small; gives the last figures."""
    arch = load(path).model.arch
    pairs = f"{SMALL[arch]} width 8 batch_size 2 batch_size_val 2 workers 0".split()
    words = ["--config", str(path), "--fake-data", "--max-steps", "2", "--device", "cpu"]
    train.main([*words, "--output", str(output), *pairs])
    lines = (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert (output / "last/model.safetensors").is_file()
    figures = [json.loads(line) for line in lines]
    return next(line for line in reversed(figures) if "loss_train_batch" in line)


@pytest.mark.tiny
@pytest.mark.parametrize("name", FAMILIES)
def test_a_configuration_of_each_family_makes_two_steps_on_generated_data(name: str, tmp_path: Path) -> None:
    figures = start(PROJECT / "config" / name, tmp_path / "run")
    assert figures["step"] == 2
    assert math.isfinite(figures["loss_train_batch"])


@pytest.mark.tiny
def test_the_classifiers_recipe_makes_two_steps_on_generated_data(tmp_path: Path) -> None:
    words = f"--save_dir {tmp_path}/run --sparsity 0.5 --batch_size 8 --fake-data --max-steps 2 --workers 0"
    train_cifar10.main([*words.split(), "--device", "cpu"])
    lines = (tmp_path / "run/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert max(json.loads(line)["step"] for line in lines) == 2


@pytest.mark.slow
@pytest.mark.tiny
def test_every_configuration_makes_two_steps_on_generated_data(studied: Path, tmp_path: Path) -> None:
    for path in [*PAPER, *studied.rglob("*.yaml")]:
        if name_of(path) != TEMPLATE:
            output = tmp_path / path.stem
            assert math.isfinite(start(path, output)["loss_train_batch"]), name_of(path)
            shutil.rmtree(output)
