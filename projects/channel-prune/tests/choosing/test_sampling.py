"""Patches under output positions, for every way to pad; the rows that are drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from channel_prune.choosing.draws import SeededDraws
from channel_prune.choosing.gram import kernel_rows
from channel_prune.choosing.sampling import (
    ROWS_PER_WEIGHT,
    View,
    at,
    check_recovered,
    chunks,
    everywhere,
    phased,
    planned,
    scattered,
)
from prunelab.errors import UserError

CONVS = {
    "same": nn.Conv2d(3, 4, 3, padding="same", bias=False),
    "one on each side": nn.Conv2d(3, 4, 3, padding=1),
    "strided": nn.Conv2d(3, 4, (3, 5), stride=(2, 3), padding=(1, 0)),
    "point": nn.Conv2d(3, 4, 1, stride=2),
    "dilated": nn.Conv2d(3, 4, 3, padding=2, dilation=2),
    "dilated and strided": nn.Conv2d(3, 4, 3, padding=3, dilation=3, stride=2),
    "reflected": nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
    "even": nn.Conv2d(3, 4, 2, padding="same"),
}


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:.*even kernel lengths.*:UserWarning")
@pytest.mark.parametrize("name", CONVS)
def test_patches_times_kernel_are_the_outputs_everywhere(name: str) -> None:
    conv = CONVS[name]
    x = torch.randn(2, 3, 11, 9)
    y = conv(x)
    view = View(conv=conv, phased=False)
    assert view.sizes(11, 9) == tuple(y.shape[2:])
    places = everywhere(view, [(2, 11, 9)]).places[0]
    assert len(places) == y.numel() // 4
    outputs = view.outputs(x, y, places)
    for part, patches in chunks(view, x, places):
        check_recovered(conv, name, patches, outputs[part])
    made = view.patches(x, places).flatten(1).double() @ kernel_rows(conv.weight)
    torch.testing.assert_close(made.float(), outputs, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_phases_of_a_dilated_convolution_hold_its_outputs() -> None:
    conv = nn.Conv2d(3, 4, 3, padding=6, dilation=6, bias=False)
    x = torch.randn(2, 3, 19, 19)
    y, parts = conv(x), nn.functional.conv2d(phased(conv, x), conv.weight)
    view = View(conv=conv, phased=True)
    assert view.copies == 36
    assert tuple(parts.shape) == (72, 4, *view.sizes(19, 19))
    for row, column in ((0, 0), (5, 7), (18, 18)):
        instance = (row % 6 * 6 + column % 6) * 2 + 1  # phase by phase, pictures inside
        place = torch.tensor([[instance, row // 6, column // 6]])
        torch.testing.assert_close(at(parts, place)[0], y[1, :, row, column], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_layer_that_does_something_else_is_refused() -> None:
    conv = nn.Conv2d(3, 4, 3)
    x = torch.randn(2, 3, 6, 6)
    view = View(conv=conv, phased=False)
    places = everywhere(view, [(2, 6, 6)]).places[0]
    with pytest.raises(UserError, match=r"layer: unable to recover output feature maps .*below 1e-06"):
        check_recovered(conv, "layer", view.patches(x, places), 2 * at(conv(x), places))


def test_the_originals_rows_are_whole_mini_batches_cut_to_the_wanted_number() -> None:
    view = View(conv=nn.Conv2d(3, 4, 3, padding=1), phased=True)
    plan = planned(view, [(4, 8, 8)] * 3, SeededDraws(1), crops=5, samples=10)
    assert [len(places) for places in plan.places] == [20, 20, 20]
    assert plan.used is not None
    assert plan.looked_at is not None
    assert sum(map(len, plan.used)) == 50
    assert sum(map(len, plan.looked_at)) == 50
    assert {tuple(row) for row in plan.places[0][:4, 1:].tolist()} == {tuple(plan.places[0][0, 1:].tolist())}
    assert plan.places[0][:5, 0].tolist() == [0, 1, 2, 3, 0]
    for used, seen in zip(plan.used, plan.looked_at, strict=True):
        assert set(seen.tolist()) <= set(used.tolist())


def test_scattered_rows_depend_on_the_mini_batchs_number_alone() -> None:
    view = View(conv=nn.Conv2d(3, 4, 3), phased=False)
    sizes = [(30, 8, 8), (20, 8, 8)]
    both = scattered(view, sizes, crops=7, seed=(3, 1), numbers=[0, 1]).places
    second = scattered(view, sizes[1:], crops=7, seed=(3, 1), numbers=[1], sharers=3).places[0]
    assert torch.equal(both[1], second)
    assert len(both[0]) == 210
    assert int(both[0][:, 1:].max()) <= 5


def test_few_pictures_give_more_rows_each() -> None:
    view = View(conv=nn.Conv2d(32, 4, 3), phased=False)
    places = scattered(view, [(100, 8, 8)], crops=2, seed=(0,), numbers=[0]).places[0]
    assert len(places) >= ROWS_PER_WEIGHT * 32 * 9
    assert np.unique(places[:, 0].numpy()).size == 100
