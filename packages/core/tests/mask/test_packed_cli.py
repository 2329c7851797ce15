"""``pack``, ``unpack`` and ``inspect`` on every kind of file they take, and on what they refuse."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from prunelab.errors import UserError
from prunelab.mask import packed
from prunelab.mask.files import load_state
from prunelab.mask.packed_cli import describe, inspect, pack, unpack


def pruned() -> dict[str, Tensor]:
    torch.manual_seed(0)
    weight = torch.randn(40, 30) * (torch.rand(40, 30) < 0.1)  # holds -0.0
    return {"b.weight": weight, "a.bias": torch.randn(40).half()}


def save_sparse(path: Path, state: dict[str, Tensor]) -> None:
    torch.save(OrderedDict((k, v.to_sparse() if v.dim() == 2 else v) for k, v in state.items()), path)


@pytest.mark.parametrize("kind", ["safetensors", "pth", "sparse pth", "folder"])
def test_each_kind_of_file_goes_there_and_back(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = pruned()
    source, there, back = tmp_path / "in", tmp_path / "sub" / "m.plp", tmp_path / "out.safetensors"
    if kind == "pth":
        torch.save(state, source)
    elif kind == "sparse pth":
        save_sparse(source, state)
    elif kind == "folder":
        source.mkdir()
        save_file(state, source / "model.safetensors")
    else:
        save_file(state, source, metadata={"format": "pt"})
    pack(source, there)
    unpack(there, back)
    out = capsys.readouterr().out.splitlines()
    assert "2 tensors" in out[0]
    assert "read back and compared" in out[0]
    assert any("are -0.0" in line for line in out) == (kind != "sparse pth")
    found = load_file(back)
    assert set(found) == set(state)
    for name, tensor in state.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
        if kind != "sparse pth":  # COO tensors have lost the signs of their zeros
            assert torch.equal(found[name].view(torch.uint8), tensor.view(torch.uint8))
    if kind == "safetensors":
        assert packed.PackedFile(there).metadata == {"format": "pt"}


def test_zeros_can_be_merged_on_request(tmp_path: Path) -> None:
    save_file(pruned(), tmp_path / "in")
    save_sparse(tmp_path / "in.pth", pruned())
    pack(tmp_path / "in", tmp_path / "kept.plp")
    pack(tmp_path / "in", tmp_path / "merged.plp", merge_zeros=True)
    pack(tmp_path / "in.pth", tmp_path / "coo.plp", merge_zeros=True)
    kept, merged, coo = (packed.PackedFile(tmp_path / f"{n}.plp") for n in ("kept", "merged", "coo"))
    assert merged.size < kept.size
    assert merged.entries["b.weight"].kept == coo.entries["b.weight"].kept
    assert torch.equal(merged.dense()["b.weight"], pruned()["b.weight"])


def test_inspect_tells_the_same_of_a_file_before_and_after_packing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_sparse(tmp_path / "in.pth", pruned())
    pack(tmp_path / "in.pth", tmp_path / "m.plp")
    before, after = describe(tmp_path / "in.pth"), describe(tmp_path / "m.plp")
    assert after["kind"] == "packed"
    assert after["bytes"] == (tmp_path / "m.plp").stat().st_size
    kept = int(torch.count_nonzero(pruned()["b.weight"])) + 40
    for facts in (before, after):
        assert facts["entries"] == 1240
        assert facts["kept"] == kept
        assert facts["sparsity"] == pytest.approx(1 - kept / 1240)
        assert facts["dense_bytes"] == 1200 * 4 + 40 * 2
        assert [row["name"] for row in facts["tensors"]] == ["b.weight", "a.bias"]
        assert [row["form"] for row in facts["tensors"]] == ["sparse", "dense"]
        assert facts["tensors"][0]["shape"] == [40, 30]
        assert facts["tensors"][1]["dtype"] == "float16"
    capsys.readouterr()
    inspect(tmp_path / "m.plp", as_json=True)
    assert json.loads(capsys.readouterr().out) == after
    inspect(tmp_path / "m.plp")
    table = capsys.readouterr().out
    assert "b.weight  float32  40 x 30  sparse" in table
    assert "packed file, 2 tensors" in table


def test_facts_about_a_packed_file_go_along(tmp_path: Path) -> None:
    packed.pack(pruned(), tmp_path / "m.plp", metadata={"a": [1]})
    unpack(tmp_path / "m.plp", tmp_path / "m.safetensors")
    assert load_state(tmp_path / "m.safetensors")[1] == {"a": "[1]"}


def test_what_is_no_file_of_weights_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "text").write_text("hello", encoding="utf-8")
    (tmp_path / "empty").touch()
    (tmp_path / "cut.safetensors").write_bytes(b"\x99\0\0\0\0\0\0\0{")
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04garbage")
    (tmp_path / "evil.pth").write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    torch.save({"model": {"a": torch.ones(1)}}, tmp_path / "nested.pth")
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    for name, message in {
        "nothing": "cannot be read",
        "folder": "model.safetensors: cannot be read",
        "text": "is no file of weights",
        "empty": "is no file of weights",
        "cut.safetensors": "is no whole safetensors file",
        "cut.pth": "no file of weights, or cut off",
        "evil.pth": "a whole pickled object",
        "nested.pth": "entry 'model' is a dict, expected tensors by name",
        "list.pth": "holds a list, expected a checkpoint or a state dict",
    }.items():
        with pytest.raises(UserError, match=message) as caught:
            pack(tmp_path / name, tmp_path / "out.plp")
        assert "\n" not in str(caught.value)
        with pytest.raises(UserError, match=message):
            inspect(tmp_path / name)
        with pytest.raises(UserError):
            unpack(tmp_path / name, tmp_path / "out.safetensors")
    assert not list(tmp_path.glob("out*"))


def test_paths_that_would_harm_are_refused(tmp_path: Path) -> None:
    save_file(pruned(), tmp_path / "in")
    with pytest.raises(UserError, match="is the input file"):
        pack(tmp_path / "in", tmp_path / "in")
    with pytest.raises(UserError, match="is a folder"):
        pack(tmp_path / "in", tmp_path)
    pack(tmp_path / "in", tmp_path / "m.plp")
    with pytest.raises(UserError, match=r"suffix '\.pth': expected a name that ends in \.safetensors"):
        unpack(tmp_path / "m.plp", tmp_path / "out.pth")
    packed.pack({"z": torch.zeros(3, dtype=torch.complex128)}, tmp_path / "z.plp")
    with pytest.raises(UserError, match="complex128, which safetensors does not have"):
        unpack(tmp_path / "z.plp", tmp_path / "z.safetensors")
