"""Google's weights: arrays in an ``.npz`` under the names of their JAX program.

# D width, H heads, K side of a kernel
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from apt_vit.configs import NPZ_FILES
from apt_vit.files.original import AGENT
from apt_vit.files.weights import HEAD, Loaded, fill
from apt_vit.model import VisionTransformer
from prunelab.errors import UserError
from prunelab.util import StrPath

Change: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""From an array in the file's layout to one in torch's."""
WHAT = "google's npz"
SHOWN = 3
"""Names that a message lists."""
HYBRID = "R50-ViT-B_16"


def _same(array: np.ndarray) -> np.ndarray:
    return array


def _flat(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1)


def _conv(array: np.ndarray) -> np.ndarray:
    """(K, K, in, out) to (out, in, K, K)."""
    return array.transpose(3, 2, 0, 1)


def _linear(array: np.ndarray) -> np.ndarray:
    """(in, out) to (out, in)."""
    return array.transpose(1, 0)


def _into_heads(array: np.ndarray) -> np.ndarray:
    """(D, H, D/H) to (D, D)."""
    return array.reshape(array.shape[0], -1).transpose(1, 0)


def _out_of_heads(array: np.ndarray) -> np.ndarray:
    """(H, D/H, D) to (D, D)."""
    return array.reshape(-1, array.shape[-1]).transpose(1, 0)


_BLOCK = r"transformer\.encoder\.layer\.(\d+)\."
_STEM = r"transformer\.embeddings\.hybrid_model\."
_ATTENTION = r"Transformer/encoderblock_\1/MultiHeadDotProductAttention_1/"
_PLACES: tuple[tuple[str, str, Change], ...] = (
    (r"transformer\.embeddings\.cls_token", "cls", _same),
    (r"transformer\.embeddings\.position_embeddings", "Transformer/posembed_input/pos_embedding", _same),
    (r"transformer\.embeddings\.patch_embeddings\.weight", "embedding/kernel", _conv),
    (r"transformer\.embeddings\.patch_embeddings\.bias", "embedding/bias", _flat),
    (r"transformer\.encoder\.encoder_norm\.weight", "Transformer/encoder_norm/scale", _flat),
    (r"transformer\.encoder\.encoder_norm\.bias", "Transformer/encoder_norm/bias", _flat),
    (_BLOCK + r"attn\.(query|key|value)\.weight", _ATTENTION + r"\2/kernel", _into_heads),
    (_BLOCK + r"attn\.out\.weight", _ATTENTION + "out/kernel", _out_of_heads),
    (_BLOCK + r"attn\.(query|key|value|out)\.bias", _ATTENTION + r"\2/bias", _flat),
    (_BLOCK + r"ffn\.fc1\.weight", r"Transformer/encoderblock_\1/MlpBlock_3/Dense_0/kernel", _linear),
    (_BLOCK + r"ffn\.fc1\.bias", r"Transformer/encoderblock_\1/MlpBlock_3/Dense_0/bias", _flat),
    (_BLOCK + r"ffn\.fc2\.weight", r"Transformer/encoderblock_\1/MlpBlock_3/Dense_1/kernel", _linear),
    (_BLOCK + r"ffn\.fc2\.bias", r"Transformer/encoderblock_\1/MlpBlock_3/Dense_1/bias", _flat),
    (_BLOCK + r"attention_norm\.weight", r"Transformer/encoderblock_\1/LayerNorm_0/scale", _flat),
    (_BLOCK + r"attention_norm\.bias", r"Transformer/encoderblock_\1/LayerNorm_0/bias", _flat),
    (_BLOCK + r"ffn_norm\.weight", r"Transformer/encoderblock_\1/LayerNorm_2/scale", _flat),
    (_BLOCK + r"ffn_norm\.bias", r"Transformer/encoderblock_\1/LayerNorm_2/bias", _flat),
    (_STEM + r"root\.conv\.weight", "conv_root/kernel", _conv),
    (_STEM + r"root\.gn\.weight", "gn_root/scale", _flat),
    (_STEM + r"root\.gn\.bias", "gn_root/bias", _flat),
    (_STEM + r"body\.(block\d+)\.(unit\d+)\.(conv\d)\.weight", r"\1/\2/\3/kernel", _conv),
    (_STEM + r"body\.(block\d+)\.(unit\d+)\.downsample\.weight", r"\1/\2/conv_proj/kernel", _conv),
    (_STEM + r"body\.(block\d+)\.(unit\d+)\.(gn\w+)\.weight", r"\1/\2/\3/scale", _flat),
    (_STEM + r"body\.(block\d+)\.(unit\d+)\.(gn\w+)\.bias", r"\1/\2/\3/bias", _flat),
    (r"head\.weight", "head/kernel", _linear),
    (r"head\.bias", "head/bias", _flat),
)
"""Name of ours, as a pattern; name in the file; and how layouts differ."""


def read_npz(path: StrPath) -> dict[str, np.ndarray]:
    """All arrays of a file, by name.

    Raises:
        UserError: missing, damaged, cut off, or with other things in it than arrays of numbers.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"{file}: no such file, expected google's weights, such as ViT-B_16.npz")
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{file}: damaged or cut off, expected an npz file of arrays alone") from error


def npz_name(name: str) -> tuple[str, Change]:
    """Where the file keeps a parameter of ours, and how it is brought into torch's layout.

    Args:
        name: of the network's state, no agent's.
    """
    for pattern, place, change in _PLACES:
        if match := re.fullmatch(pattern, name):
            return match.expand(place), change
    raise KeyError(name)


def translate(
    arrays: Mapping[str, np.ndarray], model: VisionTransformer, *, where: str, head: bool
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Bring google's arrays into our names and torch's layouts.

    Args:
        arrays: what `read_npz` gave.
        model: says which are needed.
        where: the file, for messages.
        head: whether the last layer is needed.

    Returns:
        Weights in our names, without agents; and names of the file that have no place.

    Raises:
        UserError: an array is missing, or has another number of axes; the first names are given, and the file
            that is expected.
    """
    names = [name for name in model.state_dict() if not name.startswith(AGENT) and (head or name not in HEAD)]
    places = {name: npz_name(name) for name in names}
    missing = [place for place, _ in places.values() if place not in arrays]
    if missing:
        more = ", ..." if len(missing) > SHOWN else ""
        raise UserError(
            f"{where}: {len(missing)} keys missing: {', '.join(missing[:SHOWN])}{more}, "
            f"expected {_expected(model)}"
        )
    state = {}
    for name, (place, change) in places.items():
        try:
            array = np.ascontiguousarray(change(arrays[place]))
        except (ValueError, IndexError) as error:
            shape = arrays[place].shape
            raise UserError(f"{where}: {place} has the shape {shape}, expected {_expected(model)}") from error
        state[name] = torch.from_numpy(array)
    used = {place for place, _ in places.values()}
    return state, tuple(sorted(set(arrays) - used))


def _expected(model: VisionTransformer) -> str:
    """The published file that a network's weights come in."""
    cfg = model.cfg
    file = NPZ_FILES.get(cfg.model_type) or (NPZ_FILES[HYBRID] if cfg.resnet is not None else None)
    return f"those of {file}" if file else f"google's weights of a ViT with {cfg.num_layers} blocks"


def load_npz(
    model: VisionTransformer, path: StrPath, *, zero_head: bool = True, edge_zeros: bool = False
) -> Loaded:
    """Load google's weights into a network, in place; its agents stay as they are.

    Args:
        model: the network.
        path: the file.
        zero_head: begin with a last layer of zeros; else the file's, whose classes must be as many.
        edge_zeros: position embeddings are resized in the original's way, with its edge of zeros
            (`apt_vit.files.positions.resize`).

    Returns:
        What the original prints and logs meanwhile, and which keys have no place.

    Raises:
        UserError: the file is missing or damaged, lacks a key, or holds another network.
    """
    return fill_npz(model, read_npz(path), where=str(path), zero_head=zero_head, edge_zeros=edge_zeros)


def fill_npz(
    model: VisionTransformer,
    arrays: Mapping[str, np.ndarray],
    *,
    where: str,
    zero_head: bool = True,
    edge_zeros: bool = False,
) -> Loaded:
    """Do as `load_npz` with a file that was read."""
    state, unused = translate(arrays, model, where=where, head=not zero_head)
    head = "zero" if zero_head else "file"
    return fill(model, state, where=where, what=WHAT, head=head, edge_zeros=edge_zeros, unused=unused)
