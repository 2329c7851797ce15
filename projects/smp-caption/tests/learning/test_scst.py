"""Self-critical training with tiny networks: rewards by hand, both ways to gradients, modes, masks, ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunelab import dist
from prunelab.bench import reference_caption as plain
from prunelab.caption.frequency import END, DocumentFrequency
from prunelab.decode import Draw
from prunelab.errors import UserError
from prunelab.mask import draw_once
from smp_caption.config import CAPTION_MODELS, Config, QuirksConfig, ScstConfig
from smp_caption.learning.scst import ScstLoss, SelfCritical, score_samples
from smp_caption.model import Network
from smp_caption.tokenizer import Tokenizer, train_sentencepiece

from ..networks import FAMILIES, part, pictures, small

REFERENCES = [
    ["a red cat sits", "the cat sits here"],
    ["two dogs run", "dogs run here", "the dogs"],
    ["a bus", "one red bus"],
]
INPUTS = pictures(3, 2, 4)
FIXED = QuirksConfig()
THROUGH = QuirksConfig(gradients_through_samples=True)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Words of the references; at most 16 ids, specials included."""
    path = tmp_path_factory.mktemp("words") / "word.model"
    lines = [caption for captions in REFERENCES for caption in captions]
    path.write_bytes(train_sentencepiece(lines, model_type="word", vocab_size=16))
    return Tokenizer(path)


def table(end: str | None = None) -> DocumentFrequency:
    return DocumentFrequency.from_captions([[c.split() for c in image] for image in REFERENCES], end=end)


def self_critical(tokenizer: Tokenizer, quirks: QuirksConfig = FIXED, **settings: Any) -> SelfCritical:
    scst = ScstConfig(**{"scst_num_samples": 3, "scst_bleu_weight": (0.0, 0.0, 0.0, 1.0), **settings})
    frequency = table(END if scst.scst_end_in_reward else None)
    return SelfCritical(Config(scst=scst, quirks=quirks), frequency, tokenizer)


def forced(tokens: Tensor) -> Draw:
    """Draws these captions (B, n, L)."""
    columns = iter(tokens.flatten(0, 1).T)
    return lambda _, rows: next(columns)[rows]


def captions(tokenizer: Tokenizer, *said: list[str], length: int = 6) -> Tensor:
    """Ids (B, n, L) of captions, ended and padded."""
    rows = [[tokenizer.encode(text, max_seq_length=0)[1:] for text in image] for image in said]
    return torch.tensor([[row + [0] * (length - len(row)) for row in image] for image in rows])


def by_hand(said: str, image: int, *, cider: float = 1.0, bleu4: float = 1.0) -> float:
    counts = plain.document_frequency(REFERENCES)
    _, each = plain.bleu([REFERENCES[image]], [said])
    return cider * plain.cider_d(said, REFERENCES[image], counts, len(REFERENCES)) + bleu4 * each[0][3]


SAID = (
    ["a red cat sits", "the cat", "two dogs run"],
    ["dogs run here", "a bus", ""],
    ["one red bus", "a bus", "red"],
)


@pytest.mark.parametrize("quirks", [FIXED, THROUGH])
def test_scores_baselines_and_the_loss_are_those_by_hand(tokenizer: Tokenizer, quirks: QuirksConfig) -> None:
    ours, network = self_critical(tokenizer, quirks), small("up_down_lstm")
    tokens = captions(tokenizer, *SAID)
    found = ours.loss(network, INPUTS, REFERENCES, draw=forced(tokens))
    s = torch.tensor(
        [[by_hand(text, image) for text in row] for image, row in enumerate(SAID)], dtype=torch.float64
    )
    b = torch.stack([(s[:, 1] + s[:, 2]), (s[:, 0] + s[:, 2]), (s[:, 0] + s[:, 1])], dim=1) / 2
    torch.testing.assert_close(found.scores, s)
    torch.testing.assert_close(found.baseline, b)
    torch.testing.assert_close(found.reward, s - b)
    log_p = score_samples(network, INPUTS, tokens)
    m = (tokens != 0).double()
    expected = -(log_p * (s - b).unsqueeze(2) * m).sum() / m.sum()
    assert m.sum() == sum(len(text.split()) + 1 for row in SAID for text in row)  # the end counts
    torch.testing.assert_close(found.loss, expected)
    means = {"train/avg_reward": float(s.mean()), "train/avg_baseline": float(b.mean())}
    assert found.scalars() == pytest.approx(means)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_greedy_baseline_is_the_score_of_the_likeliest_caption(tokenizer: Tokenizer, name: str) -> None:
    ours, network = self_critical(tokenizer, scst_baseline="greedy"), small(name, drop=0.5, eos_bias=0.0)
    found = ours.loss(network, INPUTS, REFERENCES)
    assert network.training
    assert all(module.training for module in network.modules())
    network.eval()
    written = torch.full((3, 1), network.cfg.bos_token_id)
    for _ in range(network.cfg.max_seq_length):
        likeliest = network(INPUTS, nn.functional.pad(written, (0, 1)))[:, -1].argmax(1, keepdim=True)
        written = torch.cat([written, likeliest], dim=1)
    ends = [[*row, network.cfg.eos_token_id] for row in written[:, 1:].tolist()]
    said = [tokenizer.decode(row[: row.index(network.cfg.eos_token_id)]) for row in ends]
    expected = torch.tensor([by_hand(text, image) for image, text in enumerate(said)], dtype=torch.float64)
    torch.testing.assert_close(found.baseline, expected[:, None].expand(3, 3))
    assert found.scalars()["train/greedy_reward"] == pytest.approx(float(expected.mean()))


def gradients(network: Network, found: ScstLoss) -> list[Tensor]:
    found.loss.backward()
    taken = [torch.zeros_like(p) if p.grad is None else p.grad for p in network.parameters()]
    network.zero_grad()
    return taken


@pytest.mark.parametrize("sample", ["random", "beam_search"])
@pytest.mark.parametrize("name", CAPTION_MODELS)
def test_both_ways_give_equal_gradients_without_dropout_and_with_masks_drawn_once(
    tokenizer: Tokenizer, name: str, sample: str
) -> None:
    # The two ways see different words while padding may be sampled: a bias keeps it away.
    network = small(name)
    keep_padding_away(network)
    with draw_once(network):
        there = self_critical(tokenizer, THROUGH, scst_sample=sample)
        torch.manual_seed(1)
        first = there.loss(network, INPUTS, REFERENCES)
        draw = forced(first.tokens) if sample == "random" else None
        here = self_critical(tokenizer, FIXED, scst_sample=sample)
        second = here.loss(network, INPUTS, REFERENCES, draw=draw)
        length = second.tokens.shape[2]
        assert torch.equal(second.tokens, first.tokens[..., :length])
        assert not first.tokens[..., length:].any()
        torch.testing.assert_close(second.loss, first.loss)
        assert first.reward.abs().sum() > 0
        torch.testing.assert_close(gradients(network, second), gradients(network, first))


def keep_padding_away(network: Network) -> None:
    for title, bias in network.named_parameters():
        if title in ("logit.bias", "core.generator.proj.bias", "model.generator.proj.bias"):
            with torch.no_grad():
                bias[network.cfg.pad_token_id] -= 50


@pytest.mark.parametrize("name", FAMILIES)
def test_samples_hold_no_padding_before_their_end(tokenizer: Tokenizer, name: str) -> None:
    network = small(name, eos_bias=0.0)
    keep_padding_away(network)
    with torch.no_grad():
        for title, bias in network.named_parameters():
            if bias.shape == (network.cfg.vocab_size,) and title.endswith("bias"):
                bias[network.cfg.pad_token_id] += 53  # now it is the likeliest of all
    for sample in ("random", "beam_search"):
        ours = self_critical(tokenizer, scst_sample=sample)
        torch.manual_seed(0)
        tokens, _ = ours.sample(network, INPUTS)
        ends = (tokens == network.cfg.eos_token_id).long().cumsum(-1)
        assert bool(((tokens == 0) == ((ends > 0) & (tokens != network.cfg.eos_token_id))).all())


@pytest.mark.parametrize("name", FAMILIES)
def test_samples_are_drawn_as_training_has_the_network_and_modes_stay(
    tokenizer: Tokenizer, name: str
) -> None:
    network = small(name, drop=0.5)
    seen: list[tuple[bool, bool]] = []
    step = network.step

    def watched(tokens: Tensor, state: Any) -> Any:
        seen.append((network.training, torch.is_grad_enabled()))
        return step(tokens, state)

    network.step = watched  # type: ignore[method-assign]
    self_critical(tokenizer).loss(network, INPUTS, REFERENCES)
    assert set(seen) == {(True, False)}
    seen.clear()
    self_critical(tokenizer, THROUGH).loss(network, INPUTS, REFERENCES)
    assert set(seen) == {(True, True)}
    seen.clear()
    self_critical(tokenizer, scst_baseline="greedy").loss(network, INPUTS, REFERENCES)
    assert set(seen) == {(False, False), (True, False)}
    assert network.training


@pytest.mark.parametrize("name", ["up_down_lstm_prune", "relation_transformer_prune"])
def test_drawn_once_a_sample_and_its_scoring_see_the_same_masks_and_drawn_at_each_call_others(
    tokenizer: Tokenizer, name: str
) -> None:
    network = small(name)
    keep_padding_away(network)
    ours, plain_way = self_critical(tokenizer), self_critical(tokenizer, THROUGH)
    with draw_once(network):
        tokens, log_probs = plain_way.sample(network, INPUTS)
        torch.testing.assert_close(
            score_samples(network, INPUTS, tokens)[tokens != 0], log_probs[tokens != 0]
        )
        assert torch.equal(ours.greedy(network, INPUTS), greedy_of_rounded(network, tokenizer))
    tokens, log_probs = plain_way.sample(network, INPUTS)
    again = score_samples(network, INPUTS, tokens)
    assert not torch.allclose(again[tokens != 0], log_probs[tokens != 0])


def greedy_of_rounded(network: Network, tokenizer: Tokenizer) -> Tensor:
    network.eval()
    found = self_critical(tokenizer).greedy(network, INPUTS)
    network.train()
    return found


def test_an_end_that_counts_makes_ended_captions_worth_more(tokenizer: Tokenizer) -> None:
    said = (["a red cat sits", "a red cat sits"],) * 3
    tokens = captions(tokenizer, *said)
    tokens[:, 1, 4:] = torch.tensor([5, 5])  # goes on instead of ending
    cut = tokens.clone()
    cut[:, 1, 4:] = 0  # four words, and no end
    network = small("up_down_lstm", max_seq_length=6)
    for counts in (True, False):
        ours = self_critical(tokenizer, scst_end_in_reward=counts, scst_num_samples=2)
        scores = ours.loss(network, INPUTS, [REFERENCES[0]] * 3, draw=forced(cut)).scores
        assert bool((scores[:, 0] > scores[:, 1]).all()) == counts
        assert counts or torch.equal(scores[:, 0], scores[:, 1])


def test_beams_are_all_beams_of_the_search(tokenizer: Tokenizer) -> None:
    network = small("transformer")
    found = self_critical(tokenizer, scst_sample="beam_search", scst_num_samples=4).loss(
        network, INPUTS, REFERENCES
    )
    assert found.tokens.shape[:2] == (3, 4)
    for image in found.tokens.tolist():
        assert len({tuple(row) for row in image}) == 4


def test_two_processes_have_the_gradients_of_one_with_the_whole_batch(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, ours = small("up_down_lstm"), self_critical(tokenizer)
    tokens = captions(tokenizer, *SAID)
    whole = gradients(network, ours.loss(network, INPUTS, REFERENCES, draw=forced(tokens)))
    shares = (slice(0, 1), slice(1, 3))
    assert len({int((tokens[share] != 0).sum()) for share in shares}) == 2  # unequal numbers of tokens
    monkeypatch.setattr(dist, "world_size", lambda: 2)
    monkeypatch.setattr(dist.distributed, "all_reduce", lambda x: x.fill_(int((tokens != 0).sum())))
    halves = [
        gradients(
            network,
            ours.loss(network, part(INPUTS, share), REFERENCES[share], draw=forced(tokens[share])),
        )
        for share in shares
    ]
    means = [(first + second) / 2 for first, second in zip(*halves, strict=True)]
    torch.testing.assert_close(means, whole)


def test_a_reward_that_weighs_nothing_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="expected one weight above 0"):
        self_critical(tokenizer, scst_cider_weight=0.0, scst_bleu_weight=(0.0, 0.0, 0.0, 0.0))


def test_one_beam_which_is_the_greedy_caption_is_refused() -> None:
    with pytest.raises(UserError, match=r"scst_num_samples 1 with scst_sample beam_search .* expected 2"):
        ScstConfig(scst_num_samples=1, scst_sample="beam_search", scst_baseline="greedy")


def test_training_by_reward_makes_the_network_write_what_earns_more(tokenizer: Tokenizer) -> None:
    network = small("up_down_lstm", drop=0.1)
    ours = self_critical(tokenizer, scst_num_samples=8)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    earned = []
    for _ in range(40):
        optimizer.zero_grad()
        found = ours.loss(network, INPUTS, REFERENCES)
        found.loss.backward()
        optimizer.step()
        earned.append(float(found.scores.mean()))
    assert sum(earned[-5:]) > 2.5 * sum(earned[:5])
