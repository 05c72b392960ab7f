"""In which precision a run trains: what is asked for, and what that is on this machine."""

from __future__ import annotations

import torch

PRECISIONS = ("auto", "float32", "bfloat16")


def choose_precision(asked: str, profile: str, device: torch.device, dtype: torch.dtype) -> str:
    """The precision of forward and backward in training.

    Args:
        asked: ``auto`` is bfloat16 in the profile ``paper`` where the device is fast at it, else that of the weights.
        profile: the run's.
        device: where it trains.
        dtype: of the weights.

    Returns:
        The name of a dtype.

    Raises:
        ValueError: ``asked`` is none of `PRECISIONS`, or weights of this dtype are not trained so.
    """
    if asked not in PRECISIONS:
        raise ValueError(f"precision is {asked!r}, but must be one of {', '.join(PRECISIONS)}")
    own = str(dtype).removeprefix("torch.")
    if asked != "auto" and dtype != torch.float32:
        raise ValueError(f"precision is {asked!r}, but must be auto where weights are {own}, as in profile {profile!r}")
    if asked == "auto":
        return "bfloat16" if profile == "paper" and dtype == torch.float32 and fast_bfloat16(device) else own
    return asked


def fast_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 itself: a GPU that does, or a CPU with AVX512-bf16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
