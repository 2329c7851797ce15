"""What ``prunelab pack``, ``unpack`` and ``inspect`` do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunelab.errors import UserError
from prunelab.mask import packed
from prunelab.mask.files import load_state
from prunelab.mask.packed_codec import SparseTensor, drop, negative_zeros, same_bits, to_sparse
from prunelab.util import atomic_write, human_bytes, save_tensors

_NOT_IN_SAFETENSORS = (torch.complex128,)


def pack(inp: Path, out: Path, *, merge_zeros: bool = False, tell: Callable[[str], object] = print) -> None:
    """Pack a file of weights and read the result back to compare it bit for bit.

    Args:
        inp: safetensors, an original ``.pth`` (sparse tensors included) or a model folder.
        out: the packed file to write.
        merge_zeros: write ``-0.0`` as ``0.0``; the only thing that would not come back bit for bit.
        tell: takes the lines that say what was packed.

    Raises:
        UserError: see `prunelab.mask.files.load_state` and `prunelab.mask.packed.pack`.
    """
    _check_paths(inp, out)
    state, metadata = load_state(inp)
    size = packed.pack(state, out, metadata=metadata, merge_zeros=merge_zeros)
    opened = packed.PackedFile(out)
    kept = negative = 0
    for name, tensor in state.items():
        back, given = _sparse(name, opened.read([name])[name]), to_sparse(name, tensor)
        zeros = negative_zeros(given)
        if not same_bits(back, drop(given, zeros) if merge_zeros else given):
            raise AssertionError(f"{out}: tensor {name!r} did not come back as it was written")
        kept += back.indices.numel()
        negative += int(zeros.sum())
    entries = sum(entry.numel for entry in opened.entries.values())
    dense = sum(entry.dense_bytes for entry in opened.entries.values())
    tell(
        f"{out}: {len(state)} tensors, {kept:,} of {entries:,} entries kept, {human_bytes(size)} "
        f"(dense {human_bytes(dense)}, {inp.name} {human_bytes(_size(inp))}), read back and compared"
    )
    if negative and not merge_zeros:
        tell(f"{negative:,} entries are -0.0 and were kept bit for bit; --merge-zeros writes them as 0.0")


def _sparse(name: str, tensor: SparseTensor | Tensor) -> SparseTensor:
    return tensor if isinstance(tensor, SparseTensor) else to_sparse(name, tensor)


def unpack(inp: Path, out: Path, *, limit: int | None = None) -> None:
    """Write a packed file's tensors, dense, to a safetensors file.

    Args:
        inp: the packed file.
        out: the ``.safetensors`` file to write.
        limit: most bytes to fill, for files that expand more than `prunelab.mask.packed` trusts.

    Raises:
        UserError: a broken file, another suffix, or a dtype that safetensors does not have.
    """
    _check_paths(inp, out)
    if out.suffix != ".safetensors":
        raise UserError(f"{out}: has the suffix {out.suffix!r}: expected a name that ends in .safetensors")
    opened = packed.PackedFile(inp, limit=limit)
    for entry in opened.entries.values():
        if entry.dtype in _NOT_IN_SAFETENSORS:
            raise UserError(f"{inp}: tensor {entry.name!r} is {entry.dtype}, which safetensors does not have")
    state = opened.dense()
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in opened.metadata.items()}
    with atomic_write(out) as file:
        save_tensors(state, file.name, metadata=texts or None)
    print(f"{out}: {len(state)} tensors, {human_bytes(_size(out))} (packed {human_bytes(opened.size)})")


def describe(path: Path) -> dict[str, Any]:
    """What is in a file of weights, every byte of it read and checked.

    Args:
        path: packed, safetensors, ``.pth``, or a model folder.

    Returns:
        Plain data: ``file``, ``kind``, ``bytes``, ``dense_bytes``, ``entries``, ``kept``, ``sparsity``,
        ``metadata`` and ``tensors``, a list with ``name``, ``dtype``, ``shape``, ``form``, ``entries``,
        ``kept``, ``sparsity`` and (packed files) ``bytes``.

    Raises:
        UserError: see `prunelab.mask.files.load_state`.
    """
    rows = []
    opened = packed.PackedFile(path) if _is_packed(path) else None
    state, metadata = (opened.read(), opened.metadata) if opened else load_state(path)
    for name, tensor in state.items():
        sparse = _sparse(name, tensor)
        entries, kept = sparse.numel, sparse.indices.numel()
        form = "sparse" if isinstance(tensor, SparseTensor) or tensor.layout != torch.strided else "dense"
        row = {
            "name": name,
            "dtype": str(sparse.values.dtype).removeprefix("torch."),
            "shape": list(sparse.shape),
            "form": form,
            "entries": entries,
            "kept": kept,
            "sparsity": 1 - kept / entries if entries else 0.0,
        }
        rows.append(row | ({"bytes": opened.block_bytes(name)} if opened else {}))
    entries, kept = sum(row["entries"] for row in rows), sum(row["kept"] for row in rows)
    return {
        "file": str(path),
        "kind": "packed" if opened else "weights",
        "bytes": _size(path),
        "dense_bytes": sum(row["entries"] * getattr(torch, row["dtype"]).itemsize for row in rows),
        "entries": entries,
        "kept": kept,
        "sparsity": 1 - kept / entries if entries else 0.0,
        "metadata": metadata,
        "tensors": rows,
    }


def inspect(file: Path, as_json: bool = False) -> None:
    """Print what is in a file of weights; arguments and errors as for `describe`."""
    facts = describe(file)
    if as_json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    rows = [("tensor", "dtype", "shape", "form", "kept", "sparsity", "bytes")]
    for row in facts["tensors"]:
        shape = " x ".join(map(str, row["shape"])) or "scalar"
        size = f"{row['bytes']:,}" if "bytes" in row else "-"
        rows.append(
            (
                row["name"],
                row["dtype"],
                shape,
                row["form"],
                f"{row['kept']:,}",
                f"{row['sparsity']:.4f}",
                size,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        left = [text.ljust(width) for text, width in zip(row[:4], widths, strict=False)]
        right = [text.rjust(width) for text, width in zip(row[4:], widths[4:], strict=True)]
        print("  ".join(left + right).rstrip())
    print(
        f"{facts['kind']} file, {len(facts['tensors'])} tensors, "
        f"{facts['kept']:,} of {facts['entries']:,} entries kept (sparsity {facts['sparsity']:.4f}), "
        f"{human_bytes(facts['bytes'])}, dense {human_bytes(facts['dense_bytes'])}"
    )


def _is_packed(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(packed.MAGIC)) == packed.MAGIC
    except OSError:
        return False


def _size(path: Path) -> int:
    return (path / "model.safetensors" if path.is_dir() else path).stat().st_size


def _check_paths(inp: Path, out: Path) -> None:
    if out.exists() and inp.exists() and out.samefile(inp):
        raise UserError(f"{out}: is the input file: expected another name for the output")
    if out.is_dir():
        raise UserError(f"{out}: is a folder: expected the name of a file to write")
