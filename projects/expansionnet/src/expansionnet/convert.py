"""``convert``: a published file in another format; it says what the file is, and what of it is not used.

What is written, the source and the ending of the destination decide together:

| source                               | destination     | what it gets                                      |
|--------------------------------------|-----------------|---------------------------------------------------|
| a captioner: checkpoint, model folder| a folder        | a model folder                                    |
| the same                             | ``.pth``        | the original's checkpoint, and vocabulary.json    |
| anything with a backbone             | ``.safetensors``| the backbone alone, as timm names its weights     |
| captions, or a vocabulary            | ``.json``       | ``vocabulary.json``                               |
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from expansionnet.captioner import Captioner
from expansionnet.cli import parse_convert
from expansionnet.config import ModelConfig
from expansionnet.files.loading import find_weights, open_weights, with_vocabulary
from expansionnet.files.recognise import FOLDER, Weights, check_said
from expansionnet.layout import found
from expansionnet.model.swin import build_swin
from expansionnet.options import ConvertOptions
from expansionnet.words.vocabulary import Vocabulary
from prunelab.config import to_plain
from prunelab.data.captions import Reading, open_captions
from prunelab.errors import UserError, entry
from prunelab.util import atomic_write, human_names, read_json

# V words

SHOWN = 5
"""Names that a line lists at most."""
PICKLES = (".pickle", ".pkl", ".p")
"""Endings of a published vocabulary."""
VOCABULARY_FORMAT = "expansionnet-vocabulary/"
"""How the format of our own vocabularies begins."""


def convert(options: ConvertOptions) -> Path:
    """Read the source, say what it is and what it lacks, and write the destination (unless ``dry_run``).

    Raises:
        UserError: the source is missing, damaged or of no known kind, or the destination does not go with it.
    """
    source, target = found(options.source), Path(options.destination)
    if source.exists() and target.resolve() == source.resolve():
        raise UserError(f"{target}: not written over the source; name another destination")
    words = words_of(source, options)
    if words is not None:
        _convert_words(words, source, target, options)
    else:
        _convert_weights(open_weights(source), target, options)
    if not options.dry_run:
        print(f"written: {target}")
    return target


# ----------------------------------------------------------------------------------------------------- words


def words_of(path: Path, options: ConvertOptions) -> Vocabulary | None:
    """The vocabulary that a path holds, or that is made of its training captions; None: it holds neither.

    Raises:
        UserError: it is damaged.
    """
    if path.is_dir():
        with contextlib.suppress(UserError):
            find_weights(path)
            return None
        return _made(path, options)
    if path.suffix in PICKLES:
        return Vocabulary.load(path)
    if path.suffix != ".json":
        return None
    content = read_json(path)
    is_vocabulary = isinstance(content, dict) and str(content.get("format", "")).startswith(VOCABULARY_FORMAT)
    return Vocabulary.load(path) if is_vocabulary else _made(path, options)


def _made(path: Path, options: ConvertOptions) -> Vocabulary:
    reading = Reading(lenient=options.preset == "faithful")
    captions = open_captions(path, check=0, reading=reading).split("train")
    raw = [caption for record in captions for caption in record.raw]
    return Vocabulary.from_captions(raw, min_occurrences=options.dict_min_occurrences)


def _convert_words(words: Vocabulary, source: Path, target: Path, options: ConvertOptions) -> None:
    if target.suffix != ".json":
        raise UserError(f"{target}: {source} holds words, expected a file that ends in .json")
    made = f", the longest training caption has {words.longest} words with start and end"
    print(f"{source}: a vocabulary of {len(words):,} words{made if words.longest else ''}")
    if not options.dry_run:
        words.save(target)


# ---------------------------------------------------------------------------------------------------- weights


def _convert_weights(weights: Weights, target: Path, options: ConvertOptions) -> None:
    print(f"{weights.path}: {weights}, {len(weights.state) + len(weights.unused)} tensors")
    if target.suffix == ".safetensors":
        _convert_backbone(weights, target, dry_run=options.dry_run)
        return
    if not weights.body:
        raise UserError(f"{target}: {weights.path} holds a backbone alone, expected NAME.safetensors")
    if target.suffix == ".json":
        raise UserError(f"{target}: {weights.path} holds weights, expected a folder or NAME.pth")
    if weights.kind == FOLDER:
        captioner = Captioner.from_pretrained(weights.path)
        check_said(to_plain(captioner.config), options.typed, weights.path)
    else:
        captioner = _captioner(weights, options)
    _tell(weights.unused, [name for name in captioner.model.state_dict() if name not in weights.state])
    print(f"recognised: {told(captioner.config)}")
    if options.dry_run:
        return
    if target.suffix == ".pth":
        captioner.save_original(target)
    else:
        captioner.save_pretrained(target)


def _captioner(weights: Weights, options: ConvertOptions) -> Captioner:
    """The captioner of a foreign file, with the words that are named."""
    if options.vocab_path:
        place = found(options.vocab_path)
        vocabulary = words_of(place, options) or Vocabulary.load(place)
        weights = with_vocabulary(weights, vocabulary, place)
    captioner = Captioner.of(weights, **options.typed)
    faithful = options.preset == "faithful"
    return replace(
        captioner, black_pictures=faithful, decode=replace(captioner.decode, suppress_unk=not faithful)
    )


def _convert_backbone(weights: Weights, target: Path, *, dry_run: bool) -> None:
    if weights.swin is None:
        raise UserError(f"{target}: {weights.path} holds no backbone, expected a folder or NAME.pth")
    with torch.device("meta"):
        wanted = build_swin(weights.swin).state_dict()
    missing = [name for name in wanted if name not in weights.backbone]
    _tell((*weights.unused, *weights.body), missing)
    count = sum(value.numel() for value in weights.backbone.values())
    print(f"recognised: a Swin of {weights.swin.img_size} pixels, {count:,} parameters, as timm names them")
    if missing:
        raise UserError(f"{weights.path}: {len(missing)} weights of the backbone are missing, expected all")
    if not dry_run:
        from safetensors.torch import save

        with atomic_write(target) as file:
            file.write(save({name: value.contiguous() for name, value in weights.backbone.items()}))


def told(cfg: ModelConfig) -> str:
    """What a captioner is, in a line."""
    reads = "pictures" if cfg.is_end_to_end else f"features of width {cfg.img_feature_dim}"
    return (
        f"a captioner that reads {reads}: {cfg.N_enc} and {cfg.N_dec} layers of width {cfg.model_dim}, "
        f"{cfg.vocab_size:,} words, {cfg.max_seq_len} positions"
    )


def _tell(unused: Sequence[str], missing: Sequence[str]) -> None:
    for what, names in (("unused", unused), ("missing", missing)):
        print(f"{what} keys: {human_names(names, SHOWN)}")


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``convert``."""
    convert(parse_convert(argv))


if __name__ == "__main__":
    main()
