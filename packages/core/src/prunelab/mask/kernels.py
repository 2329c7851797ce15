"""The compiled inner loops of masks: drawing them, multiplying by them, passing gradients through them.

Imported at the first use, compiled once, cached. All work on flat arrays of N neighbouring elements of a
weight, in blocks that stay in the nearest cache; callers split the work into threads at borders of blocks.

The random number of an element depends on the draw's key and on the element's place in its weight alone,
never on the order of work or the number of threads: a counter (`first` + i) goes through the mixing function
of SplitMix64 (Steele, Lea and Flood 2014) with the key at its start and, scrambled, once more in its middle.
One result serves two elements, 32 bits each. Backward passes draw the same numbers again instead of reading
stored ones: that costs less than the memory would.

Arguments named alike mean the same in all functions:
weight (N,)      w                      logits (N,)     m
limit (N,)       of 2**32 numbers, so many prune an element (2**32 - 1 means all)
keep (N,)        bool, the mask in use  key             of one draw, 64 bits
first            place of the arrays' first element in its weight, an even number
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

BLOCK = 1024
"""Elements that are handled at a time."""

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31 = np.uint64(27), np.uint64(30), np.uint64(31)
_LAST = np.uint32(0xFFFFFFFF)

_ZERO, _HALF, _ONE = np.float32(0), np.float32(0.5), np.float32(1)
_NUMBERS = np.float32(2.0**32)
_LARGEST = np.float32(87)  # exp of more leaves the normal numbers
_LOG2_E = np.float32(1.4426950408889634)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
# exp(r) = 1 + r + r**2 * (...) for |r| <= ln(2) / 2, the coefficients of the Cephes library
_E0, _E1, _E2 = np.float32(1.9875691500e-4), np.float32(1.3981999507e-3), np.float32(8.3334519073e-3)
_E3, _E4, _E5 = np.float32(4.1665795894e-2), np.float32(1.6666665459e-1), np.float32(5.0000001201e-1)


def _compiled(function: Callable[..., Any]) -> Any:
    """Compile at the first call, keep the machine code on disk, and let other threads run meanwhile.

    A product and the sum that takes it in may become one instruction, which rounds once.
    """
    options: dict[str, Any] = {"nogil": True, "fastmath": {"contract"}, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # no folder to keep it in: a read-only installation and no home
        return njit(**options)(function)


@_compiled
def _mix(key, first, out):  # pragma: no cover - compiled
    """Fill ``out`` (BLOCK / 2,) uint64 with the random numbers of counters first, first + 1, ..."""
    middle = key * _MIX_2
    middle ^= middle >> _S31
    for i in range(len(out)):
        z = key + (first + np.uint64(i)) * _GAMMA
        z ^= z >> _S30
        z *= _MIX_1
        z ^= middle
        z ^= z >> _S27
        z *= _MIX_2
        out[i] = z ^ (z >> _S31)


@_compiled
def _exp(logits, bits, powers, out):  # pragma: no cover - compiled
    """Fill ``out`` with exp(-|m|); ``powers`` are the same bytes as ``bits``: 2**k by its exponent."""
    for i in range(len(logits)):
        x = -min(_LARGEST, abs(logits[i]))  # nan becomes 87
        k = np.floor(x * _LOG2_E + _HALF)
        r = (x - k * _LN2_HIGH) - k * _LN2_LOW
        p = ((((_E0 * r + _E1) * r + _E2) * r + _E3) * r + _E4) * r + _E5
        out[i] = p * r * r + r + _ONE
        bits[i] = (np.int32(k) + np.int32(127)) << np.int32(23)
    for i in range(len(logits)):
        out[i] *= powers[i]


@_compiled
def _limits(logits, small, limit):  # pragma: no cover - compiled
    """From exp(-|m|): the rarer of the two outcomes has all its bits, and none is left beyond 2**-32."""
    for i in range(len(logits)):
        rare = np.uint32(np.int64(small[i] / (_ONE + small[i]) * _NUMBERS))
        limit[i] = rare if logits[i] > _ZERO else _LAST - rare


@_compiled
def _compare(numbers, limit, keep):  # pragma: no cover - compiled
    for i in range(len(keep)):
        keep[i] = min(numbers[i], _LAST - np.uint32(1)) >= limit[i]


@_compiled
def _select(numbers, limit, weight, out):  # pragma: no cover - compiled
    for i in range(len(weight)):
        out[i] = weight[i] if min(numbers[i], _LAST - np.uint32(1)) >= limit[i] else _ZERO


@_compiled
def _add_kept(numbers, limit, grad, kept, total):  # pragma: no cover - compiled
    for i in range(len(grad)):
        g = grad[i]
        total[i] += g
        kept[i] += g if min(numbers[i], _LAST - np.uint32(1)) >= limit[i] else _ZERO


@_compiled
def limits(logits, limit):  # pragma: no cover - compiled
    """Fill ``limit`` (uint32) from logits, for any number of draws."""
    bits, small = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.float32)
    powers = bits.view(np.float32)
    for at in range(0, len(logits), BLOCK):
        part = logits[at : at + BLOCK]
        _exp(part, bits, powers, small)
        _limits(part, small, limit[at : at + BLOCK])


@_compiled
def draw(logits, key, first, keep):  # pragma: no cover - compiled
    """Fill ``keep`` with Bernoulli(sigmoid(m))."""
    bits, small = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.float32)
    powers, limit = bits.view(np.float32), np.empty(BLOCK, np.uint32)
    mixed = np.empty(BLOCK // 2, np.uint64)
    numbers = mixed.view(np.uint32)
    for at in range(0, len(logits), BLOCK):
        part = logits[at : at + BLOCK]
        _exp(part, bits, powers, small)
        _limits(part, small, limit)
        _mix(key, np.uint64((first + at) // 2), mixed)
        _compare(numbers, limit, keep[at : at + BLOCK])


@_compiled
def draw_product(weight, limit, key, first, out):  # pragma: no cover - compiled
    """Fill ``out`` with b * w for a new draw b."""
    mixed = np.empty(BLOCK // 2, np.uint64)
    numbers = mixed.view(np.uint32)
    for at in range(0, len(weight), BLOCK):
        end = at + BLOCK
        _mix(key, np.uint64((first + at) // 2), mixed)
        _select(numbers, limit[at:end], weight[at:end], out[at:end])


@_compiled
def draw_gradient(grad, limit, key, first, kept, total):  # pragma: no cover - compiled
    """Add b * g to ``kept`` and g to ``total``, for the draw b that the key made before."""
    mixed = np.empty(BLOCK // 2, np.uint64)
    numbers = mixed.view(np.uint32)
    for at in range(0, len(grad), BLOCK):
        end = at + BLOCK
        _mix(key, np.uint64((first + at) // 2), mixed)
        _add_kept(numbers, limit[at:end], grad[at:end], kept[at:end], total[at:end])


@_compiled
def product(weight, keep, out):  # pragma: no cover - compiled
    """Fill ``out`` with b * w."""
    for i in range(len(weight)):
        out[i] = weight[i] if keep[i] else _ZERO


@_compiled
def _both(grad, weight, small, keep, grad_weight, grad_logits):  # pragma: no cover - compiled
    for i in range(len(grad)):
        g, t = grad[i], small[i]
        grad_weight[i] = g if keep[i] else _ZERO
        grad_logits[i] = g * weight[i] * (t / ((_ONE + t) * (_ONE + t)))


@_compiled
def product_gradients(grad, weight, logits, keep, grad_weight, grad_logits):  # pragma: no cover - compiled
    """Fill both gradients of b * w: b * g, and g * w * s * (1 - s)."""
    bits, small = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.float32)
    powers = bits.view(np.float32)
    for at in range(0, len(grad), BLOCK):
        end = at + BLOCK
        _exp(logits[at:end], bits, powers, small)
        _both(
            grad[at:end], weight[at:end], small, keep[at:end], grad_weight[at:end], grad_logits[at:end]
        )  # fmt: skip


@_compiled
def _times_slope(factor, small, out):  # pragma: no cover - compiled
    for i in range(len(out)):
        t = small[i]
        out[i] *= factor[i] * (t / ((_ONE + t) * (_ONE + t)))


@_compiled
def times_slope(factor, logits, out):  # pragma: no cover - compiled
    """Multiply ``out`` in place by ``factor`` (N,) and by s * (1 - s)."""
    bits, small = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.float32)
    powers = bits.view(np.float32)
    for at in range(0, len(logits), BLOCK):
        end = at + BLOCK
        _exp(logits[at:end], bits, powers, small)
        _times_slope(factor[at:end], small, out[at:end])


@_compiled
def _slopes(each, small, out):  # pragma: no cover - compiled
    for i in range(len(out)):
        t = small[i]
        out[i] = each * (t / ((_ONE + t) * (_ONE + t)))


@_compiled
def slopes(each, logits, out):  # pragma: no cover - compiled
    """Fill ``out`` with ``each`` * s * (1 - s)."""
    bits, small = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.float32)
    powers = bits.view(np.float32)
    for at in range(0, len(logits), BLOCK):
        end = at + BLOCK
        _exp(logits[at:end], bits, powers, small)
        _slopes(each, small, out[at:end])
