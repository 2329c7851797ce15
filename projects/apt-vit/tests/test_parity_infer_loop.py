"""The inference program against the recorded one: figures, messages, and every printed shape."""

from __future__ import annotations

import io
import logging
from contextlib import redirect_stdout
from dataclasses import dataclass

import pytest

from apt_vit import infer as program
from apt_vit import messages
from apt_vit.config import Config, DataConfig, PruneConfig, QuirkConfig, RunOptions
from apt_vit.evaluate import Scores
from apt_vit.options import InferOptions
from testing.parity import Folder, of_kind

from .in_order import in_order
from .recorded import model_config

WAYS = {"pruned": "dropped", "masked": "masked", "plain": "plain"}
"""Runs of the original, and our names of them."""
CLOSE = 1e-5


@dataclass(frozen=True, kw_only=True)
class Found:
    """What an inference did."""

    scores: Scores
    messages: list[str]
    printed: str


def inferred(folder: Folder, mode: str, patch: pytest.MonkeyPatch) -> Found:
    """Run the program on a folder's pictures and weights."""
    facts, arrays, said = folder.facts, folder.arrays("data.npz"), []

    class Kept(logging.StreamHandler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    cfg = Config(
        model=model_config(facts),
        data=DataConfig(eval_batch_size=facts["eval_batch_size"], num_workers=0, validation_share=0.0),
        prune=PruneConfig(threshold=facts["threshold"]),
        run=RunOptions(preset="faithful", device="cpu"),
        quirks=QuirkConfig.of("faithful"),
    )
    patch.setattr(program, "lower_infer", lambda *_: cfg)
    patch.setattr(messages.logging, "StreamHandler", Kept)
    data = in_order(cfg, {"val": (arrays["x"], arrays["y"])})
    printed = io.StringIO()
    with redirect_stdout(printed):
        scores = program.infer(
            InferOptions(
                model=str(folder.file("1_*_checkpoint.bin")),
                mode=mode,
                typed={"threshold": facts["threshold"]},
            ),
            data=data,
        )
    return Found(scores=scores, messages=said, printed=printed.getvalue())


@pytest.mark.parity
@of_kind("infer_loop")
@pytest.mark.parametrize("way", WAYS)
def test_each_way_gives_the_recorded_figures_messages_and_shapes(
    way: str, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = folder.json("expected.json")["results"]
    if way not in recorded:
        pytest.skip(f"{folder.path} has no way {way}")
    expected = recorded[way]
    found = inferred(folder, WAYS[way], monkeypatch)
    assert found.scores.accuracy == pytest.approx(expected["accuracy"], abs=1e-12)
    assert found.scores.loss == pytest.approx(expected["loss"], abs=CLOSE)
    assert found.printed == expected["stdout"]
    first, *said = found.messages
    assert first.startswith("Process rank: ")
    assert len(said) == len(expected["log_messages"])
    for ours, text in zip(said, expected["log_messages"], strict=True):
        if text.startswith("Valid Loss: "):
            assert float(ours.removeprefix("Valid Loss: ")) == pytest.approx(
                float(text.removeprefix("Valid Loss: ")), abs=1.5e-5
            )
        else:
            assert ours == text
