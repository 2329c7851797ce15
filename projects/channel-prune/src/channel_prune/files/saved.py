"""Model folders: a network with all that is needed to use it: its sizes, its pictures' way, its classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from channel_prune.config import DetectConfig, NetConfig
from channel_prune.model import build
from channel_prune.preprocess import Preprocess
from prunelab.config import from_plain, to_plain
from prunelab.errors import UserError
from prunelab.hub import ModelFolder, load_model_folder, load_state, model_card, save_model_folder
from prunelab.surgery import Structure

KIND = "channel-prune"
USAGE = "import channel_prune\n\nm = channel_prune.load('this/folder')\nprint(m.{method}('picture.jpg'))"


@dataclass(kw_only=True)
class Saved:
    """What a model folder holds."""

    model: nn.Module
    """The network: full, with channels of zeros, or slim."""
    net: NetConfig
    """Its sizes; those of a slim network are the full one's."""
    preprocess: Preprocess
    """How a picture becomes what it takes."""
    classes: tuple[str, ...]
    """Names of the classes, in the order of outputs."""
    dataset: str = ""
    """What it was trained on."""
    detect: DetectConfig = field(default_factory=DetectConfig)
    """Thresholds of a detector."""
    structure: Structure | None = None
    """Channels that are left of each layer of a slim network; None: all."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Plain data that is kept with it: step, figures."""

    def save(self, folder: str | Path) -> Path:
        """Write the folder; an earlier model there is replaced.

        Raises:
            UserError: something else lies there, or it cannot be written.
        """
        net = replace(self.net, weights="")
        plain = {
            "net": to_plain(net),
            "preprocess": to_plain(self.preprocess),
            "classes": list(self.classes),
            "dataset": self.dataset,
            "notes": to_plain(dict(self.notes)),
        }
        if net.detects:
            plain["detect"] = to_plain(self.detect)
        state = self.model.state_dict()
        task = "object-detection" if net.detects else "image-classification"
        layout = "full" if self.structure is None else "slim"
        facts = {"network": f"{net.name}, {layout}", "classes": net.nb_classes, "data": self.dataset}
        card = model_card(
            f"{net.name} on {self.dataset or 'unknown pictures'}",
            summary=f"A network for {task.replace('-', ' ')}, made with PruneLab's channel-prune.",
            facts=facts
            | {name: value for name, value in self.notes.items() if not isinstance(value, Mapping)},
            usage=USAGE.format(method="detect" if net.detects else "classify"),
            config={"net": plain["net"], "preprocess": plain["preprocess"]},
            state=state,
            tags=(task, "pruning"),
        )
        return save_model_folder(folder, plain, state, kind=KIND, structure=self.structure, card=card)

    @classmethod
    def read(cls, folder: str | Path, *, device: str | torch.device = "cpu") -> Saved:
        """Read a folder, or an id on the Hub.

        Raises:
            UserError: no such folder, another kind of model, or files that do not belong together.
        """
        found = load_model_folder(folder, kind=KIND)
        plain, where = found.config, found.dir / "config.json"
        net = network_of(found)
        model = build(net, found.structure)
        load_state(model, found.state, where=str(found.dir))
        return cls(
            model=model.to(torch.device(device)).eval(),
            net=net,
            preprocess=from_plain(Preprocess, plain.get("preprocess"), where=f"{where} preprocess"),
            classes=tuple(plain.get("classes", ())),
            dataset=plain.get("dataset", ""),
            detect=from_plain(DetectConfig, plain.get("detect", {}), where=f"{where} detect"),
            structure=found.structure,
            notes=plain.get("notes", {}),
        )


def network_of(folder: ModelFolder) -> NetConfig:
    """The sizes of the network that a model folder holds; of a slim one, those of the full network.

    Raises:
        UserError: it does not state them.
    """
    return from_plain(NetConfig, folder.config.get("net"), where=f"{folder.dir / 'config.json'} net")


def check_same(found: NetConfig, wanted: NetConfig, where: str | Path) -> None:
    """A network is the one that a configuration asks for, as far as its name and its classes say it.

    Raises:
        UserError: it is another one.
    """
    for name in ("name", "nb_classes"):
        has, wants = getattr(found, name), getattr(wanted, name)
        if has != wants:
            raise UserError(f"{where}: a network with {name} {has}, expected {wants} as configured")
