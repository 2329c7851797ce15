from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from prunelab.doors import (
    check_above,
    check_at_least,
    check_device,
    check_one_of,
    check_order,
    check_share,
    check_within,
)
from prunelab.errors import UserError


def refused(check: Callable[..., None], *values: object) -> str:
    """What the check says of values that it refuses; empty where it lets them pass."""
    try:
        check(*values)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("check", "values", "message"),
    [
        (check_at_least, ("epochs", 0, 1), "epochs is 0, expected at least 1"),
        (check_above, ("final_temp", 0.0, 0), "final_temp is 0.0, expected more than 0"),
        (check_within, ("opacity", 1.5, 0, 1), "opacity is 1.5, expected 0 to 1"),
        (check_share, ("sparsity", 1.0), "sparsity is 1.0, expected 0 <= sparsity < 1"),
        (
            check_order,
            ("scale_min", 2.0, "scale_max", 0.5),
            "scale_min is 2.0 and scale_max 0.5, expected scale_min <= scale_max",
        ),
        (check_device, ("gpu",), "device is 'gpu', expected auto, cpu, cuda or cuda:N"),
        (check_device, ("cuda:x",), "device is 'cuda:x', expected auto, cpu, cuda or cuda:N"),
        (
            check_one_of,
            ("optim", "adagard", ("adam", "adagrad", None)),
            "optim is 'adagard', expected one of adam, adagrad, None; did you mean adagrad?",
        ),
        (check_one_of, ("optim", "sgd", ("adam", "rprop")), "optim is 'sgd', expected one of adam, rprop"),
    ],
)
def test_what_is_out_of_range_is_named_with_the_range(
    check: Callable[..., None], values: tuple[object, ...], message: str
) -> None:
    assert refused(check, *values) == message


def test_what_is_in_range_passes_to_its_very_ends() -> None:
    passes = [
        refused(check_at_least, "a", 1, 1),
        refused(check_above, "a", 1e-9, 0),
        refused(check_within, "a", 0, 0, 1) + refused(check_within, "a", 1, 0, 1),
        refused(check_share, "a", 0) + refused(check_share, "a", 0.999),
        refused(check_order, "a", 2, "b", 2),
        refused(check_one_of, "a", None, (None, "x")),
        "".join(refused(check_device, name) for name in ("auto", "cpu", "cuda", "cuda:3")),
    ]
    assert passes == [""] * len(passes)


def test_no_check_lets_nan_pass() -> None:
    for check, *bounds in [(check_at_least, 0), (check_above, 0), (check_within, 0, 1), (check_share,)]:
        assert "a is nan" in refused(check, "a", math.nan, *bounds)
    assert refused(check_order, "a", math.nan, "b", 1)
    assert refused(check_order, "a", 1, "b", math.nan)
