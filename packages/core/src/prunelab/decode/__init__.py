"""Turning a captioner into captions: greedy, sampling, beam search, diverse beams, ensembles.

Everything works on one step function ``(tokens, state) -> (log_probs, state)``, see
`prunelab.decode.protocol`.

```python
from prunelab.decode import DecodeOptions, decode

found = decode(model.step, model.begin(features), DecodeOptions(beam_size=5, max_length=18, eos=3, bos=2))
best = found.tokens[:, 0]  # (B, L)
```
"""

from prunelab.decode.beam import beam_search
from prunelab.decode.ensemble import ensemble
from prunelab.decode.options import DecodeOptions, LengthPenalty
from prunelab.decode.protocol import Decoded, State, StepFunction
from prunelab.decode.sample import Draw, greedy, multinomial_draw, sample
from prunelab.decode.search import decode
from prunelab.decode.stochastic import stochastic_beam_search
from prunelab.decode.topk import top_candidates

__all__ = [
    "DecodeOptions",
    "Decoded",
    "Draw",
    "LengthPenalty",
    "State",
    "StepFunction",
    "beam_search",
    "decode",
    "ensemble",
    "greedy",
    "multinomial_draw",
    "sample",
    "stochastic_beam_search",
    "top_candidates",
]
