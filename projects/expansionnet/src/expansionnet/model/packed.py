"""A captioner compiled for pictures that come one by one.

The step of a single picture's beams takes the time of reading the weights and of starting some hundred
operations. `torch.compile` with inductor's freezing joins the operations and keeps the weights in the order
in which oneDNN reads them. It needs a C++ compiler and takes half a minute once, so it is for programs that
caption all day.
"""

from __future__ import annotations

import logging
from itertools import count
from types import FunctionType

import torch
from torch import Tensor

from expansionnet.config import ModelConfig
from expansionnet.model import ExpansionNet, onednn
from expansionnet.model.cached import begin, stepper
from prunelab.decode import State, StepFunction

# R rows (beams) of the picture, T tokens of a row so far, S visual tokens, D width

log = logging.getLogger(__name__)

EAGER_STEPS = 2
"""Steps at the beginning that are not compiled: their sizes of 0 and 1 would be compiled apart."""
_numbers = count()


class Prepared:
    """A captioner whose steps are compiled for a single picture; searches take it in the captioner's place.

    Batches, single beams, other devices than a processor and other types than float32 are decoded as ever,
    and so is all where compiling fails. When weights have changed, the next search compiles anew.
    """

    def __init__(self, model: ExpansionNet) -> None:
        self.model = model
        self._compiled_from: tuple[tuple[int, int], ...] = ()
        self._compiled: StepFunction | None = None

    def stepper(self) -> StepFunction:
        """The step function, for states of `expansionnet.model.cached.begin`; within inference mode alone."""
        plain, compiled = stepper(self.model), self._current()
        if compiled is None:
            return plain

        def step(tokens: Tensor, state: State) -> tuple[Tensor, State]:
            images, time = state.size[0], state.per_beam.shape[1]
            suits = images == 1 < len(tokens) and time >= EAGER_STEPS
            return compiled(tokens.contiguous(), state) if suits else plain(tokens, state)

        return step

    def _current(self) -> StepFunction | None:
        """What was compiled from the present weights."""
        weights = list(self.model.parameters())
        if not onednn.usable(weights[0]):
            return None
        versions = tuple((weight.data_ptr(), weight._version) for weight in weights)
        if versions != self._compiled_from:
            self._compiled, self._compiled_from = _compile(self.model), versions
        return self._compiled


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


def _compile(model: ExpansionNet) -> StepFunction | None:
    import torch._inductor.config as inductor

    plain = stepper(model)
    # What is compiled is kept by code: code of its own is not mistaken for that of other weights.
    code = plain.__code__.replace(co_name=f"step_{next(_numbers)}")
    own = FunctionType(code, plain.__globals__, code.co_name, None, plain.__closure__)
    compiled = torch.compile(own, dynamic=True)
    rows, visual, words = _free_sizes(model.cfg)
    state = begin(model, torch.zeros(1, visual, model.cfg.model_dim))
    tokens = torch.zeros(1, dtype=torch.int64)
    try:
        for _ in range(words):
            _, state = plain(tokens, state)
            state = state.expand(rows // len(tokens))
            tokens = torch.zeros(rows, dtype=torch.int64)
        # What lies between the products is too little for several threads.
        with inductor.patch({"freezing": True, "cpp.threads": 1}):
            compiled(tokens, state)
    except Exception as error:  # a compiler may fail in any way, and is not needed
        log.warning("captions are decoded without torch.compile, which failed: %s", str(error).split("\n")[0])
        return None
    return compiled
