"""The rows of the benchmark at toy sizes: both sides agree, and the command prints and writes its table."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from prunelab.bench import Figure, Row
from prunelab.decode import DecodeOptions, State, greedy
from prunelab.mask import MaskSpec, masks
from smp_caption import bench
from smp_caption.benches import decode as bench_decode
from smp_caption.benches import step as bench_step
from smp_caption.benches.decode import decoding, incremental
from smp_caption.benches.reference import greedy_plain, make_masks_plain
from smp_caption.benches.sizes import Sizes
from smp_caption.benches.step import mask_cost, train_dense, train_pruned
from smp_caption.model import build
from testing.benches import check_rows, check_unknown_row

from .toy import TOY

# The bench takes the regions' mean as the picture's feature; among 31 words no two captions tie.
MODEL = replace(TOY, vocab_size=31, fc_feat_size=TOY.att_feat_size)
SIZES = Sizes(images=2, captions=2, tokens=6, regions=4, model=MODEL)
ORT = replace(
    SIZES,
    model=replace(
        MODEL,
        caption_model="relation_transformer",
        d_model=12,
        dim_feedforward=9,
        num_layers=2,
        num_heads=2,
        drop_prob_src=0.0,
        drop_prob_layer=0.0,
    ),
)


@pytest.mark.parametrize(
    ("row", "sides"),
    [
        (lambda: train_dense(SIZES, "0"), ["ours", "reference"]),
        (lambda: train_pruned(SIZES, "0"), ["ours", "reference", "ours, masks at each call"]),
        (lambda: train_dense(ORT, "0"), ["ours", "reference"]),
        (lambda: train_pruned(ORT, "0"), ["ours", "reference", "ours, masks at each call"]),
        (lambda: decoding(SIZES, 1, "0"), ["ours", "reference"]),
        (lambda: decoding(SIZES, 2, "0"), ["ours", "reference"]),
        (lambda: decoding(SIZES, 5, "0", pruned=True), ["ours", "reference", "ours, masks at each call"]),
        (lambda: decoding(ORT, 1, "0"), ["ours", "reference"]),
        (lambda: incremental(ORT, 2, 0.0), ["ours", "reference"]),
    ],
)
def test_every_row_compares_its_sides_and_times_them(row: Callable[[], Row], sides: list[str]) -> None:
    found = row()
    assert [side.name for side in (found.ours, found.reference, *found.extra)] == sides
    assert all(len(side.seconds) == 5 for side in (found.ours, found.reference, *found.extra))
    assert "V 31" in found.note
    assert found.work == (4 if "training" in found.name else 2)


@pytest.mark.parametrize("sizes", [SIZES, ORT])
def test_a_pruned_step_is_told_in_times_of_the_dense_one(sizes: Sizes) -> None:
    row, *figures = mask_cost(sizes, once=1.25, each_call=1e9)
    assert isinstance(row, Row)
    assert [row.ours.name, row.reference.name, row.extra[0].name] == [
        "ours",
        "ours, dense",
        "ours, masks at each call",
    ]
    pruned = (row.ours, row.extra[0])
    for figure, side, goal in zip(figures, pruned, (1.25, 1e9), strict=True):
        assert isinstance(figure, Figure)
        assert figure.ours == side.median / row.reference.median
        assert figure.at_most == goal
    assert figures[1].goals()[0][1]


def test_another_loss_or_another_caption_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = bench_step.train_step_plain

    def without_sparsity_loss(*args: object, **options: object) -> float:
        return plain(*args, **{**options, "sparsity_weight": 0.0})  # pyright: ignore

    monkeypatch.setattr(bench_step, "train_step_plain", without_sparsity_loss)
    with pytest.raises(AssertionError, match="training step, Up-Down, pruned: the result of ours differs"):
        train_pruned(SIZES, "0")
    monkeypatch.setattr(bench_decode, "beam_search_plain", greedy_plain)
    with pytest.raises(AssertionError, match="beam 2, Up-Down, dense: the result of ours differs"):
        decoding(SIZES, 2, "0")


def test_plain_layers_draw_at_every_call_and_round_in_evaluation() -> None:
    cfg = replace(MODEL, caption_model="up_down_lstm_prune")
    torch.manual_seed(1)
    model = build(cfg, MaskSpec(init=0.5))
    expected = [layer.weight * (layer.weight_pruning_mask > 0) for layer in (model.logit, model.embed[0])]  # pyright: ignore
    make_masks_plain(model)
    ids = torch.arange(cfg.vocab_size)
    assert not torch.equal(model.embed(ids), model.embed(ids))
    model.eval()
    assert torch.equal(model.embed(ids), expected[1].relu())
    hidden = torch.ones(1, cfg.rnn_size)
    assert torch.allclose(model.logit(hidden), hidden @ expected[0].t() + model.logit.bias)  # pyright: ignore
    model.logit(hidden).sum().backward()
    logits = masks(model)["logit.weight_pruning_mask"]
    keep = logits.detach().sigmoid()
    assert torch.allclose(logits.grad, model.logit.weight.detach() * keep * (1 - keep))  # pyright: ignore


def test_plain_greedy_choice_is_greedy_choice() -> None:
    scores = torch.randn(9, 12, generator=torch.Generator().manual_seed(3)).log_softmax(dim=1)

    def step(tokens: Tensor, state: State) -> tuple[Tensor, State]:
        return scores[(tokens + state.per_beam) % 9], State(per_beam=state.per_beam)

    state = State(per_beam=torch.arange(5))
    options = DecodeOptions(max_length=8, bos=1, eos=int(scores[2].argmax()))
    ours, plain = greedy(step, state, options), greedy_plain(step, state, options)
    assert torch.equal(ours.tokens, plain.tokens)
    assert torch.equal(ours.log_probs, plain.log_probs)
    assert torch.allclose(ours.scores, plain.scores)
    assert (ours.tokens == options.pad).any()


@pytest.fixture
def same_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("same_threads")
def test_the_command_measures_prints_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(bench.ROWS, "train-dense", lambda: train_dense(SIZES, "846 ms"))
    files = [tmp_path / "all.json", tmp_path / "new" / "table.json"]
    bench.main(["train-d*", "--threads", "1", "--json", str(files[0]), "--json-table", str(files[1])])
    shown = capsys.readouterr().out
    assert "threads 1" in shown
    assert "training step, Up-Down, dense" in shown
    assert "the original: 846 ms" in shown
    assert json.loads(files[0].read_text())["machine"]["threads"] == 1
    ours, reference = json.loads(files[1].read_text())
    assert (ours["what"], ours["side"]) == ("training step, Up-Down, dense", "ours")
    assert reference["ratio"] > 0


def test_the_command_joins_the_rows_of_all_modules(capsys: pytest.CaptureFixture[str]) -> None:
    check_rows(bench, capsys)


def test_an_unknown_row_gets_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    check_unknown_row(bench, capsys, "decode-beam3", "decode-beam")
