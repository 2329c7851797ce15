"""What a pruned captioner of full size takes on a disk: ours packed, and as the original writes it.

```sh
python -m smp_caption.sizes
```

The networks have the published sizes, but not the published weights: values are drawn from a normal
distribution, and which weights are kept is drawn uniformly over all masked ones. For positions this is the
worst case, since any pattern that training leaves makes them shorter; low bits of trained values are as good
as random, too. Each file is written, measured and read back, and must be equal bit for bit.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunelab.doors import command_parser, typed_flags
from prunelab.errors import entry
from prunelab.mask import MaskSpec, masks, packed
from prunelab.report import Table
from prunelab.torchfile import load_pth
from prunelab.util import human_count, write_json
from smp_caption.config import ModelConfig
from smp_caption.files.original import write_state
from smp_caption.model import build
from smp_caption.model.checkpoint import dense, own_state

MEGABYTE = 1e6
PRECISIONS = {"float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network at a sparsity, and what the authors say of their file of it."""

    name: str
    """What it is called in tables."""
    caption_model: str
    """The pruned architecture, at the original's default sizes."""
    sparsity: float
    """Share of the masked weights that is zero."""
    published: tuple[float | None, float | None]
    """MB of the authors' sparse file, in single and in half precision; None where they name none."""


CASES = (
    Case(name="Up-Down", caption_model="up_down_lstm_prune", sparsity=0.95, published=(53.3, None)),
    Case(name="Up-Down", caption_model="up_down_lstm_prune", sparsity=0.991, published=(9.7, 8.7)),
    Case(name="ORT", caption_model="relation_transformer_prune", sparsity=0.95, published=(66.2, None)),
    Case(name="ORT", caption_model="relation_transformer_prune", sparsity=0.991, published=(20.8, 14.5)),
)


@dataclass(frozen=True, kw_only=True)
class Size:
    """Bytes of one network in one precision."""

    model: str
    """See `Case.name`."""
    sparsity: float
    """Share of the masked weights that is zero."""
    precision: str
    """Of the values."""
    nonzeros: int
    """Weights that are kept; biases and norms not counted."""
    dense: int
    """Bytes of all tensors without pruning."""
    coo: int
    """Bytes of the original's sparse file: positions as 64-bit numbers, constants included."""
    packed: int
    """Bytes of our packed file."""
    published: float | None
    """MB that the authors name for their file."""


def drawn_state(config: ModelConfig, sparsity: float, *, seed: int = 0) -> tuple[dict[str, Tensor], set[str]]:
    """Weights of a pruned network, as the top of this file says.

    Returns:
        The state dict of the dense architecture, pruned, and the names of the tensors that have masks.
    """
    with torch.device("meta"):
        model = build(config, MaskSpec(kind="fixed"))
        masked = {name.removesuffix("_pruning_mask") for name in masks(model)}
        shapes = {n: v.shape for n, v in model.state_dict().items() if not n.endswith("_pruning_mask")}
    generator = torch.Generator().manual_seed(seed)
    state = {name: torch.randn(shape, generator=generator) * 0.05 for name, shape in shapes.items()}
    for name in masked:
        state[name].masked_fill_(torch.rand(shapes[name], generator=generator) < sparsity, 0.0)
    return state, masked


def measure(case: Case, config: ModelConfig, folder: Path) -> list[Size]:
    """Write a case in both layouts and both precisions.

    Args:
        case: what to measure.
        config: sizes of the network.
        folder: where files may lie for a moment.
    """
    state, masked = drawn_state(config, case.sparsity)
    found = []
    for (name, dtype), published in zip(PRECISIONS.items(), case.published, strict=True):
        cast = {key: value.to(dtype) for key, value in state.items()}
        coo, pack = folder / "sparse.pth", folder / "model.plp"
        write_state(coo, {n: v.to_sparse_coo() if n in masked else v for n, v in cast.items()})
        own = own_state(cast)
        packed.pack(own, pack)
        _check(own, packed.unpack(pack), pack)
        _check({n: v.float() for n, v in cast.items()}, {n: dense(v) for n, v in load_pth(coo).items()}, coo)
        found.append(
            Size(
                model=case.name,
                sparsity=case.sparsity,
                precision=name,
                nonzeros=sum(int(cast[key].count_nonzero()) for key in masked),
                dense=sum(value.nbytes for value in cast.values()),
                coo=coo.stat().st_size,
                packed=pack.stat().st_size,
                published=published,
            )
        )
    return found


def _check(written: dict[str, Tensor], read: dict[str, Tensor], path: Path) -> None:
    different = [n for n, value in written.items() if n not in read or not torch.equal(value, read[n])]
    if different or len(read) != len(written):
        raise AssertionError(f"{path}: {different or sorted(set(read) - set(written))} did not come back")


def table(sizes: Sequence[Size]) -> Table:
    """The figures for people, in MB of a million bytes."""
    columns = (
        "model",
        "sparsity",
        "precision",
        "nonzeros",
        "dense",
        "COO",
        "published",
        "packed",
        "COO / packed",
    )
    rows = [
        (
            *(s.model, s.sparsity, s.precision, human_count(s.nonzeros)),
            *(s.dense / MEGABYTE, s.coo / MEGABYTE, s.published, s.packed / MEGABYTE, s.coo / s.packed),
        )
        for s in sizes
    ]
    formats = dict.fromkeys(("dense", "COO", "published", "packed"), ".1f") | {"COO / packed": ".2f"}
    return Table(title="Files of full-size models, MB", columns=columns, rows=tuple(rows), formats=formats)


def plain(size: Size) -> dict[str, Any]:
    """A row for a file of figures: bytes, and MB beside them."""
    megabytes = {f"{name} MB": getattr(size, name) / MEGABYTE for name in ("dense", "coo", "packed")}
    return {**asdict(size), **megabytes, "ratio": size.coo / size.packed}


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Measure all cases, print a table and (``--json-table FILE``) write its rows."""
    parser = command_parser("smp-caption", "sizes", "measure files of pruned models of full size")
    parser.add_own_argument("--json-table", metavar="FILE", help="file for the table's rows")
    typed = typed_flags(parser, argv)
    sizes: list[Size] = []
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            sizes += measure(case, ModelConfig(caption_model=case.caption_model), Path(folder))
    table(sizes).print()
    if "json_table" in typed:
        write_json(typed["json_table"], [plain(size) for size in sizes])


if __name__ == "__main__":
    main()
