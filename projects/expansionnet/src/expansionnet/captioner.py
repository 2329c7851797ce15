"""A captioner as one thing: network, words, and where it has one the backbone, in one folder.

```python
import expansionnet

captioner = expansionnet.load("runs/tour-001/rf/best")
print(captioner.caption("cat.jpg"))
```
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from expansionnet import decoding
from expansionnet.config import DecodeConfig, ModelConfig
from expansionnet.features.extractor import FeatureExtractor
from expansionnet.features.preprocess import Preprocess
from expansionnet.files.backbone import has_backbone
from expansionnet.files.loading import KIND, PUBLISHED_WORDS, find_weights, open_weights, with_vocabulary
from expansionnet.files.original import write_model
from expansionnet.files.recognise import Weights, check_said, config_of
from expansionnet.layout import VOCABULARY_FILE, found
from expansionnet.model import ExpansionNet, build
from expansionnet.words.text import to_text
from expansionnet.words.vocabulary import Vocabulary
from prunelab.config import from_plain, to_plain
from prunelab.data.pictures import Picture
from prunelab.errors import UserError
from prunelab.hub import (
    is_model_folder,
    load_model_folder,
    load_state,
    model_card,
    note_facts,
    save_model_folder,
)
from prunelab.modes import evaluating

if TYPE_CHECKING:
    from expansionnet.model.packed import Prepared

# B pictures, S visual tokens, F their width

USAGE = 'import expansionnet\n\nm = expansionnet.load("this/folder")\nprint(m.caption("cat.jpg"))'
BATCH = 8
"""Pictures that go through the backbone at a time."""


@dataclass(kw_only=True)
class Captioner:
    """Everything that turns a picture into a caption."""

    model: ExpansionNet
    """The network."""
    vocabulary: Vocabulary
    """Its words."""
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    """How to search, with the first of ``eval_beam_sizes`` where a call names no other."""
    extractor: FeatureExtractor | None = None
    """Computes features of pictures, for a network that reads features; None: they come from elsewhere."""
    black_pictures: bool = False
    """Whether pictures that are not RGB are taken for black ones, as the original does."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What was noted when it was saved: training step, scores."""
    _prepared: Prepared | None = field(default=None, init=False, repr=False)

    @property
    def config(self) -> ModelConfig:
        """The network's sizes."""
        return self.model.cfg

    @property
    def reads(self) -> str:
        """What the network takes, in a word."""
        return "pictures" if self.config.is_end_to_end else "features"

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.model.parameters()).device

    @overload
    def caption(self, pictures: Picture, *, beam_size: int | None = None) -> str: ...
    @overload
    def caption(self, pictures: Sequence[Picture], *, beam_size: int | None = None) -> list[str]: ...
    def caption(
        self, pictures: Picture | Sequence[Picture], *, beam_size: int | None = None
    ) -> str | list[str]:
        """Say what is on a picture (a file, a PIL image or an array), or on each of several.

        Args:
            pictures: one, or a list of them.
            beam_size: beams; None: as the model was trained to be tested.

        Raises:
            UserError: a file is missing or is no picture, or the network reads features and has no backbone.
        """
        several = isinstance(pictures, Sequence) and not isinstance(pictures, str)
        each = list(cast("Sequence[Picture]", pictures)) if several else [cast("Picture", pictures)]
        found: list[str] = []
        for start in range(0, len(each), BATCH):
            found += self._say(self.inputs(each[start : start + BATCH]).to(self.device), beam_size)
        return found if several else found[0]

    def inputs(self, pictures: Sequence[Picture]) -> Tensor:
        """What the network reads of pictures: images (B, 3, H, W) end to end, else features (B, S, F).

        Raises:
            UserError: see `caption`.
        """
        if not self.config.is_end_to_end and self.extractor is None:
            raise UserError(
                "this model reads features and has no backbone: name its weights (backbone=, --backbone), "
                "or caption features"
            )
        swin = self.config.swin if self.extractor is None else self.extractor.config
        images = Preprocess(size=swin.img_size, black=self.black_pictures).batch(pictures)
        return images.to(self.device) if self.extractor is None else self.extractor.tokens(images)

    def caption_features(
        self, features: Tensor | Sequence[Tensor | np.ndarray], *, beam_size: int | None = None
    ) -> list[str]:
        """Caption pictures given as features.

        Args:
            features: (S_i, F) of each picture, S_i may differ.
            beam_size: beams; None: as the model was trained to be tested.

        Raises:
            UserError: features of another width, or a network that reads pictures.
        """
        if self.config.is_end_to_end:
            raise UserError("this model reads pictures, expected a model that reads features")
        width = self.config.img_feature_dim
        each = [torch.as_tensor(one).float() for one in features]
        wrong = [tuple(one.shape) for one in each if one.ndim != 2 or one.shape[1] != width]
        if wrong:
            raise UserError(f"features of shape {wrong[0]}, expected (visual tokens, {width})")
        padded = pad_sequence(each, batch_first=True)  # (B, S, F)
        pads = torch.tensor([padded.shape[1] - len(one) for one in each])
        return self._say(padded.to(self.device), beam_size, pads.to(self.device) if pads.any() else None)

    def _say(self, x: Tensor, beam_size: int | None, pads: Tensor | None = None) -> list[str]:
        options = decoding.options(
            self.decode,
            self.vocabulary,
            beam_size or self.decode.eval_beam_sizes[0],
            positions=self.config.max_seq_len,
        )
        with evaluating(self.model), torch.inference_mode():
            found = decoding.caption(self._prepared or self.model, x, options, pads)
        return [to_text(self.vocabulary.decode(ids)) for ids in found]

    def prepare(self) -> Captioner:
        """Compile encoder and decoder: a minute with the next captions, and faster from then on.

        It helps on processors alone; see `expansionnet.model.packed`. Captions stay the same.

        Returns:
            This captioner.
        """
        from expansionnet.model.packed import Prepared

        self._prepared = Prepared(self.model)
        return self

    def with_backbone(self, backbone: str | Path | None) -> Captioner:
        """This captioner with the backbone that a path means (`FeatureExtractor.open`); None: as it is.

        Raises:
            UserError: nothing is there, its tokens have another width, or the network has its own.
        """
        if backbone is None:
            return self
        if self.config.is_end_to_end:
            raise UserError(f"backbone is {backbone}, expected none: this model has one of its own")
        extractor = FeatureExtractor.open(backbone, black=self.black_pictures, device=self.device)
        if extractor.config.width != self.config.img_feature_dim:
            raise UserError(
                f"{backbone}: visual tokens of width {extractor.config.width}, expected "
                f"{self.config.img_feature_dim}, which this model reads"
            )
        return replace(self, extractor=extractor)

    # ------------------------------------------------------------------------------------------------- files

    def save_pretrained(self, folder: str | Path, *, extra: Mapping[str, Any] | None = None) -> Path:
        """Write configuration, weights, card, words and backbone into a folder.

        Args:
            folder: where to; an earlier model there is replaced.
            extra: plain data to keep with the model (training step, scores); shown on the card.
        """
        notes = dict(self.notes if extra is None else extra)
        plain = {
            "model": to_plain(self.config),
            "decode": to_plain(self.decode),
            "black_pictures": self.black_pictures,
            "notes": notes,
        }
        files: dict[str, bytes | str | Path] = {VOCABULARY_FILE: json.dumps(self.vocabulary.plain())}
        if self.extractor is not None:
            files |= self.extractor.files()
        state = self.model.state_dict()
        card = model_card(
            f"ExpansionNet v2, {self.reads}",
            summary="A picture captioning model made with PruneLab's expansionnet.",
            facts={
                "reads": self.reads,
                "words": len(self.vocabulary),
                "positions": self.config.max_seq_len,
                **note_facts(notes),
            },
            usage=USAGE,
            config=plain["model"],
            state=state,
            tags=("image-to-text", "image-captioning"),
        )
        return save_model_folder(folder, plain, state, kind=KIND, card=card, extra_files=files)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        backbone: str | Path | None = None,
        device: str | torch.device = "cpu",
    ) -> Captioner:
        """Read what `save_pretrained` wrote: a folder, or an id on the Hub.

        Args:
            folder: where from.
            backbone: weights of the backbone of a network that reads features; None: those in the folder.
            device: where it goes.

        Raises:
            UserError: no such folder, another kind of model, or files that do not belong together.
        """
        found = load_model_folder(folder, kind=KIND)
        where = found.dir / "config.json"
        config = from_plain(ModelConfig, found.config.get("model"), where=f"{where} model")
        model = build(config, fresh=False)
        load_state(model, found.state, where=str(found.dir))
        captioner = cls(
            model=model.to(device).eval(),
            vocabulary=Vocabulary.load(found.dir),
            decode=from_plain(DecodeConfig, found.config.get("decode", {}), where=f"{where} decode"),
            black_pictures=bool(found.config.get("black_pictures", False)),
            notes=found.config.get("notes", {}),
        )
        return captioner.with_backbone(backbone or (found.dir if has_backbone(found.dir) else None))

    @classmethod
    def from_original(
        cls,
        path: str | Path,
        *,
        vocab_path: str | Path | None = None,
        backbone: str | Path | None = None,
        black_pictures: bool = False,
        device: str | torch.device = "cpu",
        **sizes: Any,
    ) -> Captioner:
        """A captioner from a checkpoint of the original, such as its published weights.

        Args:
            path: the file.
            vocab_path: its words: the published pickle, a ``vocabulary.json``, or a folder with one; None:
                what of the kind lies beside the file, else the published words in ``demo_material``, where
                the original's commands expect them.
            backbone: weights of the backbone of a network that reads features.
            black_pictures: take pictures that are not RGB for black ones, as the original does.
            device: where it goes.
            sizes: fields of `ModelConfig` that the file does not tell, where they are not the published
                model's; see `recognise.config_of`.

        Raises:
            UserError: a missing or damaged file, one that is no captioner, or words that do not fit.
        """
        weights = open_weights(path)
        if vocab_path:
            weights = with_vocabulary(weights, Vocabulary.load(vocab_path), vocab_path)
        captioner = cls.of(weights, device=device, **sizes)
        captioner.black_pictures = black_pictures
        return captioner.with_backbone(backbone)

    @classmethod
    def of(cls, weights: Weights, *, device: str | torch.device = "cpu", **sizes: Any) -> Captioner:
        """A captioner of weights that were read, with their words; arguments as of `from_original`.

        Raises:
            UserError: the words are not known, or it is no captioner.
        """
        config = config_of(weights, sizes)
        vocabulary = weights.vocabulary
        if vocabulary is None and PUBLISHED_WORDS.is_file():
            published = Vocabulary.load(PUBLISHED_WORDS)
            vocabulary = published if len(published) == weights.vocab_size else None
        if vocabulary is None:
            raise UserError(
                f"{weights.path}: its {weights.vocab_size:,} words are not in it: name its vocabulary by "
                f"--vocab_path, or lay {VOCABULARY_FILE} beside it"
            )
        model = build(config, fresh=False)
        load_state(model, weights.state, where=str(weights.path))
        return cls(model=model.to(device).eval(), vocabulary=vocabulary)

    def save_original(self, path: str | Path) -> Path:
        """Write the network as the original's published weights, and ``vocabulary.json`` beside it.

        Args:
            path: the file, such as ``rf_model.pth``.

        Raises:
            UserError: other words lie there, or a file cannot be written.
        """
        words = Path(path).parent / VOCABULARY_FILE
        if words.is_file() and Vocabulary.load(words).words != self.vocabulary.words:
            raise UserError(f"{words}: words of another model lie there, expected none beside {path}")
        write_model(path, self.model)
        self.vocabulary.save(words)
        return Path(path)


def load(
    path: str | Path,
    *,
    vocab_path: str | Path | None = None,
    backbone: str | Path | None = None,
    device: str | torch.device = "cpu",
    **sizes: Any,
) -> Captioner:
    """A captioner from whatever holds one.

    Args:
        path: a model folder, a run, a checkpoint of the original or its published weights; or the id of a
            model on the Hub.
        vocab_path: words of weights that have none beside them; see `Vocabulary.load`.
        backbone: weights of the backbone of a model that reads features.
        device: where the network goes.
        sizes: fields of the model that such weights do not tell; see `recognise.config_of`.

    Raises:
        UserError: nothing is there, it is no captioner, or its words are not known.
    """
    here = found(path)
    if not here.exists():
        return Captioner.from_pretrained(path, backbone=backbone, device=device)  # of the Hub
    place = find_weights(here)
    if is_model_folder(place):
        captioner = Captioner.from_pretrained(place, backbone=backbone, device=device)
        check_said(to_plain(captioner.config), sizes, place)
        return captioner
    return Captioner.from_original(place, vocab_path=vocab_path, backbone=backbone, device=device, **sizes)
