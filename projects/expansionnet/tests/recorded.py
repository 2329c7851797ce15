"""What the tests of recorded numbers share: models and paths that a folder's facts name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from expansionnet.config import ModelConfig, SwinConfig
from expansionnet.model import ExpansionNet, build
from testing.parity import Folder

_RATES = ("enc_drop", "dec_drop", "enc_input_drop", "dec_input_drop", "drop_other")


def model_facts(folder: Folder) -> dict[str, Any]:
    """Sizes of the folder's model: its ``model``, those of the file ``model_config``, or the folder's own."""
    facts = folder.facts
    if "model" in facts:
        return facts["model"]
    if "model_config" in facts:
        return json.loads(beside(folder, facts["model_config"]).read_text(encoding="utf-8"))
    return facts


def model_config(facts: dict[str, Any], *, dropout: float = 0.0) -> ModelConfig:
    """Configuration of a recorded model.

    Args:
        facts: ``d_model``, ``N_enc`` and so on, and ``swin`` where the backbone is part of the model; what
            is absent has the published model's value.
        dropout: the rate of all dropouts of the body.
    """
    known = ("N_enc", "N_dec", "ff", "num_heads", "num_exp_dec", "img_feature_dim", "max_seq_len")
    known += ("vocab_size", "layer_norm_eps", "expansion_eps")
    sizes = {name: facts[name] for name in known if name in facts}
    if "num_exp_enc_list" in facts:
        sizes["num_exp_enc_list"] = tuple(facts["num_exp_enc_list"])
    if "swin" in facts:
        sizes["swin"] = swin_config(facts["swin"])
        sizes.setdefault("img_feature_dim", sizes["swin"].width)
    sizes.update(dict.fromkeys(_RATES, dropout))
    return ModelConfig(is_end_to_end="swin" in facts, model_dim=facts["d_model"], **sizes)


def swin_config(facts: dict[str, Any]) -> SwinConfig:
    """Configuration of a recorded backbone, without drop path unless the facts have it."""
    given = {key: tuple(v) if isinstance(v, list) else v for key, v in facts.items() if key != "final_dim"}
    return SwinConfig(**{"drop_path_rate": 0.0, **given})


def beside(folder: Folder, name: str) -> Path:
    """The file that a folder names, relative to itself."""
    return (folder.path / name).resolve()


def checkpoint_of(folder: Folder, weights: str = "") -> dict[str, Tensor]:
    """State of the folder's model, in the original's names.

    Args:
        folder: of recorded numbers.
        weights: the file; empty: the one that the facts name as ``checkpoint``, ``initial`` or in ``files``,
            else ``checkpoint.pth``.
    """
    facts = folder.facts
    named = facts.get("checkpoint") or facts.get("initial") or facts.get("files", {}).get("checkpoint")
    path = beside(folder, weights or named or "checkpoint.pth")
    return torch.load(path, weights_only=True)["model_state_dict"]


def load_model(folder: Folder, weights: str = "") -> ExpansionNet:
    """The folder's model with its weights, in eval mode; ``weights`` as in `checkpoint_of`."""
    model = build(model_config(model_facts(folder)), fresh=False)
    model.load_original(checkpoint_of(folder, weights), where=str(folder.path))
    return model.eval()


def visual(folder: Folder) -> Tensor:
    """What the folder's model looks at: features (B, S, F), or images (B, 3, H, W) end to end."""
    if "enc_input" not in folder.facts:
        return folder.arrays("io.npz")["images"]
    arrays = folder.arrays(folder.facts["enc_input"])
    return arrays.get(Path(folder.facts["enc_input"]).stem, next(iter(arrays.values())))
