"""``export``: a trained network as an ONNX graph, or as the original's checkpoint.

A graph keeps all tokens, or drops them at a keep rate: the number that stays is then fixed, and which ones is
decided inside the graph, picture by picture. By a threshold each picture keeps a number of its own, which no
graph of one shape can have.

# B pictures, N tokens, D width, C classes
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from apt_vit.classifier import Classifier
from apt_vit.cli import parse_export
from apt_vit.files import original
from apt_vit.files.loading import find_model, open_weights
from apt_vit.layout import newest_model
from apt_vit.model import VisionTransformer
from apt_vit.options import ExportOptions
from apt_vit.tokens.dropping import Dropper
from apt_vit.tokens.folded import Folded, prune_probability
from apt_vit.tokens.rules import Rule
from prunelab.errors import UserError, entry
from prunelab.export import ExportReport, to_onnx

SUFFIXES = {"onnx": ".onnx", "original": "_checkpoint.bin"}
"""What is put behind the model's name where no output is named."""
CLOSE = 1e-4
"""Largest difference of logits between a graph and the network."""


def export(options: ExportOptions) -> Path:
    """Write the network in the format asked for, after a comparison with what is written.

    Returns:
        What was written.

    Raises:
        UserError: no such model, one that cannot have that format, or a place that is the model's own.
    """
    source = find_model(options.model) if options.model else newest_model()
    stem = source.name if source.is_dir() else source.stem
    target = Path(options.output) if options.output else source.with_name(stem + SUFFIXES[options.format])
    if target.resolve() == source.resolve():
        raise UserError(f"{target}: not written over the model itself; name another --output")
    if options.dry_run:
        print(f"{source}: would be written to {target}")
        return target
    classifier, _ = open_weights(source, options.typed)
    if options.format == "original":
        write_original(classifier, target)
    else:
        print(export_onnx(classifier, target, keep_rate=options.keep_rate))
    print(f"written: {target}")
    return target


def write_original(classifier: Classifier, target: Path) -> None:
    """Write the original's checkpoint, with our facts beside it, and read it again.

    Raises:
        UserError: it cannot be written, or does not hold what was written.
    """
    state = classifier.model.state_dict()
    original.write(target, state, classifier.facts())
    found = original.read_state(target)
    if list(found) != list(state) or any(not torch.equal(found[name], state[name].cpu()) for name in state):
        raise UserError(f"{target}: does not hold what was written to it: is the disk whole?")
    print(f"{target}: read again, all {len(state)} tensors are equal")


class Dropping(nn.Module):
    """A network that keeps fixed numbers of tokens, with nothing that an ONNX graph could not have.

    Args:
        model: the network, in evaluation mode.
        rule: with a keep rate, and of a method that asks agents or attention.
    """

    def __init__(self, model: VisionTransformer, rule: Rule) -> None:
        super().__init__()
        self.model, self.rule = model, rule
        agents = model.agents.items() if rule.needs_agents else ()
        self.folded = {layer: Folded.of(agent) for layer, agent in agents}

    def forward(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) to logits (B, C)."""
        x = self.model.embed(images)
        for number, block in enumerate(self.model.blocks):
            before, x = x, block(x)
            if number not in self.model.agents:
                continue
            if self.rule.needs_agents:
                score = prune_probability(self.folded[number](self.model.agent_input(x)))
            else:
                score = -block.cls_attention(before)
            x = self._kept(x, score)
        return self.model.classify(x)

    def _kept(self, x: Tensor, score: Tensor) -> Tensor:
        """Of tokens (B, N, D) those with the least scores (B, N), in their order; the first one always."""
        count = self.rule.count(x.shape[1])
        places = torch.arange(1, x.shape[1], device=x.device)
        mine, others = score[:, 1:, None], score[:, None, 1:]
        earlier = places[:, None] > places
        # Graphs have no stable sort. Of equal scores the earlier token stays, as `Rule.keep` has it.
        rank = ((others < mine) | ((others == mine) & earlier)).sum(2)  # (B, N - 1)
        key = torch.where(rank < count - 1, places, places + x.shape[1])
        order = key.topk(count - 1, dim=1, largest=False).values  # (B, count - 1): places, in their order
        patches = x.gather(1, order[:, :, None].expand(-1, -1, x.shape[2]))
        return torch.cat((x[:, :1], patches), dim=1)


def export_onnx(classifier: Classifier, target: Path, *, keep_rate: float | None = None) -> ExportReport:
    """Write an ONNX file that takes any number of pictures, compared with the network in onnxruntime.

    Args:
        classifier: the network.
        target: the file; it gives ``logits``.
        keep_rate: share of the tokens that each clip layer keeps; None: nothing is pruned.

    Raises:
        UserError: the network cannot be written, or the file would not agree with it.
    """
    facts = classifier.facts()
    rule = replace(classifier.rule, keep_rate=keep_rate)
    facts["rule"] = (
        {"method": "plain"} if keep_rate is None else {"method": rule.method, "keep_rate": keep_rate}
    )
    model: nn.Module = classifier.model
    example = torch.randn(2, 3, *classifier.config.img_size, generator=torch.Generator().manual_seed(0))
    if keep_rate is not None:
        model = _dropping(classifier.model, rule, example)
    return to_onnx(
        model.eval(),
        (example,),
        target,
        input_names=["pictures"],
        output_names=["logits"],
        dynamic={"pictures": {0: "batch"}},
        tolerance=CLOSE,
        metadata={name: facts[name] for name in ("model", "rule", "preprocess", "classes")},
    )


def _dropping(model: VisionTransformer, rule: Rule, example: Tensor) -> Dropping:
    """The network that drops, which is first held against the way that pictures are classified here.

    Raises:
        UserError: a method that decides by chance, or a difference between the two.
    """
    if rule.method not in ("agent", "cls-attention"):
        raise UserError(
            f"keep_rate {rule.keep_rate} of a model of method {rule.method}, expected agent or cls-attention"
        )
    dropping = Dropping(model, rule).eval()
    with torch.no_grad():
        difference = float((dropping(example) - Dropper(model, rule)(example).logits).abs().max())
    if not difference <= CLOSE:
        raise UserError(f"the network to export differs by {difference:.2g} from the model, expected {CLOSE}")
    return dropping


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``export``."""
    export(parse_export(argv))


if __name__ == "__main__":
    main()
