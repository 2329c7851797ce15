from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prunelab.doors import apply_pairs, read_sections, read_yaml
from prunelab.errors import UserError


def test_yaml_reads_exponents_as_numbers(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("a: 1e-4\nb: 1.5E+3\nc: 0.1\nd: [1e5, -2e-3]\ne: e5\nf: '1e-4'\ng:\nh: 12e03\n")
    assert read_yaml(file) == {
        "a": 1e-4,
        "b": 1500.0,
        "c": 0.1,
        "d": [1e5, -2e-3],
        "e": "e5",
        "f": "1e-4",
        "g": None,
        "h": 12000.0,
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"a: 1\nb: 2\na: 3\n",
            r"x\.yaml: broken YAML at line 3, column 1: the key 'a' is there already in line 1",
        ),
        (b"a: [1\nb: 2\n", r"x\.yaml: broken YAML at line 2, column 2"),
        (
            b"a: !!python/object:os.system x\n",
            r"x\.yaml: broken YAML at line 1, column 4: could not determine",
        ),
        (b"a: \xff\n", r"x\.yaml: not a YAML text file: byte 3"),
        (b"a: \x01\n", r"x\.yaml: broken YAML"),
        (b"a: 2001-99-99\n", r"x\.yaml: broken YAML: month must be in 1\.\.12"),
    ],
)
def test_broken_yaml_names_its_place(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_yaml(file)


def test_a_missing_yaml_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.yaml: cannot be read: No such file"):
        read_yaml(tmp_path / "nothing.yaml")


def test_sections_are_joined_and_later_keys_win(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("DATA:\n  a: 1\n  b:\nEMPTY:\nTRAIN:\n  a: 2\n  scales: [1.0]\n")
    assert read_sections(file) == {"a": 2, "b": None, "scales": [1.0]}
    file.write_text("a: 1\n")
    with pytest.raises(UserError, match=r"a\.yaml: expected keys and values under a, not a whole number"):
        read_sections(file)
    file.write_text("")
    with pytest.raises(UserError, match="expected sections of keys and values, not nothing"):
        read_sections(file)


BASE = {
    "epochs": 100,
    "base_lr": 0.01,
    "scales": [1.0],
    "manual_seed": None,
    "evaluate": False,
    "save_path": "/logs",
    "pair": (1, 2),
}


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("pairs", "changed"),
    [
        (["epochs", "3"], {"epochs": 3}),
        (["TRAIN.base_lr", "0.5"], {"base_lr": 0.5}),
        (["scales", "(0.5, 1.0)"], {"scales": [0.5, 1.0]}),
        (["scales", "[1]"], {"scales": [1]}),
        (["pair", "[3, 4]"], {"pair": (3, 4)}),
        (["evaluate", "True"], {"evaluate": True}),
        (["save_path", "/some/dir"], {"save_path": "/some/dir"}),
        (["save_path", "'3'"], {"save_path": "3"}),
        (["epochs", "3", "epochs", "4"], {"epochs": 4}),
        ([], {}),
    ],
)
def test_pairs_go_over_the_file(pairs: list[str], changed: dict[str, Any], strict: bool) -> None:
    assert apply_pairs(BASE, pairs, strict=strict) == {**BASE, **changed}


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["epochs", "3.0"], "epochs '3.0': expected a whole number like 100, not a number with a point"),
        (["epochs", "x"], "epochs 'x': expected a whole number like 100, not text"),
        (["evaluate", "maybe"], "evaluate 'maybe': expected True or False like False, not text"),
        (["scales", "1.0"], "expected a list like"),
        (["epoch", "1"], "the config file has no key 'epoch': did you mean epochs"),
        (["epochs"], "KEY VALUE pairs: 'epochs' has no value"),
    ],
)
def test_pairs_that_do_not_fit_are_named(pairs: list[str], message: str, strict: bool) -> None:
    with pytest.raises(UserError, match=message):
        apply_pairs(BASE, pairs, strict=strict)


@pytest.mark.parametrize(
    ("pairs", "changed"),
    [
        (["base_lr", "1"], {"base_lr": 1.0}),
        (["manual_seed", "1"], {"manual_seed": 1}),
        (["manual_seed", "x.pth"], {"manual_seed": "x.pth"}),
        (["evaluate", "true"], {"evaluate": True}),
        (["sparsity", "0.5"], {"sparsity": 0.5}),
    ],
)
def test_what_only_the_mended_rule_accepts(pairs: list[str], changed: dict[str, Any]) -> None:
    assert apply_pairs(BASE, pairs, also=["sparsity"]) == {**BASE, **changed}
    with pytest.raises(UserError):
        apply_pairs(BASE, pairs, also=["sparsity"], strict=True)


def test_a_bool_never_stands_for_a_number() -> None:
    with pytest.raises(UserError, match="epochs 'True': expected a whole number"):
        apply_pairs(BASE, ["epochs", "True"])
