"""A captioner compiled for programs that caption all day.

The step of a single picture's beams takes the time of reading the weights and of starting some hundred
operations. `torch.compile` with inductor's freezing joins the operations and keeps the weights in the order
in which oneDNN reads them; the encoder gains as much, for batches too. It needs a C++ compiler and takes a
minute once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from expansionnet.config import ModelConfig
from expansionnet.model import ExpansionNet
from expansionnet.model.cached import begin, stepper
from prunelab import onednn
from prunelab.decode import State, StepFunction

# B pictures, R rows (beams) of a picture, T tokens of a row so far, S visual tokens, D width

log = logging.getLogger(__name__)

FIRST_STEPS = 2
"""Steps at the beginning that are compiled apart, as sizes of 0 and 1 have code of their own."""
_numbers = count()


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """What is compiled of a captioner."""

    encode: Callable[[Tensor], Tensor]
    """From features (B, S, F), none of them padded, to (B, S, D); B and S above 1, or B of 1."""
    steps: Sequence[StepFunction]
    """For the beams of a single picture, on one thread: the first, the second, and all later ones."""


class Prepared:
    """A captioner whose encoder, and whose steps for a single picture, are compiled.

    Searches take it in the captioner's place. Steps of batches and of single beams, padded features, other
    devices than a processor and other types than float32 go the ordinary way, and so does all where compiling
    fails. When weights have changed, the next search compiles anew.
    """

    def __init__(self, model: ExpansionNet) -> None:
        self.model = model
        self._compiled_from: tuple[tuple[int, int], ...] = ()
        self._compiled: Compiled | None = None
        self._serves: Compiled | None = None

    def encode(self, x: Tensor, enc_pads: Tensor | None = None) -> Tensor:
        """See `ExpansionNet.encode`; within inference mode alone."""
        self._serves = compiled = self._current()
        if compiled is None or enc_pads is not None:
            with onednn.OneDNN():
                return self.model.encode(x, enc_pads)
        if self.model.cfg.is_end_to_end:
            with onednn.OneDNN():
                x = self.model.backbone(x)
        return compiled.encode(x.clone(memory_format=torch.contiguous_format))  # of inference mode, too

    def stepper(self) -> StepFunction:
        """The step function, for states of `expansionnet.model.cached.begin`; within inference mode alone.

        Compiled is that of the weights which `encode` saw last, as looking at all takes half a millisecond.
        """
        plain, compiled = stepper(self.model), self._serves
        if compiled is None:
            return plain

        def step(tokens: Tensor, state: State) -> tuple[Tensor, State]:
            images, time = state.size[0], state.per_beam.shape[1]
            if images != 1 or (len(tokens) == 1 and time):
                return plain(tokens, state)
            return compiled.steps[min(time, FIRST_STEPS)](tokens.contiguous(), state)

        return step

    @contextmanager
    def threads(self, images: int) -> Iterator[None]:
        """As many threads as the steps of so many pictures are for; after `encode`."""
        if images == 1 and self._serves is not None:
            with _one_thread():
                yield
        else:
            yield

    def _current(self) -> Compiled | None:
        """What was compiled from the present weights."""
        weights = list(self.model.parameters())
        if not onednn.usable(weights[0]):
            return None
        versions = tuple((weight.data_ptr(), weight._version) for weight in weights)
        if versions != self._compiled_from:
            self._compiled, self._compiled_from = _compile(self.model), versions
        return self._compiled


@contextmanager
def _one_thread() -> Iterator[None]:
    """A step of few rows has no work for several threads: they would wait for each other at every product."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _free_sizes(cfg: ModelConfig) -> tuple[int, int, int]:
    """Rows R, visual tokens S and earlier words T to compile with; the result serves any above 1.

    Sizes that are equal are taken for one, so these are no sizes of the network, and the nodes of the tree
    neither.
    """
    taken = {1, 2, cfg.model_dim, cfg.num_heads, cfg.model_dim // cfg.num_heads, cfg.num_exp_dec}
    free = (size for size in count(5) if size not in taken)
    rows, visual = next(free), next(free)
    words = next(size for size in free if 1 + rows * (size - 1) not in taken)
    return rows, visual, words


def _compile(model: ExpansionNet) -> Compiled | None:
    import torch._inductor.config as inductor

    def encoder(x: Tensor) -> Tensor:
        return model.encode_features(x)

    plain = stepper(model)
    rows, visual, words = _free_sizes(model.cfg)
    encode, *steps = map(_apart, (encoder, *[plain] * (FIRST_STEPS + 1)))
    try:
        with inductor.patch({"freezing": True}):
            for images in (rows, 1):
                encode(torch.zeros(images, visual, model.cfg.img_feature_dim))
        state = begin(model, torch.zeros(1, visual, model.cfg.model_dim))
        tokens = torch.zeros(1, dtype=torch.int64)
        with inductor.patch({"freezing": True, "cpp.threads": 1}), _one_thread():
            for time in range(words + 1):
                step = plain if FIRST_STEPS <= time < words else steps[min(time, FIRST_STEPS)]
                _, state = step(tokens, state)
                state = state.expand(rows // len(tokens))
                tokens = torch.zeros(rows, dtype=torch.int64)
    except Exception as error:  # a compiler may fail in any way, and is not needed
        log.warning("captions are decoded without torch.compile, which failed: %s", str(error).split("\n")[0])
        return None
    return Compiled(encode=encode, steps=steps)


def _apart(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function compiled with code of its own: results are kept by code, those of other weights too."""
    code = function.__code__.replace(co_name=f"{function.__name__}_{next(_numbers)}")
    own = FunctionType(code, function.__globals__, code.co_name, None, function.__closure__)
    return torch.compile(own, dynamic=True)
