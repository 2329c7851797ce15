"""A classifier with all that a picture needs to get its class, in one folder.

```python
import apt_vit

m = apt_vit.load("runs/tour-001/best")
print(m.classify("cat.jpg"))     # [("cat", 0.93), ("dog", 0.04), ...]
print(m.kept("cat.jpg").counts)  # {2: 138, 5: 97, 8: 68}
```

# B pictures, C classes, N tokens
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from apt_vit.config import ModelConfig
from apt_vit.model import VisionTransformer, build
from apt_vit.preprocess import Preprocess
from apt_vit.tokens.dropping import Dropper
from apt_vit.tokens.rules import Rule
from prunelab.config import from_plain, to_plain
from prunelab.data.pictures import Picture, pixels
from prunelab.errors import UserError
from prunelab.hub import load_model_folder, load_state, model_card, note_facts, save_model_folder
from prunelab.modes import evaluating
from prunelab.util import StrPath

if TYPE_CHECKING:
    from torch import nn

KIND = "apt-vit"
"""Whose model folders these are."""
BATCH = 32
"""Pictures that go through the network at a time."""
USAGE = 'import apt_vit\n\nm = apt_vit.load("this/folder")\nprint(m.classify("picture.jpg"))'


@dataclass(frozen=True, kw_only=True)
class Kept:
    """The patches of a picture that were kept."""

    patches: dict[int, Tensor]
    """Behind each clip layer, (rows, columns) bool: which patches remain."""
    counts: dict[int, int]
    """Behind each clip layer: tokens that remain, the classification token among them."""


@dataclass(kw_only=True)
class Classifier:
    """Says what is on a picture, and which patches it looked at."""

    model: VisionTransformer
    """The network, in evaluation mode."""
    preprocess: Preprocess
    """How a picture becomes what it takes."""
    class_names: tuple[str, ...] = ()
    """Names of the classes (C), in the order of outputs; none: they get numbers."""
    rule: Rule = field(default_factory=Rule)
    """Which tokens are dropped; method ``plain`` drops none."""
    dataset: str = ""
    """What it was trained on."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Plain data that is kept with it: step, figures."""

    def __post_init__(self) -> None:
        count = self.config.num_classes
        if not self.class_names:
            self.class_names = tuple(f"class {number}" for number in range(count))
        if len(self.class_names) != count:
            raise UserError(f"{count} classes have {len(self.class_names)} names, expected one for each")
        if self.preprocess.size != self.config.img_size:
            raise UserError(
                f"pictures become {self.preprocess.size}, expected the network's {self.config.img_size}"
            )

    @property
    def config(self) -> ModelConfig:
        """Sizes of the network."""
        return self.model.cfg

    @cached_property
    def dropper(self) -> Dropper:
        """The network in the form that drops tokens; made when it is first used, at the weights of then."""
        return Dropper(self.model, self.rule)

    # --- answers ---

    def predict(self, pictures: Picture | Sequence[Picture]) -> list[tuple[str, float]]:
        """The likeliest class of each picture, and its probability; in batches.

        Args:
            pictures: files, PIL images, or arrays (H, W, 3) uint8 of red, green, blue; of any size. One
                alone is a list of one.

        Raises:
            UserError: a file is missing or no picture, or an array is of another shape or type.
        """
        one = isinstance(pictures, str | PathLike | Image.Image | np.ndarray)
        several = [pictures] if one else pictures
        best = self.probabilities(several).max(1)
        return [
            (self.class_names[place], share)
            for share, place in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]

    def classify(self, picture: Picture, *, top: int = 5) -> list[tuple[str, float]]:
        """The likeliest classes of one picture and their probabilities, the likeliest first.

        Args:
            picture: see `predict`.
            top: how many classes.

        Raises:
            UserError: see `predict`.
        """
        (row,) = self.probabilities([picture])
        found = row.topk(min(top, len(row)))
        return [
            (self.class_names[place], share)
            for share, place in zip(found.values.tolist(), found.indices.tolist(), strict=True)
        ]

    @torch.inference_mode()
    def probabilities(self, pictures: Sequence[Picture]) -> Tensor:
        """The probability of every class for some pictures, (B, C).

        Raises:
            UserError: see `predict`.
        """
        rows = []
        with evaluating(self.model):
            for start in range(0, len(pictures), BATCH):
                x = self._images(pictures[start : start + BATCH])
                rows.append(self.dropper(x).logits.float().softmax(1))
        return torch.cat(rows) if rows else torch.empty(0, len(self.class_names))

    @torch.inference_mode()
    def kept(self, picture: Picture) -> Kept:
        """Which patches of a picture remain behind each clip layer.

        Raises:
            UserError: see `predict`.
        """
        with evaluating(self.model):
            found = self.dropper(self._images([picture]))
        layers = self.dropper.layers
        masks = [mask[0].cpu() for mask in found.kept]  # each (N,)
        pairs = list(zip(layers, masks, strict=True))
        return Kept(
            patches={layer: mask[1:].reshape(self.model.grid) for layer, mask in pairs},
            counts={layer: int(mask.sum()) for layer, mask in pairs},
        )

    def _images(self, pictures: Sequence[Picture]) -> Tensor:
        """Pictures (B, 3, H, W) on the network's device."""
        device = next(self.model.parameters()).device
        return torch.stack([self.preprocess.picture(pixels(each)) for each in pictures]).to(device)

    def with_rule(self, rule: Rule) -> Classifier:
        """This classifier with another rule; the network is shared."""
        return replace(self, rule=rule)

    # --- files ---

    def facts(self) -> dict[str, Any]:
        """All but the weights, as plain data; `around` reads it."""
        return {
            "model": to_plain(replace(self.config, pretrained_dir="")),
            "rule": to_plain(self.rule),
            "preprocess": to_plain(self.preprocess),
            "classes": list(self.class_names),
            "dataset": self.dataset,
            "notes": to_plain(dict(self.notes)),
        }

    @classmethod
    def around(cls, model: VisionTransformer, facts: Mapping[str, Any], *, where: str) -> Classifier:
        """A classifier from a network and the rest of what `facts` gave.

        Args:
            model: the network, in evaluation mode; pictures get its size.
            facts: plain data.
            where: the file of the facts, for messages.

        Raises:
            UserError: the facts are not whole, or do not belong to the network.
        """
        preprocess = from_plain(Preprocess, facts.get("preprocess"), where=f"{where} preprocess")
        return cls(
            model=model,
            preprocess=replace(preprocess, size=model.cfg.img_size),
            class_names=tuple(facts.get("classes", ())),
            rule=from_plain(Rule, facts.get("rule", {}), where=f"{where} rule"),
            dataset=facts.get("dataset", ""),
            notes=facts.get("notes", {}),
        )

    def to(self, device: str | torch.device) -> Classifier:
        """Move the network, in place."""
        self.model.to(torch.device(device))
        return self

    def save_pretrained(self, folder: StrPath) -> Path:
        """Write the network, what is needed to use it, and a model card into a folder.

        Raises:
            UserError: something else than a model lies there, or it cannot be written.
        """
        facts, state, cfg = self.facts(), self.model.state_dict(), self.config
        rate = self.rule.keep_rate
        how = f"threshold {self.rule.threshold:g}" if rate is None else f"keep rate {rate:g}"
        told = {
            "network": cfg.model_type,
            "picture": " x ".join(map(str, cfg.img_size)),
            "classes": cfg.num_classes,
            "data": self.dataset or "unknown",
            "tokens": f"{self.rule.method}, {how}, behind blocks {', '.join(map(str, cfg.clip_layers))}"
            if self.rule.prunes
            else "all",
        }
        card = model_card(
            f"{cfg.model_type} on {self.dataset or 'unknown pictures'}",
            summary="A vision transformer that learns which tokens to drop, made with PruneLab's apt-vit.",
            facts=told | note_facts(self.notes),
            usage=USAGE,
            config={name: facts[name] for name in ("model", "rule", "preprocess")},
            state=state,
            tags=("image-classification", "token-pruning"),
        )
        return save_model_folder(folder, facts, state, kind=KIND, card=card)

    @classmethod
    def from_pretrained(cls, folder: StrPath, *, device: str | torch.device = "cpu") -> Classifier:
        """Read what `save_pretrained` or a run wrote: a folder, or an id on the Hub.

        Raises:
            UserError: no such folder, another kind of model, or files that do not belong together.
        """
        found = load_model_folder(folder, kind=KIND)
        where = str(found.dir / "config.json")
        model = build(from_plain(ModelConfig, found.config.get("model"), where=f"{where} model"), fresh=False)
        load_state(model, found.state, where=str(found.dir))
        return cls.around(model.eval(), found.config, where=where).to(device)

    @classmethod
    def from_timm(
        cls,
        network: str | nn.Module,
        *,
        clip_layers: Sequence[int] | None = None,
        keep_rate: float | None = None,
        pretrained: bool = True,
        seed: int = 0,
    ) -> Classifier:
        """A vision transformer of timm with fresh agents, which prune nothing until they are trained.

        Args:
            network: such a network, or the name of one, such as ``vit_base_patch16_224``.
            clip_layers: blocks behind which tokens are dropped; None: a quarter, a half and three quarters
                of the depth.
            keep_rate: share of the tokens that each keeps; the tokens that the classification token attends
                to least go, which needs no training. None: the agents decide, and keep all at first.
            pretrained: of a name: with timm's trained weights, which are fetched from the Hub.
            seed: of the agents.

        Raises:
            UserError: timm has no such network, or one that has other parts than ours.
        """
        from apt_vit.files.timm_adopt import adopt_module

        rule = Rule(method="cls-attention", keep_rate=keep_rate) if keep_rate is not None else Rule()
        model, preprocess, names = adopt_module(
            network, clip_layers=clip_layers, pretrained=pretrained, seed=seed
        )
        return cls(model=model, preprocess=preprocess, class_names=names, rule=rule)
