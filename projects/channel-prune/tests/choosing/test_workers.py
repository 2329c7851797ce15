"""Mini-batches side by side: nothing that comes out depends on the threads, nor what torch is set to."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from channel_prune.choosing.choose import choose
from channel_prune.choosing.recalibrate import recalibrate
from channel_prune.choosing.workers import Workers, draws
from channel_prune.config import NetConfig, PruneConfig
from channel_prune.model import build

CPU = torch.device("cpu")


@pytest.fixture
def three() -> Iterator[None]:
    """Three threads of torch; the suite has one."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_results_come_in_order_from_several_threads_without_gradients(three: None) -> None:
    together = threading.Barrier(3, timeout=20)

    def work(item: int) -> tuple[int, int, bool]:
        if item < 3:
            together.wait()  # passes where three items are under way at once
        return item, torch.get_num_threads(), torch.is_grad_enabled()

    with Workers(8, CPU) as workers:
        assert list(workers.map(work, range(8))) == [(item, 1, False) for item in range(8)]
        assert torch.get_num_threads() == 1
        with workers.wide():
            assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize(("batches", "device"), [(1, CPU), (0, CPU), (4, torch.device("cuda")), (4, None)])
def test_the_caller_takes_what_cannot_be_shared_out(
    three: None, batches: int, device: torch.device | None
) -> None:
    with Workers(batches, device) as workers:
        found = list(workers.map(lambda _: (threading.current_thread(), torch.get_num_threads()), range(3)))
    assert found == [(threading.current_thread(), 3)] * 3


def test_what_must_come_in_turn_has_all_threads_of_torch(three: None) -> None:
    with Workers(4, CPU) as workers:
        found = list(workers.map(lambda _: torch.get_num_threads(), range(2), in_turn=True))
    assert found == [3, 3]


def test_an_error_in_a_mini_batch_reaches_the_caller_and_threads_are_given_back(three: None) -> None:
    with pytest.raises(ZeroDivisionError), Workers(4, CPU) as workers:
        workers.each(lambda item: 1 // (item - 2), range(4))
    assert torch.get_num_threads() == 3


def test_networks_that_take_random_numbers_are_told_and_nothing_is_used_up() -> None:
    model, images = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout(0.5)), torch.randn(4, 3, 8, 8)
    before = torch.get_rng_state()
    assert draws(model, images)
    assert not draws(model.eval(), images)
    assert torch.equal(before, torch.get_rng_state())


ORIGINAL: dict[str, Any] = {
    "selection": "ista",
    "reconstruction": "adam",
    "sample_mode": "train",
    "positions": "crops",
    "recalibrate": 0,
}


def chosen(model: nn.Module, batches: list[torch.Tensor], options: dict[str, Any]) -> dict[str, torch.Tensor]:
    pruned = copy.deepcopy(model)
    choose(pruned, batches, PruneConfig(nb_smpls=24, batch_size=8, **options))
    return pruned.state_dict()


@pytest.mark.parametrize("options", [{}, ORIGINAL])
def test_a_choice_is_the_same_on_any_number_of_threads(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = build(NetConfig(name="resnet_v1", resnet_size=8, nb_classes=10, width_divisor=4))
    batches = list(torch.randn(24, 3, 32, 32).split(8))
    recalibrate(model, batches)
    before, found = torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            found.append(chosen(model, batches, options))
        finally:
            torch.set_num_threads(before)
    assert all(torch.equal(value, found[1][key]) for key, value in found[0].items())


def test_dropout_comes_in_turn_and_draws_the_same_again(three: None) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(8, 4, 3)).eval()
    batches = list(torch.randn(24, 3, 8, 8).split(8))
    found = [chosen(model, batches, ORIGINAL) for _ in range(2)]
    assert all(torch.equal(value, found[1][key]) for key, value in found[0].items())
