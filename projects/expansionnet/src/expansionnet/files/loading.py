"""Where weights lie, and those that a model starts from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from expansionnet.config import Config, ModelConfig
from expansionnet.files.backbone import BackboneFiles, has_backbone, read_tensors
from expansionnet.files.original import find_newest
from expansionnet.files.recognise import BACKBONE_FOLDER, FOLDER, Weights, recognise
from expansionnet.layout import REINFORCE, VOCABULARY_FILE, XE, found
from expansionnet.model.initialise import BACKBONE
from expansionnet.words.vocabulary import Vocabulary
from prunelab.config import from_plain
from prunelab.errors import UserError
from prunelab.hub import is_model_folder, load_model_folder, load_state
from prunelab.torchfile import load_pth

if TYPE_CHECKING:
    from expansionnet.model import ExpansionNet

KIND = "expansionnet"
"""What model folders say they are."""
FURTHEST = (f"end_to_end_{REINFORCE}", REINFORCE, f"end_to_end_{XE}", XE)
"""Folders of runs in a folder of several, the furthest trained first."""
INSIDE = ("best", "last", *(f"{kind}/{name}" for kind in FURTHEST for name in ("best", "last")))
"""Model folders in a run, or in a folder of runs, the preferred one first."""
PUBLISHED_WORDS = Path("demo_material/demo_coco_tokens.pickle")
"""Words of the published weights, where the original's commands expect them."""
SUFFIXES = (".pth", ".pt", ".safetensors")


def find_weights(path: str | Path) -> Path:
    """The model folder or file that a path means.

    Args:
        path: one of these, a run or several, the folder of a backbone, or a folder with checkpoints of the
            original (the newest) or with a single file of weights.

    Raises:
        UserError: nothing is there.
    """
    place = found(path) if str(path) else Path()
    if place.is_file():
        return place.parent if is_model_folder(place.parent) and place.suffix == ".safetensors" else place
    for folder in (place, *(place / name for name in INSIDE)) if str(path) else ():
        if is_model_folder(folder):
            return folder
    if has_backbone(place) and str(path):
        return place
    if place.is_dir() and str(path):
        newest = find_newest(place)
        files = [file for file in sorted(place.iterdir()) if file.suffix in SUFFIXES]
        if newest is not None or len(files) == 1:
            return newest or files[0]
    raise UserError(
        f"{str(path) or repr('')}: no weights there, expected a model folder, a run, or a file such as "
        "rf_model.pth"
    )


def open_weights(path: str | Path) -> Weights:
    """Read the weights that a path means (`find_weights`), whatever holds them, and words beside them.

    Raises:
        UserError: nothing is there, it is damaged, or it holds other things.
    """
    place = find_weights(path)
    if place.is_dir():
        return _folder(place) if is_model_folder(place) else _backbone_folder(place)
    content = read_tensors(place) if place.suffix == ".safetensors" else load_pth(place)
    weights = recognise(content, place)
    return replace(weights, vocabulary=_words_beside(weights) if weights.body else None)


def open_backbone(path: str | Path) -> Weights:
    """Read weights with a backbone: those that a path means, or what lies in the folder of a body.

    Args:
        path: see `find_weights`; also a model that reads features, or its run, where it knows its backbone.

    Raises:
        UserError: nothing is there, or weights without a backbone.
    """
    place = found(path)
    for folder in (place, place / "best", place / "last") if str(path) else ():
        if has_backbone(folder):
            return _backbone_folder(folder)
    weights = open_weights(path)
    if not weights.backbone:
        raise UserError(f"{path}: {weights}, expected a backbone: a Swin file or an end-to-end model")
    return weights


def _words_beside(weights: Weights) -> Vocabulary | None:
    """The first vocabulary beside a file that has as many words as its body; others may be of other files."""
    for name in (VOCABULARY_FILE, PUBLISHED_WORDS.name):
        file = weights.path.with_name(name)
        words = Vocabulary.load(file) if file.is_file() else None
        if words is not None and len(words) == weights.vocab_size:
            return words
    return None


def _folder(place: Path) -> Weights:
    content = load_model_folder(place, kind=KIND)
    config = from_plain(ModelConfig, content.config.get("model"), where=f"{place / 'config.json'} model")
    weights = Weights(
        path=place,
        kind=FOLDER,
        state=content.state,
        config=config,
        swin=config.swin if config.is_end_to_end else None,
    )
    return with_vocabulary(weights, Vocabulary.load(place), place / VOCABULARY_FILE)


def _backbone_folder(place: Path) -> Weights:
    content = BackboneFiles.read(place)
    state = {f"{BACKBONE}.{name}": value for name, value in content.state.items()}
    return Weights(path=place, kind=BACKBONE_FOLDER, state=state, swin=content.config)


def with_vocabulary(weights: Weights, vocabulary: Vocabulary, where: str | Path) -> Weights:
    """Weights with their words.

    Args:
        weights: with a body.
        vocabulary: the words.
        where: what they were read from, for messages.

    Raises:
        UserError: the body knows another number of words.
    """
    if len(vocabulary) != weights.vocab_size:
        raise UserError(
            f"{where}: a vocabulary of {len(vocabulary):,} words, expected the {weights.vocab_size:,} of "
            f"{weights.path}"
        )
    return replace(weights, vocabulary=vocabulary)


# ------------------------------------------------------------------------------------------------- beginning


@dataclass(frozen=True, kw_only=True)
class Start:
    """Weights that a run starts from; read before its data set is, as they may know words and sizes."""

    weights: tuple[Weights, ...] = ()
    """In the order in which they are loaded, so that later ones win."""

    @property
    def body(self) -> Weights | None:
        """The weights that hold the body; of several the last."""
        return next((weights for weights in reversed(self.weights) if weights.body), None)

    @property
    def vocabulary(self) -> Vocabulary | None:
        """Words of the body's weights, where they know them."""
        return self.body.vocabulary if self.body else None

    @property
    def vocab_size(self) -> int:
        """Words V of the body's weights; 0 where there are none."""
        return self.body.vocab_size if self.body else 0

    @property
    def max_seq_len(self) -> int:
        """Positions of the body's weights; 0 where there are none."""
        return self.body.max_seq_len if self.body else 0

    def load_into(self, model: ExpansionNet) -> list[str]:
        """Copy the weights into a model; what they lack keeps its values.

        Returns:
            Lines for the log.

        Raises:
            UserError: a shape differs; for words and positions the line has both sizes.
        """
        own, lines, filled = model.state_dict(), [], set[str]()
        for weights in self.weights:
            check_sizes(weights, model.cfg)
            taken = {name: value for name, value in weights.state.items() if name in own}
            load_state(model, own | taken, where=str(weights.path))
            own = model.state_dict()
            filled |= taken.keys()
            left = len(weights.state) - len(taken) + len(weights.unused)
            lines.append(f"{weights.path}: {weights}; {len(taken)} tensors taken, {left} not used")
        missing = [name for name in own if name not in filled]
        if self.weights and missing:
            shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
            lines.append(f"{len(missing)} tensors begin with new values: {shown}")
        return lines


def check_sizes(weights: Weights, cfg: ModelConfig) -> None:
    """Compare words and positions of a body with a model's.

    Raises:
        UserError: they differ; the line has both sizes.
    """
    for size, theirs, ours in (
        ("words", weights.vocab_size, cfg.vocab_size),
        ("positions", weights.max_seq_len, cfg.max_seq_len),
    ):
        if theirs and theirs != ours:
            hint = (
                "name the vocabulary that it was trained with by --vocab_path"
                if size == "words"
                else f"set max_seq_len to {theirs}"
            )
            raise UserError(f"{weights.path}: {theirs:,} {size}, the model has {ours:,}: {hint}")


def open_start(cfg: Config) -> Start:
    """Read what a run starts from: ``backbone_save_path``, then ``body_save_path``.

    End to end, the first gives the backbone (and, where it holds one, a body), the second the body (and,
    where it holds one, the backbone); a body alone leaves no backbone to train, a backbone alone does.
    Reading features, only a body is loaded, with ``partial_load``.

    Returns:
        The weights; empty where the run starts from neither.

    Raises:
        UserError: a path means nothing, or lacks what it is named for.
    """
    body, backbone = cfg.run.body_save_path, cfg.run.backbone_save_path
    if not cfg.model.is_end_to_end:
        return Start(weights=(_with_body(body),) if body and cfg.run.partial_load else ())
    weights = [open_backbone(backbone)] if backbone else []
    if body:
        weights.append(_with_body(body))
    if weights and not any(one.backbone for one in weights):
        raise UserError(
            f"{body}: {weights[0]}, and backbone_save_path is empty: expected a backbone for a model that "
            "is_end_to_end"
        )
    return Start(weights=tuple(weights))


def _with_body(path: str) -> Weights:
    found = open_weights(path)
    if not found.body:
        raise UserError(f"{path}: {found}, expected a body for body_save_path")
    return found


def load_body_and_backbone(model: ExpansionNet, cfg: Config) -> list[str]:
    """`open_start` and `Start.load_into` in one."""
    return open_start(cfg).load_into(model)
