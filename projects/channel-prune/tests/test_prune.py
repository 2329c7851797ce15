"""`prune`: any trained classifier, made slim without training it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from channel_prune import prune
from channel_prune.files.loading import load_network
from channel_prune.lowering import lower_values
from channel_prune.model import build
from prunelab.data.synthetic.shape_classes import write_classes
from prunelab.util import read_json
from testing.mistakes import Fails

from .conftest import Finished, words

pytestmark = pytest.mark.tiny

ROWS = ["best constant answer", "dense", "pruned", "slim"]
SMALL = {"nb_smpls": 16, "recalibrate": 16, "device": "cpu", "workers": 0}


def rows(folder: Path) -> list[dict[str, Any]]:
    return read_json(folder / "summary.json")["rows"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures by class, of several sizes."""
    folder = tmp_path_factory.mktemp("pictures") / "shapes"
    return write_classes(folder, train=40, test=20, side=48, folders=True)


def test_a_model_folder_is_pruned_on_the_pictures_of_its_run(
    full: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    own = {"output": str(output), "prune_ratio": 0.25, **SMALL}
    prune.main(["--model", str(full() / "last"), *words(own)])
    told = capsys.readouterr().out
    assert "layer 10/10" in told
    assert [row["model"] for row in rows(output)] == ROWS
    _, dense, masked, slim = rows(output)
    assert dense["parameters"] == masked["parameters"] > slim["parameters"]
    assert slim["accuracy"] == masked["accuracy"]
    net = lower_values({"name": "tiny", "dataset": "cifar10", "width_divisor": 2}).net
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        a, b = (load_network(output / name, net).double()(x) for name in ("last", "slim"))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
    assert not (output / "finetune").exists()


@pytest.mark.parametrize(
    "net", ["timm:test_resnet", pytest.param("torchvision:squeezenet1_1", marks=pytest.mark.slow)]
)
def test_classifiers_of_other_packages_are_pruned_on_ones_own_pictures(
    net: str, pictures: Path, tmp_path: Path
) -> None:
    values = {"name": net, "dataset": "folder", "data_dir": str(pictures), "image_size": 40}
    torch.manual_seed(0)
    model = build(lower_values(values).net)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    output = tmp_path / "out"
    own = values | SMALL | {"output": str(output), "batch_size": 8, "batch_size_eval": 8}
    prune.main(["--model", str(tmp_path / "weights.pth"), *words(own)])
    assert [row["model"] for row in rows(output)] == ROWS
    _, dense, masked, slim = rows(output)
    assert slim["parameters"] < 0.8 * dense["parameters"]
    assert slim["MACs"] < 0.8 * masked["MACs"]
    records = read_json(output / "choose/choice.json")["records"]
    kept = {len(record["kept"]) / record["channels"] for record in records[1:]}
    assert kept == {0.5}
    assert json.loads((output / "slim/config.json").read_text())["config"]["net"]["name"] == net


def test_a_ratio_for_each_layer_and_rounded_numbers(full: Finished, tmp_path: Path) -> None:
    ratios = (0.0, 0.5, 0.5, 0.25, 0.5, 0.5, 0.0, 0.75, 0.75, 0.75)
    own = {"output": str(tmp_path / "out"), "ratio_list": ratios, "round_to": 2, **SMALL}
    prune.main(["--model", str(full()), *words(own)])
    records = read_json(tmp_path / "out/choose/choice.json")["records"]
    assert [record["ratio"] for record in records] == list(ratios)
    assert [len(record["kept"]) for record in records] == [3, 2, 2, 4, 2, 2, 8, 2, 2, 4]


def test_a_pruning_that_was_killed_goes_on(
    full: Finished, killer: Any, tmp_path: Path, values: dict[str, Any]
) -> None:
    full()
    own = values | SMALL | {"learner": "chn-pruned-rmt", "save_path": str(full() / "last")}

    def start(folder: str, **more: Any) -> Path:
        return prune.prune(lower_values(own | {"output": str(tmp_path / folder)} | more), quiet=True)

    killer.arm(0)
    expected = load_file(start("whole") / "slim/model.safetensors")
    stages = killer.count
    for at in range(9, stages, 23):
        killer.arm(at)
        with pytest.raises(killer.Killed):
            start(str(at))
        killer.arm(0)
        found = load_file(start(str(at), resume=True) / "slim/model.safetensors")
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_mistakes_are_told(full: Finished, fails: Fails, tmp_path: Path, pictures: Path) -> None:
    own = {"output": str(tmp_path / "out"), **SMALL}
    fails(prune.main, ["--model", str(tmp_path / "nowhere"), *words(own)], "nowhere: no")
    named = {"name": "timm:test_resnets", "dataset": "folder", "data_dir": str(pictures), "image_size": 40}
    torch.save({"a": torch.zeros(1)}, tmp_path / "weights.pth")
    line = ["--model", str(tmp_path / "weights.pth"), *words(own | named)]
    fails(prune.main, line, "timm has no network 'test_resnets'; .*test_resnet")
    fails(prune.main, [*line, "--net", "timm:test_resnet"], "weights.pth: weights of another model")
    fails(prune.main, ["--model", str(full()), *words(own), "--cpr_prune_ratio=1"], "expected 0 <=")
    prune.main(["--model", str(full()), *words(own), "--dry-run"])
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").rglob("once"))


@pytest.mark.parametrize("flag", ["--dry-run", "--print-config"])
def test_what_would_be_done_is_told_without_doing_it(
    flag: str, full: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prune.main(["--model", str(full()), "--output", str(tmp_path / "out"), flag])
    assert "tiny" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
