from __future__ import annotations

import json
import os
import resource
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from prunelab import hub
from prunelab.config import from_plain
from prunelab.errors import UserError
from prunelab.hub import (
    HubModel,
    is_model_folder,
    load_model_folder,
    load_state,
    model_card,
    note_facts,
    save_model_folder,
)


@dataclass(frozen=True, kw_only=True)
class TinyConfig:
    width: int = 4
    words: int = 7


class Tiny(HubModel, nn.Module):
    hub_kind = "tiny"

    def __init__(self, config: TinyConfig, kept: int | None = None) -> None:
        super().__init__()
        self.config, self.kept = config, kept
        self.embed = nn.Embedding(config.words, config.width)
        self.inner = nn.Linear(config.width, kept or 3)
        self.head = nn.Linear(config.width, config.words, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("steps", torch.tensor(3))
        self.vocabulary = b"a b c"

    def hub_config(self) -> TinyConfig:
        return self.config

    def hub_structure(self) -> dict[str, Any] | None:
        return None if self.kept is None else {"kept": {"inner": list(range(self.kept))}}

    def hub_files(self) -> dict[str, bytes]:
        return {"vocabulary.txt": self.vocabulary}

    @classmethod
    def from_hub_config(cls, config: dict[str, Any], structure: dict[str, Any] | None, folder: Path) -> Tiny:
        kept = len(structure["kept"]["inner"]) if structure else None
        model = cls(from_plain(TinyConfig, config), kept)
        model.vocabulary = (folder / "vocabulary.txt").read_bytes()
        return model


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Tiny, Path]:
    model = Tiny(TinyConfig(width=5), kept=2)
    model.save_pretrained(tmp_path / "model")
    return model, tmp_path / "model"


def test_a_pruned_model_comes_back_with_its_shapes_weights_and_files(saved: tuple[Tiny, Path]) -> None:
    model, folder = saved
    assert sorted(os.listdir(folder)) == ["README.md", "config.json", "model.safetensors", "vocabulary.txt"]
    again = Tiny.from_pretrained(folder)
    assert again.config == model.config
    assert again.inner.weight.shape == (2, 5)
    assert again.vocabulary == b"a b c"
    assert not again.training
    assert again.head.weight is again.embed.weight
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_the_config_file_is_plain_and_says_what_it_is(saved: tuple[Tiny, Path]) -> None:
    content = json.loads((saved[1] / "config.json").read_text())
    assert content["format"] == "prunelab-model"
    assert content["version"] == 1
    assert content["kind"] == "tiny"
    assert content["config"] == {"width": 5, "words": 7}
    assert content["structure"] == {"kept": {"inner": [0, 1]}}
    assert content["shared"] == {"head.weight": "embed.weight"}
    assert is_model_folder(saved[1])
    assert not is_model_folder(saved[1].parent)


def test_the_weights_file_of_a_folder_stands_for_the_folder(saved: tuple[Tiny, Path]) -> None:
    folder = load_model_folder(saved[1] / "model.safetensors", kind="tiny")
    assert folder.dir == saved[1]
    assert folder.state["head.weight"] is folder.state["embed.weight"]
    assert folder.structure == {"kept": {"inner": [0, 1]}}


def test_the_card_has_metadata_facts_and_the_configuration(saved: tuple[Tiny, Path]) -> None:
    text = (saved[1] / "README.md").read_text()
    _, metadata, body = text.split("---\n", 2)
    assert yaml.safe_load(metadata) == {"library_name": "prunelab", "tags": ["prunelab"]}
    assert "# tiny: Tiny" in body
    assert "Tiny.from_pretrained" in body
    assert "width: 5" in body
    card = model_card("T", summary="S.", facts={"CIDEr": "1|2"}, tags=["x"], license="mit")
    assert "| CIDEr | 1\\|2 |" in card
    assert "license: mit" in card
    saved[0].save_pretrained(saved[1], card="mine")
    assert (saved[1] / "README.md").read_text() == "mine"


def test_notes_become_facts_of_a_card_with_groups_opened_and_numbers_shortened() -> None:
    notes = {"step": 12, "scores": {"CIDEr": 1.234567, "preset": "fixed"}}
    assert note_facts(notes) == {"step": 12, "CIDEr": "1.235", "preset": "fixed"}


def test_views_of_one_storage_are_saved_as_tensors_of_their_own(tmp_path: Path) -> None:
    base = torch.arange(12.0)
    state = {
        "q": base[:4],
        "k": base[4:8],
        "t": base.view(3, 4).t(),
        "same": base[:4],
        "empty": base[:0],
        "empty2": base[:0],
        "half": base.half(),
    }
    save_model_folder(tmp_path / "m", {}, state, kind="x")
    again = load_model_folder(tmp_path / "m").state
    assert set(again) == set(state)
    for name, value in state.items():
        assert torch.equal(again[name], value), name
        assert again[name].dtype == value.dtype
    assert again["same"] is again["q"]


def test_saving_again_keeps_files_that_are_not_the_models(saved: tuple[Tiny, Path]) -> None:
    model, folder = saved
    (folder / "notes.txt").write_text("mine")
    (folder / "more").mkdir()
    (folder / "more" / "a").write_text("a")
    model.vocabulary = b"d"
    model.save_pretrained(folder)
    assert (folder / "notes.txt").read_text() == "mine"
    assert (folder / "more" / "a").read_text() == "a"
    assert (folder / "vocabulary.txt").read_bytes() == b"d"
    save_model_folder(folder, {}, {}, kind="other")
    assert not (folder / "vocabulary.txt").exists()


def test_a_folder_of_other_things_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match=r"home: not overwritten: .* holds no model \(thesis\.tex"):
        save_model_folder(tmp_path / "home", {}, {}, kind="x")
    assert os.listdir(tmp_path / "home") == ["thesis.tex"]
    (tmp_path / "empty").mkdir()
    save_model_folder(tmp_path / "empty", {}, {}, kind="x")
    assert is_model_folder(tmp_path / "empty")


def test_a_full_disk_leaves_the_old_model(saved: tuple[Tiny, Path]) -> None:
    folder = saved[1]
    before = {name: (folder / name).read_bytes() for name in os.listdir(folder)}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, limits[1]))
    try:
        with pytest.raises(UserError, match=r"model: cannot be written: File too large.*unchanged"):
            save_model_folder(folder, {}, {"w": torch.zeros(1 << 16)}, kind="tiny")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {name: (folder / name).read_bytes() for name in os.listdir(folder)} == before
    assert os.listdir(folder.parent) == ["model"]


def test_extra_files_may_be_paths_and_cannot_leave_the_folder(tmp_path: Path) -> None:
    (tmp_path / "v.json").write_text("{}")
    save_model_folder(
        tmp_path / "m", {}, {}, kind="x", extra_files={"a.json": tmp_path / "v.json", "b": "text"}
    )
    assert (tmp_path / "m" / "a.json").read_text() == "{}"
    assert (tmp_path / "m" / "b").read_text() == "text"
    for name in ("../x", "config.json", "a/b"):
        with pytest.raises(ValueError, match="cannot be the name"):
            save_model_folder(tmp_path / "n", {}, {}, kind="x", extra_files={name: b""})
    with pytest.raises(UserError, match=r"gone: no such file, but the model folder needs it as a"):
        save_model_folder(tmp_path / "n", {}, {}, kind="x", extra_files={"a": tmp_path / "gone"})
    assert not (tmp_path / "n").exists()


def test_a_model_on_the_meta_device_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="w has no values"):
        save_model_folder(tmp_path / "m", {}, {"w": torch.zeros(2, device="meta")}, kind="x")


def change(folder: Path, **values: Any) -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, **values}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format": "x"}, r"config\.json: format is 'x', expected 'prunelab-model'"),
        ({"version": 2}, r"config\.json: version is 2, this prunelab reads up to 1"),
        ({"kind": "apt-vit"}, r"config\.json: a model of 'apt-vit', expected one of 'tiny'"),
        ({"config": None}, r"config\.json: config is missing"),
        ({"shared": {"a": "b"}}, r"model\.safetensors: the tensor 'b' is missing \('a' is tied to it\)"),
        ({"config": {"widht": 3}}, r"unknown key widht: did you mean width"),
    ],
)
def test_a_folder_that_does_not_fit_is_one_line(saved: tuple[Tiny, Path], values: Any, message: str) -> None:
    change(saved[1], **values)
    with pytest.raises(UserError, match=message):
        Tiny.from_pretrained(saved[1])


def test_missing_and_broken_files_are_named(saved: tuple[Tiny, Path]) -> None:
    weights = saved[1] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-3])
    with pytest.raises(UserError, match=r"model\.safetensors: broken or cut off"):
        Tiny.from_pretrained(saved[1])
    weights.unlink()
    with pytest.raises(UserError, match=r"model\.safetensors: no such file"):
        Tiny.from_pretrained(saved[1])
    (saved[1] / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json: broken JSON at line 1"):
        Tiny.from_pretrained(saved[1])
    assert not is_model_folder(saved[1])
    (saved[1] / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json: cannot be read: No such file"):
        Tiny.from_pretrained(saved[1])


def test_weights_of_another_model_are_named_with_their_shapes() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    state = dict(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1)).state_dict())
    state["x.weight"] = torch.zeros(())
    del state["1.bias"]
    with pytest.raises(UserError) as caught:
        load_state(model, state, where="best.pth")
    assert str(caught.value) == (
        "best.pth: weights of another model: 1 missing: 1.bias 1; 1 not in the model: x.weight scalar; "
        "1 of another shape: 0.weight 3x4 in the file and 3x2 in the model"
    )
    with pytest.raises(UserError, match=r"4 missing: 0\.weight 3x2, 0\.bias 3, 1\.weight 1x3, \.\.\."):
        load_state(model, {}, where="x")


def test_the_structure_must_fit_the_weights(saved: tuple[Tiny, Path]) -> None:
    change(saved[1], structure=None)
    with pytest.raises(
        UserError, match=r"2 of another shape: inner\.weight 2x5 in the file and 3x5 in the model"
    ):
        Tiny.from_pretrained(saved[1])


def test_a_save_that_was_killed_between_its_renames_is_no_loss(saved: tuple[Tiny, Path]) -> None:
    folder = saved[1]
    os.replace(folder, folder.with_name(".model.old"))
    assert Tiny.from_pretrained(folder).kept == 2


def test_a_path_that_is_not_there_never_asks_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(*args: Any, **options: Any) -> str:
        raise AssertionError

    monkeypatch.setattr("huggingface_hub.snapshot_download", ask)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    for name in (tmp_path / "nothing", "./runs/best", "runs/a/best", "/best", "out/best"):
        with pytest.raises(UserError, match="no such folder"):
            load_model_folder(name)


def test_an_id_of_the_hub_is_fetched(saved: tuple[Tiny, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def fetch(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(saved[1])

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    model = Tiny.from_pretrained("user/tiny-model", revision="v1", local_files_only=True)
    assert model.kept == 2
    assert (asked["name"], asked["revision"], asked["local_files_only"]) == ("user/tiny-model", "v1", True)
    assert "*.pth" in asked["ignore_patterns"]


def test_an_id_that_cannot_be_fetched_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="user/none: no such folder here, and not to be had from the Hub"):
        load_model_folder("user/none", local_files_only=True, cache_dir=tmp_path)


def test_uploading_sends_the_folder(
    saved: tuple[Tiny, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sent: dict[str, Any] = {}

    class Api:
        def __init__(self, token: str | None = None) -> None:
            pass

        def create_repo(self, repo_id: str, **options: Any) -> Any:
            return type("Repo", (), {"repo_id": repo_id})

        def upload_folder(self, **options: Any) -> str:
            sent.update(options)
            shutil.copytree(options["folder_path"], tmp_path / "sent")
            return "address"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    assert saved[0].save_pretrained(tmp_path / "m", push_to_hub=True, repo_id="user/m") == "address"
    assert sent["repo_id"] == "user/m"
    assert Tiny.from_pretrained(tmp_path / "sent").kept == 2
    with pytest.raises(ValueError, match="must be None"):
        saved[0].save_pretrained(tmp_path / "m", config={"a": 1})  # pyright: ignore


def test_a_default_card_is_written(tmp_path: Path) -> None:
    save_model_folder(tmp_path / "m", TinyConfig(), {"w": torch.zeros(1500)}, kind="tiny")
    text = (tmp_path / "m" / hub.CARD_FILE).read_text()
    assert "numbers stored | 1.50 k" in text
