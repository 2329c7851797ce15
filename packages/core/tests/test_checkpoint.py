import json
import resource
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunelab import checkpoint
from prunelab.checkpoint import Checkpoint
from prunelab.errors import UserError


def round_trip(folder, state):
    checkpoint.write(folder, state)
    assert checkpoint.verify(folder) is None
    return Checkpoint(folder).part()


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=4) | st.integers() | st.just("$tensor"), inner, max_size=3)
    ),
    max_leaves=10,
)


@settings(max_examples=60, deadline=None)
@given(PLAIN)
def test_plain_data_survives_as_it_was(value):
    plain, tensors = checkpoint.pack(value)
    assert not tensors
    back = checkpoint.unpack(json.loads(json.dumps(plain, allow_nan=False)), lambda key: torch.empty(0))
    assert back == value
    assert type(back) is type(value)


def test_tensors_of_every_kind_survive_bit_for_bit(tmp_path):
    grid = torch.arange(12.0).view(3, 4)
    state = {
        "half": torch.randn(3).bfloat16(),
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 4),
        "bool": torch.tensor([True, False]),
        "turned": grid.t(),
        "row": grid[1],
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "array": np.arange(3, dtype=np.int16),
        "numpy scalar": np.float32(0.5),
        "nested": OrderedDict(step=torch.tensor(2.0), betas=(0.9, 0.999)),
        7: {"nan": float("nan"), "inf": -float("inf")},
    }
    back = round_trip(tmp_path / "x", state)
    for key in ("half", "scalar", "empty", "bool", "turned", "row", "parameter"):
        assert torch.equal(back[key], state[key].detach())
        assert back[key].dtype == state[key].dtype
    assert back["array"].dtype == np.int16
    assert back["array"].tolist() == [0, 1, 2]
    assert back["numpy scalar"] == 0.5
    assert back["nested"]["betas"] == (0.9, 0.999)
    assert back[7]["inf"] == -float("inf")
    assert back[7]["nan"] != back[7]["nan"]


def test_a_shared_tensor_is_written_once_and_comes_back_twice(tmp_path):
    weight = torch.randn(1000)
    back = round_trip(tmp_path / "x", {"encoder": weight, "decoder": weight, "view": weight.view(10, 100)})
    assert (tmp_path / "x" / "tensors.safetensors").stat().st_size < 3 * weight.nbytes
    back["encoder"].zero_()
    assert torch.equal(back["decoder"], weight)
    assert torch.equal(back["view"].flatten(), weight)


def test_optimizer_state_survives(tmp_path):
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=torch.tensor(0.1), amsgrad=True)
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    back = round_trip(tmp_path / "x", optimizer.state_dict())
    other = torch.optim.AdamW(model.parameters(), lr=torch.tensor(0.5), amsgrad=True)
    other.load_state_dict(back)
    assert other.param_groups[0]["betas"] == (0.9, 0.999)
    assert torch.equal(
        other.state[model.bias]["max_exp_avg_sq"], optimizer.state[model.bias]["max_exp_avg_sq"]
    )


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"a": {"b": object()}}, "state a/b is a object; expected tensors and plain data"),
        ({"a": {1, 2}}, "state a is a set; expected"),
        ({"a": torch.eye(2).to_sparse()}, "state a is torch.sparse_coo; expected a dense tensor"),
    ],
)
def test_what_cannot_be_written_is_named(tmp_path, state, said):
    with pytest.raises(UserError, match=said):
        checkpoint.write(tmp_path / "x", state)
    assert list(tmp_path.iterdir()) == []


def test_structure_is_plain_data_and_read_without_tensors(tmp_path):
    checkpoint.write(tmp_path / "x", {}, structure={"kept": {0: (1, 2)}})
    (tmp_path / "x" / "tensors.safetensors").unlink()
    assert Checkpoint(tmp_path / "x").structure == {"kept": {0: (1, 2)}}
    with pytest.raises(UserError, match=r"structure holds tensors .*expected plain data"):
        checkpoint.write(tmp_path / "y", {}, structure=torch.ones(1))


def test_every_flipped_byte_and_every_cut_is_found(tmp_path):
    checkpoint.write(tmp_path / "x", {"a": torch.arange(4), "b": "text"}, structure=[1], step=3)
    for file in ("tensors.safetensors", "state.json", "structure.json"):
        path = tmp_path / "x" / file
        data = path.read_bytes()
        for at in range(len(data)):
            path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            assert "another checksum" in checkpoint.verify(tmp_path / "x")
        path.write_bytes(data[:-1])
        assert f"expected {len(data)}" in checkpoint.verify(tmp_path / "x")
        path.unlink()
        assert "No such file" in checkpoint.verify(tmp_path / "x")
        path.write_bytes(data)
    assert checkpoint.verify(tmp_path / "x") is None


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ("", "broken JSON"),
        ("{}", "incomplete"),
        ("[]", "incomplete"),
        ('{"format": 99}', "format 99, expected 1"),
    ],
)
def test_a_broken_manifest_is_a_damaged_checkpoint(tmp_path, manifest, said):
    checkpoint.write(tmp_path / "x", {})
    (tmp_path / "x" / "manifest.json").write_text(manifest)
    assert said in checkpoint.verify(tmp_path / "x")


def names(folder):
    return [path.name for path in checkpoint.listed(folder)]


def test_the_last_ones_and_the_best_one_stay(tmp_path):
    for step in range(1, 6):
        checkpoint.save(tmp_path, step, {"step": step}, best=step in (1, 2), keep_last=2)
    assert names(tmp_path) == ["step-000002", "step-000004", "step-000005"]
    checkpoint.save(tmp_path, 5, {}, best=True, keep_last=1)
    assert names(tmp_path) == ["step-000005-2"]
    checkpoint.save(tmp_path, 1000000, {}, keep_last=2)
    assert names(tmp_path) == ["step-000005-2", "step-1000000"]


def test_a_damaged_newest_one_is_passed_over_and_said(tmp_path):
    for step in (1, 2):
        checkpoint.save(tmp_path, step, {})
    (tmp_path / "step-000002" / "state.json").write_text("[]")
    lines = []
    assert checkpoint.newest(tmp_path, lines.append) == tmp_path / "step-000001"
    assert len(lines) == 1
    assert "step-000002 is damaged (state.json has " in lines[0]
    assert "falling back to the one before it" in lines[0]
    checkpoint.set_aside(tmp_path / "step-000002")
    assert names(tmp_path) == ["step-000001"]
    (tmp_path / "step-000001" / "manifest.json").unlink()
    with pytest.raises(UserError, match="all 1 checkpoints are damaged"):
        checkpoint.newest(tmp_path, lines.append)
    assert checkpoint.newest(tmp_path / "nothing", lines.append) is None


def test_what_a_killed_writer_left_is_invisible_and_removed(tmp_path):
    checkpoint.save(tmp_path, 1, {})
    for left in (".step-000002.new", ".step-000001.gone"):
        (tmp_path / left).mkdir()
    assert names(tmp_path) == ["step-000001"]
    checkpoint.clean(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]


def test_a_user_may_name_a_checkpoint_or_its_run(tmp_path):
    path = checkpoint.save(tmp_path / "checkpoints", 4, {})
    assert checkpoint.resolve(tmp_path, print) == checkpoint.resolve(path, print) == path
    (path / "state.json").write_text("")
    with pytest.raises(UserError, match=r"is damaged: state.json has 0 bytes"):
        checkpoint.resolve(path, print)
    with pytest.raises(UserError, match=r"no checkpoint; expected a checkpoint folder"):
        checkpoint.resolve(tmp_path / "elsewhere", print)


@pytest.fixture
def full_disk():
    """No file of this process may grow beyond 20 kB, as on a disk that is nearly full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_line_and_leaves_the_old_ones(tmp_path, full_disk):
    checkpoint.save(tmp_path, 1, {"a": torch.zeros(10)})
    with pytest.raises(UserError, match=r"step-000002.*cannot be written.*needs 400 kB.*earlier.*unchanged"):
        checkpoint.save(tmp_path, 2, {"a": torch.zeros(100_000)}, keep_last=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]
    assert checkpoint.verify(tmp_path / "step-000001") is None


def test_unreadable_tensors_are_one_line(tmp_path):
    checkpoint.write(tmp_path / "x", {"a": torch.ones(1)})
    (tmp_path / "x" / "tensors.safetensors").write_bytes(b"\0" * 4)
    with pytest.raises(UserError, match=r"tensors.safetensors: cannot be read"):
        Checkpoint(tmp_path / "x").part()


def test_one_off_work_is_done_once_and_again_if_its_result_is_damaged(tmp_path):
    calls, lines = [], []

    def work():
        calls.append(torch.rand(()))
        return {"kept": (1, 2), "mask": calls[-1]}

    folder = tmp_path / "mask"
    torch.manual_seed(0)
    results = [checkpoint.once(folder, "mask", 3, work, lines.append) for _ in range(2)]
    assert torch.rand(()) == torch.rand((), generator=torch.Generator().manual_seed(0))
    assert len(calls) == 1
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1]["mask"], results[1][1]["mask"])
    (folder / "state.json").write_text("{}")
    checkpoint.once(folder, "mask", 3, work, lines.append)
    assert calls[0] == calls[1]  # its random numbers depend on the seed and the key alone
    assert "doing 'mask' again" in lines[0]
