"""The named networks as ConfigDicts, under the original's function names, and the sizes that they state.

A function gives a new ConfigDict each time, which its caller may change before it is lowered. Clip layers,
picture size and classes are no part of it, as in the original.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from prunelab.doors import check_one_of
from prunelab.errors import UserError


def _vit(*, patch: int, hidden_size: int, mlp_dim: int, num_heads: int, num_layers: int) -> ConfigDict:
    """A plain ViT; what is not said is the same in all of them."""
    return ConfigDict(
        {
            "patches": {"size": (patch, patch)},
            "hidden_size": hidden_size,
            "transformer": {
                "mlp_dim": mlp_dim,
                "num_heads": num_heads,
                "num_layers": num_layers,
                "attention_dropout_rate": 0.0,
                "dropout_rate": 0.1,
            },
            "classifier": "token",
            "representation_size": None,
        }
    )


def get_testing() -> ConfigDict:
    """The original's smallest network: one block of width 1."""
    return _vit(patch=16, hidden_size=1, mlp_dim=1, num_heads=1, num_layers=1)


def get_b16_config() -> ConfigDict:
    """ViT-B/16."""
    return _vit(patch=16, hidden_size=768, mlp_dim=3072, num_heads=12, num_layers=12)


def get_r50_b16_config() -> ConfigDict:
    """ViT-B behind a ResNet, whose map of a picture of 224 pixels has 14 x 14 places."""
    config = get_b16_config()
    config.patches = ConfigDict({"grid": (14, 14)})
    config.resnet = ConfigDict({"num_layers": (3, 4, 9), "width_factor": 1.0})
    return config


def get_b32_config() -> ConfigDict:
    """ViT-B/32."""
    return _vit(patch=32, hidden_size=768, mlp_dim=3072, num_heads=12, num_layers=12)


def get_l16_config() -> ConfigDict:
    """ViT-L/16."""
    return _vit(patch=16, hidden_size=1024, mlp_dim=4096, num_heads=16, num_layers=24)


def get_l32_config() -> ConfigDict:
    """ViT-L/32."""
    return _vit(patch=32, hidden_size=1024, mlp_dim=4096, num_heads=16, num_layers=24)


def get_h14_config() -> ConfigDict:
    """ViT-H/14."""
    return _vit(patch=14, hidden_size=1280, mlp_dim=5120, num_heads=16, num_layers=32)


def get_tiny_config() -> ConfigDict:
    """A network of ours for pictures of 32 pixels, which a processor trains from nothing."""
    return _vit(patch=4, hidden_size=64, mlp_dim=128, num_heads=4, num_layers=6)


CONFIGS: dict[str, Callable[[], ConfigDict]] = {
    "ViT-B_16": get_b16_config,
    "ViT-B_32": get_b32_config,
    "ViT-L_16": get_l16_config,
    "ViT-L_32": get_l32_config,
    "ViT-H_14": get_h14_config,
    "R50-ViT-B_16": get_r50_b16_config,
    "testing": get_testing,
    "tiny": get_tiny_config,
}
"""What ``--model_type`` chooses from."""
NPZ_FILES = {
    **{f"ViT-{size}": f"ViT-{size}.npz" for size in ("B_16", "B_32", "L_16", "L_32", "H_14")},
    "R50-ViT-B_16": "R50+ViT-B_16.npz",
}
"""Name of the published weights of a network, where there are any."""
TRANSFORMER = ("mlp_dim", "num_heads", "num_layers", "attention_dropout_rate", "dropout_rate")
"""Fields of a ConfigDict's part ``transformer``."""


def model_values(config: Mapping[str, Any] | ConfigDict) -> dict[str, Any]:
    """The sizes that a ConfigDict states, by the names of `ModelConfig`'s fields, as plain data.

    Args:
        config: a ConfigDict, or plain data of its structure such as JSON gives.

    Raises:
        UserError: a part is missing, or asks for what no network here is.
    """
    plain: Mapping[str, Any] = config.to_dict() if isinstance(config, ConfigDict) else config
    try:
        patches, blocks, stem = plain["patches"], plain["transformer"], plain.get("resnet")
        found = {"hidden_size": plain["hidden_size"], **{name: blocks[name] for name in TRANSFORMER}}
        widths = stem and {"num_layers": list(stem["num_layers"]), "width_factor": stem["width_factor"]}
    except KeyError as error:
        raise UserError(f"configuration of a network: {error} is missing") from error
    if plain.get("classifier", "token") != "token":
        raise UserError(f"classifier is {plain['classifier']!r}, expected 'token'")
    pairs = {"patch_size": patches.get("size"), "patch_grid": patches.get("grid")}
    found |= {name: None if pair is None else list(pair) for name, pair in pairs.items()}
    return found | {"resnet": widths}


def named_values(name: str) -> dict[str, Any]:
    """`model_values` of one of `CONFIGS`, with its name.

    Raises:
        UserError: there is no such network.
    """
    check_one_of("model_type", name, CONFIGS)
    return {"model_type": name, **model_values(CONFIGS[name]())}
