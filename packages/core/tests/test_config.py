from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prunelab.config import Flat, from_plain, load_config, load_yaml, save_yaml, to_plain, yaml_text
from prunelab.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Optim:
    name: Literal["adam", "sgd"] = "adam"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    milestones: tuple[int, ...] = ()
    level: Literal[1, 2] = 1

    def __post_init__(self) -> None:
        if self.lr < 0:
            raise ValueError(f"lr must be >= 0, not {self.lr}")


@dataclass(frozen=True, kw_only=True)
class Config:
    folder: Path
    title: str = ""
    seed: int | None = None
    device: str = "cpu"
    quick: bool = False
    target: int | float | str = 0
    optim: Optim = field(default_factory=Optim)
    stages: tuple[Optim, ...] = ()
    extra: Optim | None = None
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    free: Any = None
    sizes: list[int] = field(default_factory=list)


finite = st.floats(allow_nan=False)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    [
        "1e-4",
        "-.5e3",
        "on",
        "null",
        "~",
        "0x1f",
        "1_0",
        "12:30",
        "a: b",
        "- x",
        "#",
        "é\x85\ufeff",
        "2001-01-01",
        "=",
    ]
)
optims = st.builds(
    Optim,
    name=st.sampled_from(["adam", "sgd"]),
    lr=st.floats(0, 1e300),
    betas=st.tuples(finite, finite),
    milestones=st.lists(st.integers(), max_size=3).map(tuple),
    level=st.sampled_from([1, 2]),
)
configs = st.builds(
    Config,
    folder=text.filter(lambda t: "\0" not in t).map(Path),
    title=text,
    seed=st.none() | st.integers(),
    quick=st.booleans(),
    target=st.integers() | finite | text,
    optim=optims,
    stages=st.lists(optims, max_size=2).map(tuple),
    extra=st.none() | optims,
    names=st.dictionaries(text, st.lists(text, max_size=2).map(tuple), max_size=2),
    free=st.none() | st.lists(st.integers() | text, max_size=2),
    sizes=st.lists(st.integers(), max_size=2),
)


def same(a: Any, b: Any) -> bool:
    """Equal, and of equal types all the way down."""
    if type(a) is not type(b):
        return False
    if dataclasses.is_dataclass(a):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    return a == b


@given(configs)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_config_to_file_to_config_is_the_identity(tmp_path: Path, config: Config) -> None:
    assert same(from_plain(Config, to_plain(config)), config)
    assert same(from_plain(Config, json.loads(json.dumps(to_plain(config)))), config)
    save_yaml(tmp_path / "c.yaml", config, header="A comment\n\nof three lines")
    assert same(load_config(Config, tmp_path / "c.yaml"), config)


def test_defaults_fill_what_the_file_leaves_out(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("folder: a/b\noptim: {lr: 1e-4, betas: [1, 2]}\n")
    config = load_config(Config, tmp_path / "c.yaml")
    assert config == Config(folder=Path("a/b"), optim=Optim(lr=1e-4, betas=(1.0, 2.0)))
    assert isinstance(config.optim.betas[0], float)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"folder": "a", "sed": 1}, "c.yaml: unknown key sed: did you mean seed?"),
        (
            {"folder": "a", "optim": {"learning_rate": 1}},
            "c.yaml: unknown key optim.learning_rate: expected one of: name",
        ),
        ({"folder": "a", "stages": [{}, {"lrr": 1}]}, "c.yaml: unknown key stages[1].lrr: did you mean lr?"),
        ({}, "c.yaml: folder is missing: expected a path"),
        ({"folder": 3}, "c.yaml: folder: expected a path, not '3' (int)"),
        ({"folder": "a", "seed": 1.5}, "c.yaml: seed: expected a whole number, not '1.5' (float)"),
        ({"folder": "a", "seed": True}, "c.yaml: seed: expected a whole number, not 'True' (bool)"),
        ({"folder": "a", "quick": 1}, "c.yaml: quick: expected true or false, not '1' (int)"),
        ({"folder": "a", "device": None}, "c.yaml: device: expected text, not 'None' (NoneType)"),
        (
            {"folder": "a", "target": []},
            "c.yaml: target: expected a whole number or a number or text, not '[]' (list)",
        ),
        ({"folder": "a", "optim": {"lr": "fast"}}, "c.yaml: optim.lr: expected a number, not 'fast' (str)"),
        ({"folder": "a", "optim": {"lr": True}}, "c.yaml: optim.lr: expected a number, not 'True' (bool)"),
        (
            {"folder": "a", "optim": {"name": "lion"}},
            "c.yaml: optim.name: expected one of 'adam', 'sgd', not 'lion' (str)",
        ),
        (
            {"folder": "a", "optim": {"level": True}},
            "c.yaml: optim.level: expected one of 1, 2, not 'True' (bool)",
        ),
        ({"folder": "a", "optim": {"betas": [1]}}, "c.yaml: optim.betas: expected 2 values, not 1: [1]"),
        (
            {"folder": "a", "optim": {"milestones": [1, "x"]}},
            "c.yaml: optim.milestones[1]: expected a whole number",
        ),
        (
            {"folder": "a", "optim": {"milestones": "12"}},
            "c.yaml: optim.milestones: expected a list of a whole number, not",
        ),
        ({"folder": "a", "optim": {"lr": -1}}, "c.yaml: optim: lr must be >= 0, not -1"),
        ({"folder": "a", "optim": 3}, "c.yaml: optim: expected keys and values, not '3' (int)"),
        ({"folder": "a", "names": {1: ["a"]}}, "c.yaml: names: expected keys and values"),
        ([], "c.yaml: the whole: expected keys and values, not '[]' (list)"),
    ],
)
def test_what_does_not_fit_is_named(data: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        from_plain(Config, data, where="c.yaml")
    assert str(caught.value).startswith(message)


def test_only_plain_things_can_be_part_of_a_configuration() -> None:
    with pytest.raises(TypeError, match="object"):
        to_plain({"a": object()})
    with pytest.raises(TypeError, match="must be a string, not 1"):
        to_plain({1: "a"})


def test_the_header_is_a_comment_and_the_order_is_kept() -> None:
    text = yaml_text({"b": 1, "a": ["1e-4", 1e-4]}, header="Paper\n\nTable 1")
    assert text == "# Paper\n#\n# Table 1\nb: 1\na:\n- '1e-4'\n- 0.0001\n"
    assert yaml.safe_load(text)["b"] == 1


def test_a_file_of_something_else_is_refused_and_an_empty_one_is_empty(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("- 1\n")
    with pytest.raises(UserError, match=r"c\.yaml: expected keys and values, not"):
        load_yaml(tmp_path / "c.yaml")
    (tmp_path / "c.yaml").write_text("# nothing\n")
    assert load_yaml(tmp_path / "c.yaml") == {}


@dataclass(frozen=True, kw_only=True)
class Data:
    size: int = 4
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Prune:
    ratio: float = 0.5
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Both:
    data: Data = field(default_factory=Data)
    prune: Prune = field(default_factory=Prune)


def test_a_configuration_of_groups_is_one_mapping_of_fields() -> None:
    flat = Flat(Both, {"seed": "data"})
    assert flat.groups == {"data": Data, "prune": Prune}
    assert flat.group_of == {"size": "data", "seed": "data", "ratio": "prune"}
    config = Both(data=Data(size=7, seed=3), prune=Prune(seed=3))
    assert flat.values(config) == {"size": 7, "seed": 3, "ratio": 0.5}
    assert flat.build(flat.values(config)) == config
    assert flat.build({"seed": 3, "size": 7}) == config
    assert flat.build({}) == Both()


def test_what_does_not_fit_a_mapping_of_fields_is_named() -> None:
    with pytest.raises(TypeError, match="Both: data and prune have a field seed"):
        Flat(Both)
    flat = Flat(Both, {"seed": "data"})
    with pytest.raises(UserError, match=r"a\.yaml: unknown key rati: did you mean ratio\?"):
        flat.build({"rati": 1.0}, where="a.yaml")
    with pytest.raises(UserError, match=r"a\.yaml.*ratio"):
        flat.build({"ratio": "half"}, where="a.yaml")
