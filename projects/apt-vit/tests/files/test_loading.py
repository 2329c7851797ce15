"""Classifiers by their place, and weights that a training begins with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from apt_vit.classifier import Classifier
from apt_vit.files.loading import fill_from, find_model, open_weights
from apt_vit.files.original import write
from apt_vit.files.timm_weights import to_timm
from apt_vit.preprocess import Preprocess
from apt_vit.tokens.rules import Rule
from prunelab.errors import UserError

from ..google_files import npz_of
from ..small import pictures, small_model

BLOCKS = {"clip_layers": (1, 3, 4)}
"""What a checkpoint does not tell of the small network."""
HINTS: dict[str, Any] = {**BLOCKS, "num_heads": 3, "img_size": (20, 24)}


def classifier(**changes: Any) -> Classifier:
    model = small_model(**changes)
    names = ("cat", "dog", "emu", "fox", "gnu")
    return Classifier(
        model=model,
        preprocess=Preprocess(size=model.cfg.img_size),
        class_names=names,
        rule=Rule(keep_rate=0.5),
    )


def same_weights(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    mine, theirs = first.state_dict(), second.state_dict()
    return list(mine) == list(theirs) and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_run_means_its_best_model_and_a_file_of_a_folder_the_folder(tmp_path: Path) -> None:
    saved = classifier().save_pretrained(tmp_path / "run" / "best")
    assert (
        find_model(tmp_path / "run") == find_model(saved) == find_model(saved / "model.safetensors") == saved
    )
    last = classifier().save_pretrained(tmp_path / "other" / "last")
    assert find_model(tmp_path / "other") == last
    file = write(tmp_path / "output" / "1_apt_checkpoint.bin", classifier().model.state_dict())
    assert find_model(file.parent) == find_model(file) == file
    write(tmp_path / "output" / "0_apt_checkpoint.bin", classifier().model.state_dict())
    with pytest.raises(
        UserError, match=r"several files of weights \(0_apt_checkpoint.bin, 1_apt_checkpoint.bin\)"
    ):
        find_model(file.parent)
    with pytest.raises(
        UserError, match=r"nothing: no such file or folder, expected a model folder, a run, google"
    ):
        find_model(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: no network in it, expected"):
        find_model(tmp_path / "empty")


def test_a_checkpoint_with_facts_beside_it_is_a_whole_classifier(tmp_path: Path) -> None:
    given = classifier()
    file = write(tmp_path / "1_apt_checkpoint.bin", given.model.state_dict(), given.facts())

    found, loaded = open_weights(file)

    assert found.facts() == given.facts()
    assert same_weights(found.model, given.model)
    assert loaded.what == "a checkpoint of the original with 3 agents"
    assert loaded.missing == loaded.unused == loaded.notes == ()


def test_a_bare_checkpoint_needs_what_it_does_not_tell(tmp_path: Path) -> None:
    given = small_model(normalise_agent_input=False)
    file = write(tmp_path / "1_apt_checkpoint.bin", given.state_dict())

    found, _ = open_weights(file, {**HINTS, "class_names": ("a", "b", "c", "d", "e")})

    x = pictures(2)
    with torch.no_grad():
        assert torch.equal(found.model(x), given(x))
    assert found.class_names == ("a", "b", "c", "d", "e")
    assert found.rule == Rule()


def test_a_checkpoint_without_agents_gets_fresh_ones(tmp_path: Path) -> None:
    state = {name: v for name, v in small_model().state_dict().items() if "clip_layer" not in name}
    found, loaded = open_weights(write(tmp_path / "vit.bin", state), HINTS)
    assert all("clip_layer" in name for name in loaded.missing)
    assert len(loaded.missing) == 24
    assert found.dropper(pictures(2)).counts.tolist() == [[31, 31, 31]] * 2


def test_googles_and_timms_files_become_classifiers_with_fresh_agents(tmp_path: Path) -> None:
    given = small_model(img_size=(20, 20))
    npz_of(given, tmp_path / "vit.npz")
    save_file(
        {name: v.contiguous() for name, v in to_timm(given.state_dict()).items()}, tmp_path / "m.safetensors"
    )
    x = pictures(2, given.cfg)
    for file in ("vit.npz", "m.safetensors"):
        found, loaded = open_weights(tmp_path / file, {"num_heads": 3})
        with torch.no_grad():
            torch.testing.assert_close(found.model(x), given(x))
            assert found.dropper(x).counts.tolist() == [[26, 26, 26]] * 2
        assert all("clip_layer" in name for name in loaded.missing), file
        assert loaded.unused == (("pre_logits/bias",) if file.endswith("npz") else ())
    larger, loaded = open_weights(tmp_path / "vit.npz", {"img_size": (24, 32)})
    assert larger.model.grid == (6, 8)
    assert loaded.printed == ("load_pretrained: grid-size from 5 to 6 x 8",)
    with pytest.raises(UserError, match="expected squares on both sides"):
        open_weights(tmp_path / "vit.npz", {"img_size": (24, 32), "preset": "faithful"})


def test_networks_of_timm_that_average_tokens_tell_what_they_lack(tmp_path: Path) -> None:
    state = to_timm(small_model(img_size=(20, 20)).state_dict())
    state = {
        name.replace("norm.", "fc_norm.") if name.startswith("norm.") else name: v
        for name, v in state.items()
    }
    torch.save({name: v for name, v in state.items() if not name.startswith("head.")}, tmp_path / "mae.pth")
    found, loaded = open_weights(tmp_path / "mae.pth", {"num_heads": 3, "num_classes": 4})
    assert loaded.unused == ("fc_norm.weight", "fc_norm.bias")
    assert "transformer.encoder.encoder_norm.weight" in loaded.missing
    assert loaded.notes == ("the file has no last layer, the network 4 classes: begun with zeros",)
    assert found.model.head.weight.abs().sum() == 0


def test_a_missing_file_is_not_asked_for_on_the_hub(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ViT-B_16.npz: no such file or folder"):
        fill_from(small_model(), "checkpoint/ViT-B_16.npz")
    with pytest.raises(UserError, match="no such folder"):
        open_weights(str(tmp_path / "nothing"))


# --- what a training begins with ---


def test_fine_tuning_on_larger_pictures_resizes_positions_of_our_folders_and_files(tmp_path: Path) -> None:
    given = classifier(img_size=(64, 64), patch_size=(2, 2))
    folder = given.save_pretrained(tmp_path / "folder")
    file = write(tmp_path / "1_apt_checkpoint.bin", given.model.state_dict())
    for place in (folder, file):
        for zeros in (False, True):
            target = small_model(seed=1, img_size=(32, 32), patch_size=(2, 2))
            loaded = fill_from(target, place, edge_zeros=zeros)
            assert loaded.printed == ("load_pretrained: grid-size from 32 to 16",)
            edge = target.transformer.embeddings.position_embeddings.reshape(1, -1, 24)[0, -1]
            assert bool((edge == 0).all()) == zeros
            assert torch.equal(target.head.weight, given.model.head.weight)
            assert torch.equal(target.agents[3].fc.weight, given.model.agents[3].fc.weight)


def test_another_number_of_classes_begins_with_zeros_and_other_agents_are_not_taken(tmp_path: Path) -> None:
    folder = classifier().save_pretrained(tmp_path / "folder")
    target = small_model(seed=1, num_classes=3, clip_layers=(1, 3))
    fresh = target.agents[1].fc.weight.clone()

    loaded = fill_from(target, folder)

    assert loaded.what == "a model folder"
    assert target.head.weight.abs().sum() == 0
    assert torch.equal(target.agents[1].fc.weight, fresh)
    assert loaded.notes == ("the file has 5 classes, the network 3 classes: begun with zeros",)
    assert len(loaded.missing) == 16
    file = write(tmp_path / "x.bin", classifier().model.state_dict())
    assert "the file has agents of 3 blocks, the network of 2: not taken" in fill_from(target, file).notes


def test_agents_that_saw_other_input_are_not_taken(tmp_path: Path) -> None:
    folder = classifier().save_pretrained(tmp_path / "folder")
    target = small_model(seed=1, normalise_agent_input=False)
    assert len(fill_from(target, folder).missing) == 24
    same = small_model(seed=1)
    assert fill_from(same, folder).missing == ()
    assert same_weights(same, classifier().model)


def test_an_npz_begins_with_a_head_of_zeros_unless_told(tmp_path: Path) -> None:
    npz_of(small_model(), tmp_path / "vit.npz")
    target = small_model(seed=1)
    assert fill_from(target, tmp_path / "vit.npz").what == "google's npz"
    assert target.head.weight.abs().sum() == 0
    fill_from(target, tmp_path / "vit.npz", zero_head=False)
    assert torch.equal(target.head.weight, small_model().head.weight)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "x.bin", small_model(hidden_size=12).state_dict())
    with pytest.raises(UserError, match=r"x.bin: weights of another model: \d+ of another shape"):
        fill_from(small_model(), file)
    deeper = to_timm(small_model(num_layers=7).state_dict())
    torch.save(deeper, tmp_path / "timm.pth")
    with pytest.raises(UserError, match=r"blocks.6.norm1.weight, ... has no place here"):
        fill_from(small_model(), tmp_path / "timm.pth")
