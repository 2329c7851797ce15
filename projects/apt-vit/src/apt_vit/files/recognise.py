"""What a file of weights is, told by its content; and the network that its weights are of.

| file | kind |
|---|---|
| ``.npz`` with google's names | ``npz`` |
| a torch or safetensors file in the original's names, agents or not | ``original`` |
| the same in timm's names | ``timm`` |

Nothing is unpickled but torch's own tensors.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from apt_vit.config import CLIP_LAYERS, ModelConfig
from apt_vit.configs import CONFIGS, model_values
from apt_vit.files import npz, timm_weights
from apt_vit.files.original import count_agents, read_facts, read_state
from apt_vit.files.positions import square_side
from apt_vit.files.weights import POSITIONS
from apt_vit.lowering import CLIP_FRACTIONS, FRACTIONS, clip_layers_of
from prunelab.config import from_plain, to_plain
from prunelab.data import cifar
from prunelab.errors import UserError
from prunelab.util import StrPath, read_json

SAFETENSORS = ".safetensors"
IMAGENET = 1000
"""Classes of ILSVRC-12."""
GRID = 14
"""Places along a side of the published hybrid's map, at 224 pixels."""
PIXELS = 16
"""Pixels of a side to one place of a hybrid's map."""
HEAD_WIDTH = 64
"""D / H of nearly all published transformers."""
WIDE_HEADS = {1280: 16, 1408: 16, 1664: 16}
"""H of those where it is another."""
STEM = "transformer.embeddings.hybrid_model."
KINDS = "google's npz, a checkpoint of the original, or a vision transformer of timm"


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A file of weights that was read."""

    path: str
    """The file, for messages."""
    kind: str
    """npz, original or timm."""
    what: str
    """What it is, for people."""
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)
    """Of kind npz: arrays in google's names and layouts."""
    state: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    """Of the other kinds: tensors by name."""
    facts: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Plain data beside it: ours (`apt_vit.files.original.read_facts`), or timm's ``pretrained_cfg``."""


def read_weights(path: StrPath) -> Weights:
    """Read a file of weights.

    Raises:
        UserError: it is missing, damaged, or of no kind that is known.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"{file}: no such file, expected {KINDS}")
    if _is_npz(file):
        arrays = npz.read_npz(file)
        if not {"cls", "embedding/kernel"} & arrays.keys():
            raise UserError(
                f"{file}: arrays {_first(arrays)}, expected google's names, such as cls, embedding/kernel"
            )
        return Weights(path=str(file), kind="npz", what=npz.WHAT, arrays=arrays)
    state = _safetensors(file) if file.suffix == SAFETENSORS else read_state(file)
    if POSITIONS in state or any(name.startswith("transformer.encoder.") for name in state):
        agents = count_agents(state)
        what = f"a checkpoint of the original with {agents} agents"
        return Weights(path=str(file), kind="original", what=what, state=state, facts=read_facts(file) or {})
    if "patch_embed.proj.weight" in state or "blocks.0.attn.qkv.weight" in state:
        return Weights(path=str(file), kind="timm", what=timm_weights.WHAT, state=state, facts=_beside(file))
    raise UserError(f"{file}: weights {_first(state)}, expected {KINDS}")


def _is_npz(file: Path) -> bool:
    if file.suffix == ".npz":
        return True
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith(".npy") for name in archive.namelist())


def _safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file}: damaged or cut off, expected weights") from error


def _beside(file: Path) -> dict[str, Any]:
    """What timm writes into ``config.json`` beside a file that it saves for the Hub."""
    config = file.with_name("config.json")
    content = read_json(config) if config.is_file() else {}
    found = content.get("pretrained_cfg") if isinstance(content, dict) else None
    return found if isinstance(found, dict) else {}


def _first(names: Mapping[str, Any]) -> str:
    return ", ".join(list(names)[:3]) + (", ..." if len(names) > 3 else "") if names else "of no name"


# --- sizes ---


def config_of(weights: Weights, typed: Mapping[str, Any] | None = None) -> ModelConfig:
    """The network that weights are of.

    Args:
        weights: what `read_weights` gave.
        typed: fields of `ModelConfig` that win over what is told by the file, ``clip_fractions``, and
            ``preset``: faithful has agents where and as the original does, which is the default for its
            checkpoints; fixed has them our way.

    Raises:
        UserError: a size is not told by the file and was not typed, or sizes that make no network.
    """
    typed = dict(typed or {})
    if weights.kind == "original" and weights.facts:
        found = dict(weights.facts.get("model") or {})
    else:
        found = _READERS[weights.kind](weights)
        faithful = typed.get("preset", "faithful" if _with_agents(weights) else "fixed") == "faithful"
        found |= {"normalise_agent_input": not faithful, "root_pool_same": not faithful}
        found["clip_layers"] = list(_clip_layers(weights, typed, int(found["num_layers"]), faithful=faithful))
        if "num_heads" not in found:
            found["num_heads"] = typed.get("num_heads") or _heads(found, weights.path)
        found.setdefault("num_classes", 10)
        found["img_size"] = typed.get("img_size") or _img_size(found, weights.path)
        found["model_type"] = _name(found)
    fields = {name: value for name, value in typed.items() if name in ModelConfig.__dataclass_fields__}
    plain = {name: to_plain(value) for name, value in (found | fields).items() if name not in _HELPERS}
    return from_plain(ModelConfig, plain | {"pretrained_dir": ""}, where=weights.path)


_HELPERS = ("rows", "kernel")
"""Beside fields: rows of the position embeddings, and a hybrid's patch kernel."""


def _with_agents(weights: Weights) -> bool:
    return weights.kind == "original" and count_agents(weights.state) > 0


def _clip_layers(
    weights: Weights, typed: Mapping[str, Any], depth: int, *, faithful: bool
) -> tuple[int, ...]:
    """Blocks with agents: what was typed, else the original's, which must be as many as the file's agents."""
    if typed.get("clip_layers") is not None:
        layers = tuple(typed["clip_layers"])
    elif typed.get(CLIP_FRACTIONS):
        layers = clip_layers_of(typed[CLIP_FRACTIONS], depth)
    elif faithful:
        layers = CLIP_LAYERS
    else:
        layers = clip_layers_of(FRACTIONS, depth)
    agents = count_agents(weights.state)
    if agents and agents != len(layers):
        raise UserError(
            f"{weights.path}: {agents} agents for clip_layers {list(layers)}, expected as many: the file "
            f"does not say which blocks they are of; name {agents} with --clip-layers"
        )
    return layers


def _heads(found: Mapping[str, Any], where: str) -> int:
    """Heads, which no shape of a state dict tells: a published network's of these sizes, else of width 64."""
    width = int(found["hidden_size"])
    for make in CONFIGS.values():
        values = model_values(make())
        if all(values[name] == found[name] for name in ("hidden_size", "mlp_dim", "num_layers")):
            return values["num_heads"]
    heads = WIDE_HEADS.get(width, width // HEAD_WIDTH)
    if not heads or width % heads:
        raise UserError(f"{where}: its {width} columns do not tell the heads, expected --num-heads")
    return heads


def _img_size(found: dict[str, Any], where: str) -> tuple[int, int]:
    """The picture that position embeddings are of, where that is a square."""
    side = square_side(int(found["rows"]))
    if side is None:
        raise UserError(
            f"{where}: {found['rows']} position embeddings, expected one more than a square number, or "
            "the pictures' --img-size"
        )
    if found.get("patch_grid") is None:
        height, width = found["patch_size"]
        return side * height, side * width
    return PIXELS * side * found["kernel"][0], PIXELS * side * found["kernel"][1]


def _name(found: Mapping[str, Any]) -> str:
    """The published network of these sizes, or a name that says them."""
    compared = ("hidden_size", "mlp_dim", "num_heads", "num_layers", "patch_size", "resnet")
    plain = {name: to_plain(found.get(name)) for name in compared}
    for name, make in CONFIGS.items():
        values = model_values(make())
        if {key: to_plain(values[key]) for key in compared} == plain:
            return name
    patch = "hybrid" if found.get("resnet") else "x".join(map(str, dict.fromkeys(found["patch_size"])))
    return f"ViT-{found['num_layers']}x{found['hidden_size']}_{patch}"


def _stem_values(shapes: Mapping[str, tuple[int, ...]], units: str, width: int) -> dict[str, Any]:
    """A hybrid's stem: units of each block, and its width.

    Args:
        shapes: by name.
        units: pattern of names, whose groups are the block and the unit.
        width: outputs of the first convolution.
    """
    found = {match.groups() for name in shapes if (match := re.fullmatch(units, name))}
    blocks = sorted({int(block) for block, _ in found})
    counts = [sum(int(block) == number for block, _ in found) for number in blocks]
    return {"num_layers": counts, "width_factor": width / 64}


def _grid_values(rows: int, kernel: tuple[int, int]) -> list[int]:
    """A grid that gives a hybrid's kernel: the published one where it does."""
    side = square_side(rows) or GRID
    places = (side * kernel[0], side * kernel[1])
    published = all(place // GRID == size for place, size in zip(places, kernel, strict=True))
    return [GRID, GRID] if published else [side, side]


def _of_npz(weights: Weights) -> dict[str, Any]:
    shapes = {name: array.shape for name, array in weights.arrays.items()}
    block = "Transformer/encoderblock_0/"
    kernel = _shape(shapes, "embedding/kernel", weights.path)
    heads = _shape(shapes, block + "MultiHeadDotProductAttention_1/query/kernel", weights.path)
    found: dict[str, Any] = {
        "hidden_size": kernel[-1],
        "mlp_dim": _shape(shapes, block + "MlpBlock_3/Dense_0/kernel", weights.path)[1],
        "num_heads": heads[1],
        "num_layers": len({name.split("/")[1] for name in shapes if "/encoderblock_" in name}),
        "rows": _shape(shapes, "Transformer/posembed_input/pos_embedding", weights.path)[1],
    }
    if "head/bias" in shapes:
        found["num_classes"] = shapes["head/bias"][0]
    return found | _patches(
        found["rows"],
        kernel[:2],
        shapes.get("conv_root/kernel", (0,))[-1],
        shapes,
        r"block(\d+)/unit(\d+)/conv1/kernel",
    )


def _of_original(weights: Weights) -> dict[str, Any]:
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.state.items()}
    layer = "transformer.encoder.layer."
    kernel = _shape(shapes, "transformer.embeddings.patch_embeddings.weight", weights.path)
    found: dict[str, Any] = {
        "hidden_size": kernel[0],
        "mlp_dim": _shape(shapes, layer + "0.ffn.fc1.bias", weights.path)[0],
        "num_layers": len({name.split(".")[3] for name in shapes if name.startswith(layer)}),
        "num_classes": _shape(shapes, "head.bias", weights.path)[0],
        "rows": _shape(shapes, POSITIONS, weights.path)[1],
    }
    units = re.escape(STEM) + r"body\.block(\d+)\.unit(\d+)\.conv1\.weight"
    width = shapes.get(STEM + "root.conv.weight", (0,))[0]
    return found | _patches(found["rows"], kernel[2:], width, shapes, units)


def _of_timm(weights: Weights) -> dict[str, Any]:
    sizes = timm_weights.sizes_of(weights.state, where=weights.path)
    return sizes | {"rows": weights.state["pos_embed"].shape[1]}


def _patches(
    rows: int, kernel: tuple[int, ...], width: int, shapes: Mapping[str, tuple[int, ...]], units: str
) -> dict[str, Any]:
    """Patches of a plain network, or grid and stem of a hybrid, which has a width."""
    if not width:
        return {"patch_size": tuple(kernel)}
    two = (kernel[0], kernel[1])
    return {
        "patch_size": None,
        "patch_grid": _grid_values(rows, two),
        "resnet": _stem_values(shapes, units, width),
        "kernel": two,
    }


def _shape(shapes: Mapping[str, tuple[int, ...]], name: str, where: str) -> tuple[int, ...]:
    if name not in shapes:
        raise UserError(f"{where}: {name} is missing, expected {KINDS}, whole")
    return shapes[name]


_READERS: dict[str, Callable[[Weights], dict[str, Any]]] = {
    "npz": _of_npz,
    "original": _of_original,
    "timm": _of_timm,
}


# --- classes ---


def class_names_of(weights: Weights, cfg: ModelConfig) -> tuple[str, ...]:
    """Names of the classes where a file's kind and number of classes tell them; else none."""
    count = cfg.num_classes
    if weights.kind == "original":
        known = {len(names): names for names in (cifar.CLASSES, cifar.CLASSES_100)}
        return known.get(count, ())  # the original knows no other data
    if count == IMAGENET:
        from torchvision.models import ResNet18_Weights  # slow to import

        return tuple(ResNet18_Weights.DEFAULT.meta["categories"])
    return ()
