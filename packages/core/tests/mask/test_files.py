"""A state dict from every kind of file, and from the checkpoints of others that hold it under a key."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from prunelab.errors import UserError
from prunelab.mask import packed
from prunelab.mask.files import load_state

STATE = {"weight": torch.arange(6.0).view(2, 3), "bias": torch.zeros(2)}


def test_the_content_tells_the_kind_of_a_file_whatever_its_name(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "a", metadata={"by": "me"})
    torch.save(STATE, tmp_path / "b")
    torch.save(STATE, tmp_path / "c", _use_new_zipfile_serialization=False)
    packed.pack(STATE, tmp_path / "d", metadata={"steps": [1]})
    (tmp_path / "e").mkdir()
    save_file(STATE, tmp_path / "e/model.safetensors")
    noted: list[object] = [{"by": "me"}, {}, {}, {"steps": [1]}, {}]
    for name, wanted in zip("abcde", noted, strict=True):
        state, metadata = load_state(tmp_path / name)
        assert state.keys() == STATE.keys()
        assert all(torch.equal(state[key], value) for key, value in STATE.items())
        assert metadata == wanted


def test_a_state_is_found_under_the_keys_that_are_named(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pth"
    torch.save({"epoch": 3, "state_dict": STATE, "model": {"other": torch.ones(1)}}, file)
    assert load_state(file, inside=("net", "state_dict", "model"))[0].keys() == STATE.keys()
    assert set(load_state(file, inside=("model", "state_dict"))[0]) == {"other"}
    with pytest.raises(UserError, match="entry 'epoch' is a int, expected tensors by name"):
        load_state(file, inside=("net",))
    # A layer that is called like a key is no checkpoint.
    torch.save({"model": torch.ones(1)}, file)
    assert set(load_state(file, inside=("model",))[0]) == {"model"}
