"""The original's module of ConfigDicts, under its file name: the functions of `apt_vit.configs`."""

from apt_vit.configs import (
    get_b16_config,
    get_b32_config,
    get_h14_config,
    get_l16_config,
    get_l32_config,
    get_r50_b16_config,
    get_testing,
)

__all__ = [
    "get_b16_config",
    "get_b32_config",
    "get_h14_config",
    "get_l16_config",
    "get_l32_config",
    "get_r50_b16_config",
    "get_testing",
]
