"""Batch normalisation over two processes equals that of one process with the whole batch."""

import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import distributed, nn

from prunelab import dist
from prunelab.syncnorm import SyncBatchNorm1d, SyncBatchNorm2d, SyncBatchNorm3d, convert

SPLITS = {"even": 3, "uneven": 1, "one side empty": 0}
"""How many of the six samples rank 0 has."""


def network(dtype: torch.dtype) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 5, 3, stride=2),
        nn.BatchNorm2d(5, momentum=None),
        nn.ReLU(),
        nn.Conv2d(5, 2, 1),
        nn.BatchNorm2d(2, affine=False),
    )
    return model.to(dtype)


def train(model: nn.Module, take: slice, dtype: torch.dtype, world: int = 1) -> dict[str, torch.Tensor]:
    """Three steps on this rank's samples; the loss is the sum over the samples of all ranks."""
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    found = {}
    for step in range(3):
        x = 5 + torch.randn(6, 3, 7, 6, generator=generator, dtype=torch.float64)
        x = x.to(dtype)[take].requires_grad_()
        optimizer.zero_grad()
        y = model(x)
        (y * torch.arange(y.shape[1:].numel(), dtype=dtype).view(y.shape[1:]).cos()).sum().backward()
        dist.average_gradients(model.parameters())
        for param in model.parameters():
            param.grad.mul_(world)
        optimizer.step()
        found |= {f"y{step}": y.detach(), f"dx{step}": x.grad}
    return found | {f"state/{k}": v for k, v in model.state_dict().items()}


def own_slice(rank: int, first: int) -> slice:
    return slice(0, first) if rank == 0 else slice(first, 6)


def two_ranks(folder: Path) -> None:
    """What each of two processes does."""
    warnings.simplefilter("error")
    dist.start("cpu")
    found = {}
    for dtype in (torch.float64, torch.float32):
        for name, first in SPLITS.items():
            model = network(dtype)
            convert(model)
            done = train(model, own_slice(dist.rank(), first), dtype, world=2)
            found |= {f"{dtype}/{name}/{k}": v for k, v in done.items()}
    norm = SyncBatchNorm1d(2)
    try:
        norm(torch.ones(1 - dist.rank(), 2))
    except ValueError as error:
        found["one value"] = torch.tensor(float("one value per channel" in str(error)))
    low = SyncBatchNorm2d(3).to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 4, 4).bfloat16().to(memory_format=torch.channels_last)
    y = low(x)
    found["bfloat16"] = torch.tensor(
        float(y.dtype == torch.bfloat16 and y.is_contiguous(memory_format=torch.channels_last))
    )
    torch.save(found, folder / f"rank{dist.rank()}.pt")
    distributed.barrier()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("syncnorm")
    from testing import runs  # not on the path of the ranks, which start this very file

    return runs.two_ranks(Path(__file__), folder)


@pytest.mark.dist
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-4)])
def test_two_ranks_normalise_as_one_process_with_the_whole_batch(ranks, split, dtype, tolerance):
    alone = train(network(dtype), slice(None), dtype)
    for key, value in alone.items():
        parts = [found[f"{dtype}/{split}/{key}"] for found in ranks]
        if key.startswith("state/"):
            assert torch.equal(*parts), key
            joined = parts[0]
        else:
            joined = torch.cat(parts)
        torch.testing.assert_close(
            joined, value, rtol=tolerance, atol=tolerance, msg=lambda m, k=key: f"{k}: {m}"
        )


@pytest.mark.dist
def test_types_and_memory_formats_stay_and_a_lone_value_is_refused(ranks):
    for found in ranks:
        assert found["one value"] == 1
        assert found["bfloat16"] == 1


def test_converting_keeps_parameters_keys_and_the_numbers_of_one_process():
    model, plain = network(torch.float32), network(torch.float32)
    before = dict(model.named_parameters())
    model.append(nn.BatchNorm3d(2)).append(nn.BatchNorm1d(2)).append(nn.GroupNorm(1, 2))
    assert convert(model) == 5
    assert [type(m) for m in model][-3:] == [SyncBatchNorm3d, SyncBatchNorm1d, nn.GroupNorm]
    assert convert(model) == 0
    assert all(model.get_parameter(name) is param for name, param in before.items())
    ours, theirs = (train(m, slice(None), torch.float32) for m in (model[:8], plain))
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    x = torch.randn(2, 3, 7, 6)
    assert torch.equal(model[:8].eval()(x), plain.eval()(x))


if __name__ == "__main__":
    two_ranks(Path(sys.argv[1]))
