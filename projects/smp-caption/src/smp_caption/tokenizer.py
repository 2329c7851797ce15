"""Captions to token ids and back: sentencepiece models of five kinds, trained on the training captions.

Kinds: ``word``, ``unigram``, ``bpe`` and ``character`` are a sentencepiece model each; ``radix`` writes the
number of a word of the word model with digits. Ids 0 to 3 of a sentencepiece model are pad, unk, bos and eos.

b radix base, k digits a word, N pieces of the sentencepiece model.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import sentencepiece

from prunelab.errors import UserError
from prunelab.util import atomic_write

MODEL_TYPES = {"word": "word", "radix": "word", "unigram": "unigram", "bpe": "bpe", "character": "char"}
"""Kind of tokenizer to sentencepiece's model type, which is also the name of its file."""

PAD, UNK, BOS, EOS = range(4)
SPECIALS = ("<pad>", "<unk>", "<bos>", "<eos>")
CAPTIONS_FILE = "train_captions.txt"
FOLDER = "tokenizer"
"""Name of the folder of a run, or of a model, that holds the tokenizer's files."""
MOST_IDS, MOST_IDS_OF = 16, {"character": 60, "radix": 30}
"""Ids of a caption where nobody says how many they may be: of most kinds, and of some."""
SAMPLING_ALPHA = 0.1
SAMPLED = ("unigram", "bpe")
"""Kinds that cut a text in several ways; sentencepiece refuses to draw one of the others'."""


class Tokenizer:
    """A sentencepiece model with the ids and the truncation rule of the captioning models.

    Args:
        model_file: a ``.model`` file of sentencepiece.
        kind: ``word``, ``unigram``, ``bpe`` or ``character``.
        truncation_drops_eos: a caption that is cut loses its eos, as in the original; else it ends in eos.

    Raises:
        UserError: no such file, or not a sentencepiece model.
    """

    def __init__(self, model_file: Path, *, kind: str = "word", truncation_drops_eos: bool = False) -> None:
        self.model_file = model_file
        self.kind = kind
        self.truncation_drops_eos = truncation_drops_eos
        self._processor = _load(model_file)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_processor"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._processor = _load(self.model_file)

    def __len__(self) -> int:
        """Number of token ids that the tokenizer uses; a model's ``vocab_size`` may be larger."""
        return len(self._processor)

    @property
    def bos(self) -> int:
        """Id that starts a caption."""
        return BOS

    @property
    def eos(self) -> int:
        """Id that ends a caption."""
        return EOS

    @property
    def most_ids(self) -> int:
        """Ids of a caption where no ``max_seq_length`` is given."""
        return MOST_IDS_OF.get(self.kind, MOST_IDS)

    def encode(
        self,
        text: str,
        *,
        add_bos_eos: bool = True,
        max_seq_length: int | None = None,
        sampling: bool = False,
    ) -> list[int]:
        """Token ids of a text.

        Args:
            text: a caption.
            add_bos_eos: put bos before and eos behind.
            max_seq_length: most ids of the result; 0 or less: no limit; None: `most_ids`.
            sampling: draw one of the possible segmentations (sentencepiece's, alpha 0.1) where a text has
                several, that is, of ``unigram`` and ``bpe``.
        """
        ids = self._ids(text, sampling)
        if add_bos_eos:
            ids = [BOS, *ids, EOS]
        return self._cut(ids, max_seq_length)

    def encode_tokenized(
        self, pieces: Iterable[str], *, add_bos_eos: bool = True, max_seq_length: int | None = None
    ) -> list[int]:
        """Ids of pieces as `tokenize` writes them, that is, a word carries sentencepiece's word marker."""
        ids = [self._processor.piece_to_id(piece) for piece in pieces]
        if add_bos_eos:
            ids = [BOS, *ids, EOS]
        return self._cut(ids, max_seq_length)

    def decode(self, ids: Any) -> str:
        """Text of ids (a list, tensor or array of at most one axis); pad, bos and eos leave no trace."""
        size = len(self._processor)
        return self._text([i if i < size else UNK for i in _as_list(ids)])

    def tokenize(self, text: str) -> list[tuple[str, int, int]]:
        """Pieces of a text, each with its start and end in the text with one blank put before it."""
        found, start = [], 0
        for piece in self._processor.encode(text, out_type=str):
            found.append((piece, start, start + len(piece)))
            start += len(piece)
        return found

    def config_fields(self) -> dict[str, Any]:
        """What the original writes about its tokenizer into ``config.json``."""
        return {
            "bos_token": SPECIALS[BOS],
            "bos_token_id": self.bos,
            "eos_token": SPECIALS[EOS],
            "eos_token_id": self.eos,
            "unk_token": SPECIALS[UNK],
            "unk_token_id": UNK,
            "pad_token": SPECIALS[PAD],
            "pad_token_id": PAD,
            "mask_token": SPECIALS[UNK],
            "mask_token_id": UNK,
            "user_defined_symbols": None,
            "num_control_symbols": 0,
            "num_special_symbols": len(SPECIALS),
        }

    def save(self, folder: Path) -> None:
        """Write ``<type>.model`` and ``<type>.vocab`` into ``folder/tokenizer``."""
        for name, content in self.files().items():
            _write(folder / name, content)

    def files(self) -> dict[str, bytes]:
        """What `save` writes: paths in the folder to contents."""
        name = f"{FOLDER}/{MODEL_TYPES[self.kind]}"
        return {
            f"{name}.model": self._processor.serialized_model_proto(),
            f"{name}.vocab": _vocabulary(self._processor).encode(),
        }

    def _ids(self, text: str, sampling: bool) -> list[int]:
        if sampling and self.kind in SAMPLED:
            return self._processor.encode(text, enable_sampling=True, alpha=SAMPLING_ALPHA, nbest_size=-1)
        return self._processor.encode(text)

    def _cut(self, ids: list[int], limit: int | None) -> list[int]:
        limit = self.most_ids if limit is None else limit
        if limit <= 0 or len(ids) <= limit:
            return ids
        if self.truncation_drops_eos or ids[-1] != self.eos:
            return ids[:limit]
        return [*ids[: limit - 1], self.eos]

    def _text(self, ids: list[int]) -> str:
        return self._processor.decode(ids).replace("<unk>", " <unk>").removeprefix(" ")


class RadixTokenizer(Tokenizer):
    """Words as k digits of base b: ids are 0 pad, 1..b the digits 0..b-1, b+1 bos, b+2 eos.

    Word number n has sentencepiece id n + 4; the code after the last word's stands for an unknown one.
    """

    def __init__(self, model_file: Path, *, base: int, truncation_drops_eos: bool = False) -> None:
        super().__init__(model_file, kind="radix", truncation_drops_eos=truncation_drops_eos)
        self.base = base
        self.code_count = len(self._processor) - len(SPECIALS) + 1
        self.tokens_per_word = len(to_base(self.code_count, base))

    def __len__(self) -> int:
        return self.base + 3

    @property
    def bos(self) -> int:
        """Id that starts a caption."""
        return self.base + 1

    @property
    def eos(self) -> int:
        """Id that ends a caption."""
        return self.base + 2

    def code(self, piece: int) -> list[int]:
        """The ids that stand for a sentencepiece id: one for pad, bos and eos, k for a word or unk."""
        special = {PAD: 0, BOS: self.bos, EOS: self.eos}
        if piece in special:
            return [special[piece]]
        number = self.code_count - 1 if piece == UNK else piece - len(SPECIALS)
        digits = to_base(number, self.base)
        return [1] * (self.tokens_per_word - len(digits)) + digits

    def encode(
        self,
        text: str,
        *,
        add_bos_eos: bool = True,
        max_seq_length: int | None = None,
        sampling: bool = False,
    ) -> list[int]:
        """Ids of a text; the limit acts on whole words.

        With the original's rule (``truncation_drops_eos``) the words' budget is (limit - 2) // k + 2, bos and
        eos counted, so that a cut caption has a word in eos's place and may exceed the limit by up to k - 1.
        """
        pieces = self._ids(text, sampling)
        if add_bos_eos:
            pieces = [BOS, *pieces, EOS]
        limit = self.most_ids if max_seq_length is None else max_seq_length
        if limit > 0:
            budget = (limit - 2) // self.tokens_per_word + 2
            if self.truncation_drops_eos or not add_bos_eos or len(pieces) <= budget:
                pieces = pieces[:budget]
            else:
                pieces = [*pieces[: budget - 1], EOS]
        return [i for piece in pieces for i in self.code(piece)]

    def encode_tokenized(
        self, pieces: Iterable[str], *, add_bos_eos: bool = True, max_seq_length: int | None = None
    ) -> list[int]:
        """Ids of pieces; bos and eos are added, then the limit acts on ids."""
        ids = [i for piece in pieces for i in self.code(self._processor.piece_to_id(piece))]
        if add_bos_eos:
            ids = [self.bos, *ids, self.eos]
        return self._cut(ids, max_seq_length)

    def decode(self, ids: Any) -> str:
        """Text of ids up to the first eos, in groups of k; a last, short group is filled with the digit 0."""
        ids = _as_list(ids)
        if self.eos in ids:
            ids = ids[: ids.index(self.eos)]
        ids += [1] * (-len(ids) % self.tokens_per_word)
        groups = (ids[i : i + self.tokens_per_word] for i in range(0, len(ids), self.tokens_per_word))
        numbers = (from_base(group, self.base) + len(SPECIALS) for group in groups)
        return self._text([n if n < len(self._processor) else UNK for n in numbers])

    def config_fields(self) -> dict[str, Any]:
        """What the original writes into ``config.json``: a smaller vocabulary, and no single id for unk."""
        nothing = dict.fromkeys(("unk_token", "unk_token_id", "mask_token", "mask_token_id"))
        return super().config_fields() | nothing | {"vocab_size": len(self)}


def to_base(number: int, base: int) -> list[int]:
    """Digits of a number, most significant first, each raised by one, so that 0 is [1]."""
    digits = []
    while True:
        number, digit = divmod(number, base)
        digits.append(digit + 1)
        if number == 0:
            return digits[::-1]


def from_base(digits: Sequence[int], base: int) -> int:
    """The number of raised digits; a digit below 1 counts as 1, one above the base is taken as it is."""
    number = 0
    for digit in digits:
        number = number * base + max(digit - 1, 0)
    return number


def train_sentencepiece(captions: Iterable[str], *, model_type: str, vocab_size: int) -> bytes:
    """Train a sentencepiece model (quietly; equal captions give equal bytes).

    Args:
        captions: sentences; a word model keeps the most frequent words between blanks, letter case kept.
        model_type: sentencepiece's ``word``, ``unigram``, ``bpe`` or ``char``.
        vocab_size: most pieces, the four special ones included; a small corpus may give fewer.

    Raises:
        UserError: there is nothing to learn from, or too little for the size.
    """
    out = io.BytesIO()
    lines = [line for caption in captions for line in caption.split("\n") if line.strip()]
    if not lines:
        raise UserError("the tokenizer has no captions to train on, expected at least one that is not empty")
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=out,
            model_type=model_type,
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            pad_id=PAD,
            unk_id=UNK,
            bos_id=BOS,
            eos_id=EOS,
            pad_piece=SPECIALS[PAD],
            unk_piece=SPECIALS[UNK],
            bos_piece=SPECIALS[BOS],
            eos_piece=SPECIALS[EOS],
            unk_surface=SPECIALS[UNK],
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"sentencepiece cannot train a {model_type} model of vocab_size {vocab_size}: {error}"
        ) from error
    return out.getvalue()


def build_tokenizer(
    folder: Path,
    *,
    kind: str,
    vocab_size: int,
    radix_base: int = 768,
    captions: Iterable[str] | None = None,
    start_from: Path | None = None,
    truncation_drops_eos: bool = False,
) -> Tokenizer:
    """The tokenizer of a run: read from ``folder/tokenizer``, else copied from ``start_from``, else trained.

    Training writes the captions to ``train_captions.txt`` beside the model first. Only one process may call
    this while the files are absent.

    Args:
        folder: folder of the run, or of a saved model.
        kind: ``word``, ``radix``, ``unigram``, ``bpe`` or ``character``.
        vocab_size: most pieces of a new sentencepiece model.
        radix_base: base of ``radix``.
        captions: training captions; None where the model must exist.
        start_from: a run or model folder, or a checkpoint file in one, to take the tokenizer from.
        truncation_drops_eos: see `Tokenizer`.

    Raises:
        UserError: no model anywhere and no captions to train on, or ``start_from`` has words of another kind
            or other words.
    """
    name = MODEL_TYPES[kind]
    own = folder / FOLDER / f"{name}.model"
    found = _start_model(start_from, kind) if start_from is not None else None
    if own.is_file():
        if found is not None and _words(own) != _words(found):
            raise UserError(
                f"{own} has other words than {found}, with which the weights of start_from were trained: "
                "expected the same, or a folder without a tokenizer"
            )
    else:
        if found is not None:
            model = found.read_bytes()
        elif captions is None:
            raise UserError(
                f"{folder} has no tokenizer/{name}.model, expected a run or a model of tokenizer {kind}"
            )
        else:
            model = _train_in(own.parent, captions, name, vocab_size)
        _write(own.with_suffix(".vocab"), _vocabulary(_parse(model, own)).encode())
        _write(own, model)
    if kind == "radix":
        return RadixTokenizer(own, base=radix_base, truncation_drops_eos=truncation_drops_eos)
    return Tokenizer(own, kind=kind, truncation_drops_eos=truncation_drops_eos)


def _train_in(folder: Path, captions: Iterable[str], model_type: str, vocab_size: int) -> bytes:
    corpus = folder / CAPTIONS_FILE
    if not corpus.is_file():
        _write(corpus, "\n".join(captions).encode())
    lines = corpus.read_text(encoding="utf-8").split("\n")
    return train_sentencepiece(lines, model_type=model_type, vocab_size=vocab_size)


def model_beside(start_from: Path, kind: str) -> Path | None:
    """The sentencepiece model of a kind of tokenizer that lies in ``start_from`` or beside it."""
    folder, name = start_from if start_from.is_dir() else start_from.parent, f"{MODEL_TYPES[kind]}.model"
    candidates = (folder / name, folder / FOLDER / name, folder.parent / FOLDER / name)
    return next((path for path in candidates if path.is_file()), None)


def _start_model(start_from: Path, kind: str) -> Path | None:
    found = model_beside(start_from, kind)
    if found is None:
        others = [other for other in MODEL_TYPES if model_beside(start_from, other) is not None]
        if others:
            raise UserError(
                f"start_from {start_from}: its tokenizer is {' or '.join(others)}, expected {kind} as here"
            )
    return found


def _words(model_file: Path) -> list[str]:
    processor = _load(model_file)
    return [processor.id_to_piece(i) for i in range(processor.get_piece_size())]


def _load(model_file: Path) -> sentencepiece.SentencePieceProcessor:
    if not model_file.is_file():
        raise UserError(f"no tokenizer file {model_file}, expected a sentencepiece model")
    return _parse(model_file.read_bytes(), model_file)


def _parse(model: bytes, path: Path) -> sentencepiece.SentencePieceProcessor:
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.load_from_serialized_proto(model)
    except RuntimeError as error:
        raise UserError(f"{path} is not a sentencepiece model ({error})") from error
    ids = (processor.pad_id(), processor.unk_id(), processor.bos_id(), processor.eos_id())
    if ids != (PAD, UNK, BOS, EOS):
        raise UserError(f"{path} has pad, unk, bos, eos = {ids}, expected {(PAD, UNK, BOS, EOS)}")
    return processor


def _vocabulary(processor: sentencepiece.SentencePieceProcessor) -> str:
    """Lines of piece, tab, score, as sentencepiece's own ``.vocab`` file has them."""
    return "".join(
        f"{processor.id_to_piece(i)}\t{processor.get_score(i):g}\n" for i in range(processor.get_piece_size())
    )


def _write(path: Path, content: bytes) -> None:
    with atomic_write(path) as file:
        file.write(content)


def _as_list(ids: Any) -> list[int]:
    ids = ids.tolist() if hasattr(ids, "tolist") else list(ids)
    return list(ids) if isinstance(ids, list) else [ids]
