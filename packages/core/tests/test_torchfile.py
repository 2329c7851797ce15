from __future__ import annotations

from pathlib import Path

import pytest
import torch

from prunelab.errors import UserError
from prunelab.torchfile import load_pth, state_dict_of

WEIGHTS = {"a": torch.ones(2), "b": torch.zeros(1)}


def test_tensors_and_plain_data_are_read(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "state_dict": WEIGHTS}, tmp_path / "a.pth")
    content = load_pth(tmp_path / "a.pth")
    assert content["epoch"] == 3
    assert state_dict_of(content, tmp_path / "a.pth", ["net", "state_dict"]).keys() == WEIGHTS.keys()
    torch.save({"a": torch.eye(2).to_sparse()}, tmp_path / "sparse.pth")
    assert load_pth(tmp_path / "sparse.pth")["a"].is_sparse


def test_a_key_that_holds_a_tensor_is_no_checkpoint(tmp_path: Path) -> None:
    assert set(state_dict_of({"model": torch.ones(1)}, tmp_path, ["model"])) == {"model"}


def test_what_could_run_code_is_named_and_not_unpickled(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pth")
    with pytest.raises(
        UserError, match=r"whole\.pth: a whole pickled object \(it names torch\.nn\.modules\.linear\.Linear\)"
    ) as caught:
        load_pth(tmp_path / "whole.pth")
    assert "\n" not in str(caught.value)
    (tmp_path / "evil.pth").write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(UserError, match="a whole pickled object"):
        load_pth(tmp_path / "evil.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"a\.pth: no such file"),
        (b"", r"a\.pth: no file of weights, or cut off"),
        (b"PK\x03\x04garbage", r"a\.pth: no file of weights, or cut off"),
        ([1, 2], r"a\.pth: holds a list, expected a checkpoint or a state dict"),
        ({"epoch": 3}, r"a\.pth: entry 'epoch' is a int, expected tensors by name"),
        ({3: torch.ones(1)}, r"a\.pth: entry 3 is a Tensor, expected tensors by name"),
    ],
)
def test_other_files_are_refused_in_one_line(content: object, message: str, tmp_path: Path) -> None:
    file = tmp_path / "a.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    with pytest.raises(UserError, match=message) as caught:
        state_dict_of(load_pth(file), file)
    assert "\n" not in str(caught.value)
