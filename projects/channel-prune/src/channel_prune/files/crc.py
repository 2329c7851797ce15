"""CRC-32C, the check sum of TensorFlow's and LevelDB's files; compiled, so imported where it is needed."""

from __future__ import annotations

import numpy as np
from numba import njit

_POLYNOMIAL = 0x82F63B78
_MASK = 0xA282EAD8


@njit(cache=True)
def _crc(data: np.ndarray) -> np.uint32:
    table = np.empty(256, np.uint32)
    for byte in range(256):
        value = np.uint32(byte)
        for _ in range(8):
            value = np.uint32(value >> 1) ^ (np.uint32(_POLYNOMIAL) if value & 1 else np.uint32(0))
        table[byte] = value
    crc = np.uint32(0xFFFFFFFF)
    for byte in data:
        crc = np.uint32(table[(crc ^ byte) & 0xFF] ^ np.uint32(crc >> 8))
    return np.uint32(crc ^ np.uint32(0xFFFFFFFF))


def crc32c(data: bytes | memoryview) -> int:
    """The check sum of some bytes."""
    return int(_crc(np.frombuffer(data, np.uint8)))


def masked_crc32c(data: bytes | memoryview) -> int:
    """The check sum as those files store it: turned and shifted, so that it is not one of check sums."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF
