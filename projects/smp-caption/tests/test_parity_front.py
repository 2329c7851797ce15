"""Tokenizers, losses and schedules against recorded numbers of the original system."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from prunelab.optim import Schedule, guarded_step
from smp_caption.config import (
    OPTIMISERS,
    OptimConfig,
    PruneConfig,
)
from smp_caption.steps import MASK_GROUP, learning_rate, make_optimizer, token_loss
from smp_caption.tokenizer import (
    MODEL_TYPES,
    RadixTokenizer,
    Tokenizer,
    build_tokenizer,
    from_base,
    to_base,
    train_sentencepiece,
)
from testing.parity import Folder, of_kind


def tokenizers_of(folder: Folder, scratch: Any) -> list[tuple[dict[str, Any], Tokenizer]]:
    """Each listed type with its tokenizer: the recorded model where there is one, else a new one."""
    captions = folder.file(folder.facts["train_captions"]).read_text(encoding="utf-8").split("\n")
    found = []
    for entry in folder.facts["types"]:
        kind, name = entry["tokenizer"], MODEL_TYPES[entry["tokenizer"]]
        home = scratch / kind
        if entry["model_file"]:
            (home / "tokenizer").mkdir(parents=True)
            model = folder.file(entry["model_file"]).read_bytes()
            (home / "tokenizer" / f"{name}.model").write_bytes(model)
        tokenizer = build_tokenizer(
            home,
            kind=kind,
            vocab_size=entry["vocab_size"],
            radix_base=entry["radix_base"] or 768,
            captions=captions,
            truncation_drops_eos=True,
        )
        found.append((entry, tokenizer))
    return found


@pytest.mark.parity
@of_kind("tokenizers")
def test_newly_trained_vocabularies_equal_the_recorded_ones(folder: Folder, tmp_path: Any) -> None:
    captions = folder.file(folder.facts["train_captions"]).read_text(encoding="utf-8").split("\n")
    for entry in folder.facts["types"]:
        model = train_sentencepiece(captions, model_type=entry["model_type"], vocab_size=entry["vocab_size"])
        file = tmp_path / "tokenizer.model"
        file.write_bytes(model)
        Tokenizer(file, kind=entry["model_type"].replace("char", "character")).save(tmp_path)
        written = (tmp_path / "tokenizer" / f"{entry['model_type']}.vocab").read_text(encoding="utf-8")
        assert written == folder.file(entry["vocab_file"]).read_text(encoding="utf-8"), entry["tokenizer"]


@pytest.mark.parity
@of_kind("tokenizers")
def test_texts_become_the_recorded_ids_and_texts_again(folder: Folder, tmp_path: Any) -> None:
    for entry, tokenizer in tokenizers_of(folder, tmp_path):
        examples = folder.json(entry["examples"])
        assert len(tokenizer) == examples["len_tokenizer"]
        config = {"vocab_size": examples["vocab_size_flag"], **tokenizer.config_fields()}
        assert config == examples["config_after"]
        for case in examples["encode_decode"]:
            ids = tokenizer.encode(
                case["text"], add_bos_eos=case["add_bos_eos"], max_seq_length=case["max_seq_length"]
            )
            assert ids == case["ids"], (entry["tokenizer"], case)
            assert tokenizer.decode(ids) == case["decoded"], (entry["tokenizer"], case)
        for case in examples["decode_raw"]:
            assert tokenizer.decode(case["ids"]) == case["decoded"], (entry["tokenizer"], case)
        for case in examples["tokenize"]:
            assert [list(piece) for piece in tokenizer.tokenize(case["text"])] == case["tokens"]
        for case in examples["encode_tokenized"]:
            assert tokenizer.encode_tokenized(case["items"]) == case["ids"], (entry["tokenizer"], case)


@pytest.mark.parity
@of_kind("tokenizers")
def test_radix_codes_equal_the_recorded_ones_for_every_base(folder: Folder, tmp_path: Any) -> None:
    if "radix_maps" not in folder.facts:
        pytest.skip(f"{folder.path} has no radix maps")
    facts = folder.facts["radix_maps"]
    recorded = folder.json(facts["file"])
    radix = next(e for e in folder.facts["types"] if e["tokenizer"] == "radix")
    model = folder.file(radix["model_file"])
    special = {-4: 0, -3: 1, -2: 2, -1: 3}
    for base in facts["bases"]:
        expected = recorded[str(base)]
        tokenizer = RadixTokenizer(model, base=base, truncation_drops_eos=True)
        assert tokenizer.tokens_per_word == expected["tokens_per_word"]
        assert len(tokenizer) == expected["vocab_size"]
        assert (tokenizer.bos, tokenizer.eos) == (expected["bos"], expected["eos"])
        table = {int(n): code for n, code in expected["radix_map"].items()}
        assert max(table) == tokenizer.code_count - 1
        for number, code in table.items():
            # The last number belongs to no word: it is the code of an unknown one.
            piece = special.get(number, 1 if number == max(table) else number + 4)
            assert tokenizer.code(piece) == code
        ids = tokenizer.encode(facts["example_text"], max_seq_length=facts["example_max_seq_length"])
        assert ids == expected["example"]
        assert tokenizer.decode(ids) == expected["decoded"]
    for number, base, digits in recorded["functions"]["to_base"]:
        assert to_base(number, base) == digits
    for digits, base, number in recorded["functions"]["from_base"]:
        assert from_base(digits, base) == number


@pytest.mark.parity
@of_kind("schedules_losses")
def test_learning_rates_equal_the_recorded_tables(folder: Folder) -> None:
    expected, tolerance = folder.json("expected.json"), folder.tolerance
    base = OptimConfig()
    for table in expected.get("noam", ()):
        optim = replace(base, noamopt_warmup=table["warmup"], noamopt_factor=table["factor"])
        rate = learning_rate(optim, d_model=table["d_model"], max_step=1)
        for number, value in table["table"]:
            assert rate(number) == pytest.approx(value, rel=tolerance)
    for table in expected.get("cosine", ()):
        optim = replace(
            base, lr_scheduler="cosine", learning_rate=table["lr"], learning_rate_min=table["min"]
        )
        rate = learning_rate(optim, d_model=1, max_step=table["max_train_step"])
        for number, value in table["table"]:
            assert rate(number) == pytest.approx(value, rel=tolerance)
    for table in expected.get("step", ()):
        optim = replace(
            base,
            lr_scheduler="step",
            learning_rate=table["lr"],
            learning_rate_decay_start=table["start"],
            learning_rate_decay_every=table["every"],
            learning_rate_decay_rate=table["rate"],
        )
        rate = learning_rate(optim, d_model=1, max_step=1)
        for epoch, value in table["table_by_epoch"]:
            assert rate(epoch) == pytest.approx(value, rel=tolerance)


@pytest.mark.parity
@of_kind("schedules_losses")
def test_losses_and_their_gradients_equal_the_recorded_ones(folder: Folder) -> None:
    expected, tolerance = folder.json("expected.json"), folder.tolerance
    inputs = expected["loss_inputs"]
    target, mask = torch.tensor(inputs["target"]), torch.tensor(inputs["mask"], dtype=torch.float32)
    for case in [{"smoothing": 0.0, **expected["xe"]}, *expected.get("label_smoothing", ())]:
        logprobs = torch.tensor(inputs["logprobs"], requires_grad=True)
        loss = token_loss(logprobs, target, mask, smoothing=case["smoothing"])
        loss.backward()
        close = {"rtol": tolerance, "atol": tolerance}
        torch.testing.assert_close(loss.detach(), torch.tensor(case["loss"]), **close)
        torch.testing.assert_close(logprobs.grad, torch.tensor(case["grad"]), **close)


@pytest.mark.parity
@of_kind("schedules_losses")
def test_every_optimiser_takes_the_recorded_steps(folder: Folder) -> None:
    setup, recorded = folder.facts["optimisers"], folder.json("expected.json")["optimisers"]
    assert set(recorded) <= set(OPTIMISERS)
    names = {f for f in setup if f in OptimConfig.__dataclass_fields__}
    for name, states in recorded.items():
        optim = OptimConfig(optim=name, **{f: setup[f] for f in names})
        model = torch.nn.ParameterList([torch.nn.Parameter(torch.tensor(setup["start"]))])
        optimizer = make_optimizer(model, optim, PruneConfig())
        rate = learning_rate(optim, d_model=1, max_step=setup["num_steps"])
        schedule = Schedule(optimizer, rate, skip_key=MASK_GROUP)
        for epoch in range(setup["num_steps"]):
            optimizer.zero_grad()
            model[0].square().sum().backward()
            schedule.step(at=epoch if optim.lr_scheduler == "step" else None)
            guarded_step(optimizer, model, clip=("value", optim.grad_clip))
            expected = torch.tensor(states[epoch])
            torch.testing.assert_close(
                model[0].detach(), expected, rtol=folder.tolerance, atol=folder.tolerance
            )
