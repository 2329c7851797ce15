"""The original's checkpoints: bare state dicts, and what we keep beside them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from apt_vit.files.original import count_agents, facts_file, read_facts, read_state, write
from prunelab.errors import UserError

from ..small import small_model


def test_a_state_is_written_bare_and_read_again(tmp_path: Path) -> None:
    file, state = tmp_path / "out" / "1_apt_checkpoint.bin", small_model().state_dict()

    write(file, state)

    held = torch.load(file, weights_only=True)
    assert list(held) == list(state)
    assert all(type(value) is torch.Tensor for value in held.values())
    found = read_state(file)
    assert all(torch.equal(found[name], value) for name, value in state.items())
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]
    assert read_facts(file) is None
    assert count_agents(found) == 3


def test_facts_lie_beside_a_state_and_go_with_it(tmp_path: Path) -> None:
    file, state = tmp_path / "1_apt_checkpoint.bin", small_model().state_dict()
    write(file, state, {"classes": ["cat"]})
    assert facts_file(file).name == "1_apt_checkpoint.json"
    assert read_facts(file) == {"classes": ["cat"]}
    write(file, state)
    assert not facts_file(file).exists()


def test_a_users_file_of_that_name_is_no_fact(tmp_path: Path) -> None:
    file = tmp_path / "weights.bin"
    facts_file(file).write_text('{"mine": 1}', encoding="utf-8")
    assert read_facts(file) is None
    facts_file(file).write_text('{"format": "prunelab-model"}', encoding="utf-8")
    with pytest.raises(UserError, match=r"weights.json: config is missing, expected what was written beside"):
        read_facts(file)


@pytest.mark.parametrize("nested", [None, "state_dict", "model"])
def test_wrappers_are_taken_off(tmp_path: Path, nested: str | None) -> None:
    file, state = tmp_path / "weights.pth", small_model().state_dict()
    wrapped = {f"module.{name}": value for name, value in state.items()}
    torch.save({nested: wrapped, "epoch": 3} if nested else wrapped, file)
    assert list(read_state(file)) == list(state)
