import pytest
import torch
from torch import nn

from prunelab import checkpoint, dist
from prunelab.checkpoint import Checkpoint
from prunelab.errors import UserError
from prunelab.tracked import Replay, Tracked

CPU = torch.device("cpu")


def two_ranks(folder, monkeypatch):
    """A checkpoint of a model whose gradients were 1 on rank 0 and 3 on rank 1."""
    tracked = Tracked(None, seed=1, step=0, device=CPU)
    model = nn.Linear(2, 1, bias=False)
    tracked.add({"model": model})
    states = []
    for value in (1.0, 3.0):
        model.weight.grad = torch.full((1, 2), value)
        state = tracked.state()
        states.append(state["ranks"][0])
        torch.rand(1)
    checkpoint.write(folder, {"objects": state["objects"], "ranks": states})
    return Checkpoint(folder)


@pytest.mark.parametrize(("world", "rank", "expected"), [(1, 0, 2.0), (2, 0, 1.0), (2, 1, 3.0), (3, 2, 2.0)])
def test_gradients_of_other_numbers_of_ranks_are_averaged(tmp_path, monkeypatch, world, rank, expected):
    source = two_ranks(tmp_path / "x", monkeypatch)
    monkeypatch.setattr(dist, "world_size", lambda: world)
    monkeypatch.setattr(dist, "rank", lambda: rank)
    tracked = Tracked(source, seed=1, step=0, device=CPU)
    model = nn.Linear(2, 1, bias=False)
    tracked.add({"model": model})
    assert model.weight.grad is not None
    assert model.weight.grad.tolist() == [[expected, expected]]


def test_a_rank_that_did_not_exist_draws_numbers_of_its_own(tmp_path, monkeypatch):
    source = two_ranks(tmp_path / "x", monkeypatch)
    monkeypatch.setattr(dist, "world_size", lambda: 4)
    draws = []
    for rank in range(4):
        monkeypatch.setattr(dist, "rank", lambda rank=rank: rank)
        Tracked(source, seed=1, step=0, device=CPU).add({"model": nn.Linear(2, 1, bias=False)})
        draws.append(float(torch.rand(())))
    assert len(set(draws)) == 4


def test_gradients_of_parameters_that_only_an_optimizer_holds_survive(tmp_path):
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.tensor([1.0, 2.0])
    tracked = Tracked(None, seed=1, step=0, device=CPU)
    tracked.add({"optimizer": torch.optim.SGD([weight], lr=1.0)})
    checkpoint.write(tmp_path / "x", tracked.state())
    other = nn.Parameter(torch.ones(2))
    Tracked(Checkpoint(tmp_path / "x"), seed=1, step=0, device=CPU).add(
        {"optimizer": torch.optim.SGD([other], lr=1.0)}
    )
    assert other.grad is not None
    assert other.grad.tolist() == [1.0, 2.0]


def test_objects_that_say_what_is_wrong_are_heard(tmp_path):
    class Picky:
        def state_dict(self):
            return {"size": 3}

        def load_state_dict(self, state):
            raise UserError(f"size was {state['size']} and is now 4")

    first = Tracked(None, seed=1, step=0, device=CPU)
    first.add({"picky": Picky()})
    checkpoint.write(tmp_path / "x", first.state())
    with pytest.raises(UserError, match=r"^size was 3 and is now 4$"):
        Tracked(Checkpoint(tmp_path / "x"), seed=1, step=0, device=CPU).add({"picky": Picky()})


def test_a_replayed_iterator_draws_its_order_again_and_nothing_else(tmp_path):
    def shuffled():
        yield from torch.randperm(6).tolist()

    torch.manual_seed(4)
    first = Replay()
    batches = first.batches(shuffled(), 0, skip=True)
    whole = [next(batches) for _ in range(6)]
    here = torch.get_rng_state()
    second = Replay()
    second.load(first.state())
    assert list(second.batches(shuffled(), 4, skip=True)) == whole[4:]
    assert torch.equal(torch.get_rng_state(), here)


@pytest.mark.gpu
def test_a_run_on_cuda_goes_on_with_the_same_random_numbers(tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    from prunelab.run import Run, RunConfig

    def go(folder, resume, count):
        cfg = RunConfig(dir=folder, resume=resume, max_steps=count, tensorboard=False, quiet=True)
        with Run(cfg) as run:
            model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).to(run.device)
            optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
            run.track(model=model, optimizer=optimizer)
            for _ in run.epochs(1):
                for _, batch in run.steps([torch.ones(3, 4)] * 6):
                    optimizer.zero_grad()
                    model(batch.to(run.device)).square().sum().backward()
                    optimizer.step()
        return torch.cat([p.detach().flatten().cpu() for p in model.parameters()])

    whole = go(tmp_path / "whole", False, None)
    go(tmp_path / "cut", False, 3)
    assert torch.equal(go(tmp_path / "cut", True, None), whole)
