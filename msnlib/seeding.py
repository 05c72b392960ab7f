"""Seeds: one call fixes a run, and a name turns a run's seed into a stream of its own."""

from __future__ import annotations

import hashlib
import operator
import os
import random
import warnings

import numpy as np
import torch


def seed_everything(seed: int, threads: int | None = None) -> None:
    """Fix every source of randomness: same seed and thread count, bit-equal results.

    Sums are taken in another order on another number of threads, so results across thread counts agree only
    to rounding. On a GPU this also selects PyTorch's deterministic kernels, and turns TensorFloat-32 off: float32 is
    float32 there too, not with the ten bits of fraction that convolutions would otherwise have.

    Args:
        seed: an integer from 0 to 2**64 - 1.
        threads: CPU threads torch may use; None leaves them as they are.

    Raises:
        ValueError: a seed out of range, or fewer than one thread.
    """
    seed = operator.index(seed)  # numpy's integers too
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed {seed} must be at least 0 and below 2**64")
    if threads is not None:
        if threads < 1:
            raise ValueError(f"threads {threads} must be at least 1")
        torch.set_num_threads(threads)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False
        with warnings.catch_warnings():  # some versions of torch advise newer names, whose use makes older ones fail
            warnings.simplefilter("ignore")
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def stream(*names: object, seed: int | None = None) -> torch.Generator:
    """A CPU generator of its own for each combination of names, from the run's seed.

    A task's initial values and batch order come from streams named after the task. So they do not depend on
    which other tasks there are: the arms of an experiment are paired, seed by seed.

    Args:
        names: what the stream is for, say ``"batches", "mnist"``.
        seed: None takes the seed last given to torch.
    """
    key = repr((torch.initial_seed() if seed is None else operator.index(seed), *names)).encode()
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key).digest()[:7], "big"))
