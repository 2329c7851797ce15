import runpy
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from prunelab import dist
from prunelab.errors import UserError
from prunelab.mask import Pruning
from prunelab.run import RunConfig
from testing.runs import two_ranks

HERE = Path(__file__).parent
LOOPS = sorted((HERE / "loops").glob("loop_*.py"))


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What both ranks found, and the folder that they worked in."""
    folder = tmp_path_factory.mktemp("two_ranks")
    return two_ranks(HERE / "two_ranks.py", folder), folder


@pytest.mark.dist
def test_gradients_are_means_and_a_missing_one_counts_as_zero(ranks):
    for found in ranks[0]:
        assert found["mean"].tolist() == [1.5] * 3
        assert found["one missing"].tolist() == [0.5] * 3
        assert found["bfloat16"].tolist() == [1.0] * 4
        assert found["big"].tolist() == [1.5]
        assert found["both missing"]


@pytest.mark.dist
def test_two_processes_make_the_steps_of_one_and_have_equal_weights_after_each(ranks):
    first, second = (found["history"] for found in ranks[0])
    assert torch.equal(first, second)
    alone: dict[str, torch.Tensor] = {}
    namespace = runpy.run_path(str(HERE / "two_ranks.py"))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    data = torch.randn(6, 8, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for step, batch in enumerate(data):
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        namespace["guarded_step"](optimizer, model.parameters(), clip=0.5)
        alone[str(step)] = namespace["flat"](model.state_dict())
    torch.testing.assert_close(torch.stack(list(alone.values())), first, atol=1e-12, rtol=1e-12)


@pytest.mark.dist
def test_ranks_keep_features_in_one_memory(ranks):
    for found in ranks[0]:
        assert found["kept by both"].tolist() == [0.0, 6.0]


@pytest.mark.dist
def test_a_value_that_is_not_finite_on_one_rank_is_skipped_on_both(ranks):
    for found in ranks[0]:
        assert found["skipped on both"].tolist() == [0.0, 1.0, 1.0]


@pytest.mark.dist
def test_masks_are_equal_on_both_ranks_and_snip_takes_the_mean_of_their_gradients(ranks):
    first, second = ranks[0]
    assert torch.equal(first["snip"], second["snip"])
    assert torch.equal(first["magnitude"], second["magnitude"])
    data = torch.randn(6, 8, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    alone = Pruning.snip(model, 0.5, batches=data, loss=lambda x: model(x).square().mean())
    assert torch.equal(
        torch.cat([value.detach().reshape(-1) for value in alone.masks.values()]), first["snip"]
    )


@pytest.mark.dist
def test_buffers_lists_and_mistakes_are_the_same_on_both_ranks(ranks):
    for found in ranks[0]:
        assert found["buffers"].tolist() == [0.5, 0.5, 5.0]
        assert found["gathered"].tolist() == [0, 2, 4, 1, 3]
        assert found["mistake on both"]
        assert found["mean count"].tolist() == [5.0]
        assert found["mean count"].dtype == torch.float64


@pytest.mark.dist
def test_ranks_draw_different_random_numbers(ranks):
    assert ranks[0][0]["random"] != ranks[0][1]["random"]


@pytest.mark.dist
def test_a_signal_to_one_rank_stops_both_at_one_step_and_nothing_is_lost(ranks):
    first, second = (found["stopped at"].tolist() for found in ranks[0])
    assert first == second
    assert 5 <= first[0] < 30
    assert first[1]
    assert all(found["same after a stop"] for found in ranks[0])


@pytest.mark.dist
@pytest.mark.parametrize("path", LOOPS, ids=lambda path: path.stem)
def test_a_loop_on_two_ranks_is_equal_on_both_and_after_a_kill(path, ranks):
    first, second = ranks[0]
    killed = [key for key in first if key.startswith(path.stem + "/") and not key.endswith("/whole")]
    assert len(killed) >= 2
    for key in [f"{path.stem}/whole", *killed]:
        assert torch.equal(first[key], first[f"{path.stem}/whole"]), key
        assert torch.equal(first[key], second[key]), key


@pytest.mark.dist
def test_a_run_of_two_ranks_goes_on_in_one(ranks):
    path = HERE / "loops" / "loop_c_sampling.py"
    folder = ranks[1] / path.stem / "whole"
    (folder / "finished.json").unlink()
    shutil.rmtree(max((folder / "checkpoints").iterdir()))
    cfg = RunConfig(dir=folder, seed=5, resume=True, device="cpu", tensorboard=False, quiet=True)
    state = runpy.run_path(str(path))["train"](cfg)
    assert all(value.isfinite().all() for value in state.values())
    assert (folder / "finished.json").exists()


def test_one_process_needs_no_messages():
    weight = nn.Parameter(torch.zeros(2))
    dist.average_gradients([weight])
    assert weight.grad is None
    assert dist.gather_objects([1, 2, 1], key=lambda item: item) == [1, 2]
    assert (dist.rank(), dist.world_size(), dist.is_main()) == (0, 1, True)


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_one_line(device):
    with pytest.raises(UserError, match=f"device is '{device}'.*expected"):
        dist.start(device)


def test_an_incomplete_start_says_what_is_missing(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UserError, match=r"MASTER_ADDR.* is not set; expected a start by torchrun"):
        dist.start("cpu")
