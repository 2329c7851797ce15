"""A captioner as one thing: model, tokenizer and (where it reads pictures) feature extractor, in one folder.

```python
import smp_caption

captioner = smp_caption.load("runs/tour-001/pruned/best")
print(captioner.caption("cat.jpg"))
```
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from prunelab.config import from_plain, to_plain
from prunelab.data.pictures import read_picture
from prunelab.decode import DecodeOptions, decode
from prunelab.errors import UserError
from prunelab.hub import load_model_folder, model_card, note_facts, save_model_folder
from prunelab.mask import MaskSpec, apply_masks
from prunelab.modes import evaluating
from smp_caption.config import RELATION_TRANSFORMERS, UP_DOWN, DecodeConfig, ModelConfig
from smp_caption.evaluate import decode_options
from smp_caption.features.extractor import Extractor, has_extractor
from smp_caption.model import Inputs, Network, build
from smp_caption.model.checkpoint import own_state
from smp_caption.tokenizer import MODEL_TYPES, RadixTokenizer, Tokenizer

KIND = "smp-caption"
USAGE = 'import smp_caption\n\nm = smp_caption.load("this/folder")\nprint(m.caption("cat.jpg"))'
Picture = str | Path | Image.Image


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Pictures as features of their regions."""

    features: Sequence[np.ndarray]
    """(S, F), one array a picture."""
    means: Sequence[np.ndarray] | None = None
    """Mean features (F,), where they are not the regions' mean; read by Up-Down."""
    boxes: Sequence[np.ndarray] | None = None
    """(S, 4) relative x1, y1, x2, y2 of the regions; needed by a relation transformer."""

    def check(self, config: ModelConfig) -> None:
        """Refuse what a model cannot read.

        Raises:
            UserError: features of another size, or boxes that are missing or do not fit.
        """
        size = config.att_feat_size
        wrong = [f.shape for f in self.features if f.ndim != 2 or f.shape[1] != size]
        if wrong:
            raise UserError(f"features of shape {wrong[0]}, expected (regions, {size})")
        if config.caption_model not in RELATION_TRANSFORMERS:
            return
        if self.boxes is None:
            raise UserError(f"{config.caption_model} reads boxes: expected `boxes`, (regions, 4) a picture")
        for boxes, features in zip(self.boxes, self.features, strict=True):
            if boxes.shape != (len(features), 4):
                raise UserError(f"boxes of shape {boxes.shape}, expected ({len(features)}, 4): one a region")

    def batch(self, config: ModelConfig) -> Inputs:
        """What a model reads of them, padded to the picture with the most regions."""
        fc_feats, boxes = None, None
        if config.caption_model in UP_DOWN:
            means = [f.mean(axis=0) for f in self.features] if self.means is None else self.means
            fc_feats = torch.from_numpy(np.stack(means).astype(np.float32))
        if config.caption_model in RELATION_TRANSFORMERS:
            assert self.boxes is not None
            boxes = _padded(self.boxes)
        present = _padded([np.ones(len(f)) for f in self.features])
        return Inputs(_padded(self.features), present, fc_feats, boxes)

    def some(self, places: Sequence[int]) -> Pictures:
        """Some of them."""
        chosen = {f.name: getattr(self, f.name) for f in fields(self)}
        return Pictures(**{name: each and [each[i] for i in places] for name, each in chosen.items()})


def _padded(rows: Sequence[np.ndarray]) -> Tensor:
    each = [torch.from_numpy(np.asarray(x, dtype=np.float32)) for x in rows]
    return nn.utils.rnn.pad_sequence(each, batch_first=True)


class PictureReader(ABC):
    """What turns pictures into captions, by whatever means it decodes."""

    config: ModelConfig
    tokenizer: Tokenizer
    decode: DecodeConfig
    extractor: Extractor | None

    @abstractmethod
    def search(self, pictures: Pictures, options: DecodeOptions) -> list[list[int]]:
        """The ids of the best caption of each picture."""

    @overload
    def caption(self, pictures: Picture, *, beam_size: int | None = None) -> str: ...
    @overload
    def caption(self, pictures: Sequence[Picture], *, beam_size: int | None = None) -> list[str]: ...
    def caption(
        self, pictures: Picture | Sequence[Picture], *, beam_size: int | None = None
    ) -> str | list[str]:
        """Say what is on a picture (a file or a PIL image), or on each of several.

        Raises:
            UserError: a file is missing or is no picture, or the model reads features and has no extractor.
        """
        single = isinstance(pictures, str | Path | Image.Image)
        each = [pictures] if single else list(pictures)
        if self.extractor is None:
            raise UserError("this model reads features and holds no extractor: caption features instead")
        images = [p if isinstance(p, Image.Image) else read_picture(p) for p in each]
        relations = self.config.caption_model in RELATION_TRANSFORMERS
        found: list[str] = []
        for start in range(0, len(images), 32):
            some = images[start : start + 32]
            boxes = self.extractor.boxes(some) if relations else None
            found += self.caption_features(self.extractor(some), boxes=boxes, beam_size=beam_size)
        return found[0] if single else found

    def caption_features(
        self,
        features: Sequence[np.ndarray],
        means: Sequence[np.ndarray] | None = None,
        boxes: Sequence[np.ndarray] | None = None,
        *,
        beam_size: int | None = None,
    ) -> list[str]:
        """Caption pictures given as features of regions.

        Args:
            features: see `Pictures`.
            means: see `Pictures`.
            boxes: see `Pictures`.
            beam_size: beams; None: as the model was trained to be tested.

        Raises:
            UserError: features of another size, or boxes that are missing or do not fit.
        """
        pictures = Pictures(features=features, means=means, boxes=boxes)
        pictures.check(self.config)
        options = decode_options(self.config, self.decode, beam_size or self.decode.beam_size_test)
        return [self.tokenizer.decode(ids) for ids in self.search(pictures, options)]


@dataclass(kw_only=True)
class Captioner(PictureReader):
    """Everything that turns a picture into a caption."""

    model: Network
    """The network, dense or masked."""
    config: ModelConfig
    """Its sizes."""
    tokenizer: Tokenizer
    """Turns token ids into words."""
    mask: MaskSpec | None = None
    """Kind of masks of a masked network."""
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    """How to search; ``beam_size_test`` beams."""
    extractor: Extractor | None = None
    """Computes features of pictures; None for a model of features that were computed elsewhere."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What was noted when it was saved: training step, scores."""

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.model.parameters()).device

    @torch.inference_mode()
    def search(self, pictures: Pictures, options: DecodeOptions) -> list[list[int]]:
        """See `PictureReader.search`."""
        with evaluating(self.model), self.model.prepared():
            inputs = Inputs.of(pictures.batch(self.config)._asdict(), self.device)
            found = decode(self.model.step, self.model.begin(inputs), options)
        return found.tokens[:, 0].tolist()

    def save_pretrained(self, folder: str | Path, *, extra: Mapping[str, Any] | None = None) -> Path:
        """Write configuration, weights, model card, tokenizer and extractor into a folder.

        Args:
            folder: where to; an earlier model there is replaced.
            extra: plain data to keep with the model (training step, scores); shown on the card.
        """
        plain = {
            "model": to_plain(self.config),
            "decode": to_plain(self.decode),
            "tokenizer": tokenizer_facts(self.tokenizer),
            "notes": dict(extra or {}),
        }
        files: dict[str, bytes | str | Path] = {Path(n).name: v for n, v in self.tokenizer.files().items()}
        if self.extractor is not None:
            files |= self.extractor.files()
        state = own_state(self.model.state_dict())
        card = model_card(
            f"{self.config.caption_model} captioner",
            summary="A picture captioning model made with PruneLab's smp-caption.",
            facts=note_facts(extra or {}),
            usage=USAGE,
            config=plain["model"],
            state=state,
            tags=("image-to-text", "image-captioning", "pruning"),
        )
        structure = {"mask": to_plain(self.mask)} if self.mask is not None else None
        return save_model_folder(
            folder, plain, state, kind=KIND, structure=structure, card=card, extra_files=files
        )

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, device: str | torch.device = "cpu") -> Captioner:
        """Read what `save_pretrained` wrote: a folder, or an id on the Hub.

        Raises:
            UserError: no such folder, another kind of model, or files that do not belong together.
        """
        found = load_model_folder(folder, kind=KIND)
        where = found.dir / "config.json"
        config = from_plain(ModelConfig, found.config.get("model"), where=f"{where} model")
        mask = (found.structure or {}).get("mask")
        spec = from_plain(MaskSpec, mask, where=f"{where} mask") if mask else None
        model = build(config, spec)
        model.load_original(found.state, str(found.dir))
        target = torch.device(device)
        tokenizer = open_tokenizer(found.dir, **found.config.get("tokenizer", {}))
        check_tokenizer(tokenizer, config, str(where))
        return cls(
            model=model.to(target).eval(),
            config=config,
            tokenizer=tokenizer,
            mask=spec,
            decode=from_plain(DecodeConfig, found.config.get("decode", {}), where=f"{where} decode"),
            extractor=Extractor.load(found.dir, target) if has_extractor(found.dir) else None,
            notes=found.config.get("notes", {}),
        )

    def pruned(self) -> Captioner:
        """This captioner with its masks applied for good, in the dense architecture."""
        if self.mask is None:
            return self
        config = replace(self.config, caption_model=self.config.caption_model.removesuffix("_prune"))
        model = build(config, None)
        model.load_original(apply_masks(self.model))
        return replace(self, model=model.to(self.device).eval(), config=config, mask=None)


def check_tokenizer(tokenizer: Tokenizer, config: ModelConfig, where: str) -> None:
    """Refuse a tokenizer whose ids the model does not know.

    Raises:
        UserError: it has more ids than the model, or marks the ends of captions by others.
    """
    if len(tokenizer) > config.vocab_size:
        raise UserError(
            f"{where}: its tokenizer has {len(tokenizer)} ids, the model vocab_size {config.vocab_size}: "
            "expected no more than that"
        )
    theirs, ours = (tokenizer.bos, tokenizer.eos), (config.bos_token_id, config.eos_token_id)
    if theirs != ours:
        raise UserError(
            f"{where}: bos_token_id and eos_token_id are {ours}, expected {theirs}, its tokenizer's"
        )


def tokenizer_facts(tokenizer: Tokenizer) -> dict[str, Any]:
    """What `open_tokenizer` must know besides the file."""
    base = {"base": tokenizer.base} if isinstance(tokenizer, RadixTokenizer) else {}
    return {"kind": tokenizer.kind, **base}


def open_tokenizer(folder: Path, *, kind: str = "word", base: int = 768) -> Tokenizer:
    """The tokenizer whose sentencepiece model lies in ``folder``.

    Raises:
        UserError: an unknown kind, or a missing or broken file.
    """
    if kind not in MODEL_TYPES:
        raise UserError(f"{folder}: tokenizer is {kind!r}, expected one of {', '.join(MODEL_TYPES)}")
    file = folder / f"{MODEL_TYPES[kind]}.model"
    return RadixTokenizer(file, base=base) if kind == "radix" else Tokenizer(file, kind=kind)
