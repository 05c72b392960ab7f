"""A task: its data, its loss, its metrics. Everything an experiment knows about one problem."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

KINDS = ("classification", "binary", "regression")
SPLITS = ("train", "valid", "test")
Split = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Task:
    """One problem, split into training, validation and test parts.

    Attributes:
        name: what the task is called everywhere, in code and in figures.
        kind: ``"classification"``, ``"binary"`` or ``"regression"``; it fixes the loss and the metrics.
        train, valid, test: pairs ``(x, y)``. x has shape (N, \\*inputs). y has shape (N,) and dtype int64 for
            classification, shape (N, 1) and a floating dtype otherwise.
        outputs: number of network outputs: the classes, or 1.
        batch_size: examples a training step, as published for this data.
        vocabulary: number of words when x holds word indices (int64), else None.
        description: one line for a table: what it is and where it came from.
        test_rows: which rows of the dataset the test part holds, in its order, where it was drawn anew; None where it
            is the dataset's own.

    Raises:
        ValueError: unknown kind.
    """

    name: str
    kind: str
    train: Split
    valid: Split
    test: Split
    outputs: int
    batch_size: int = 512
    vocabulary: int | None = None
    description: str = ""
    test_rows: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"task {self.name!r}: kind {self.kind!r} is not one of {', '.join(KINDS)}")

    @property
    def inputs(self) -> tuple[int, ...]:
        """Shape of one example."""
        return tuple(self.train[0].shape[1:])

    @property
    def metric(self) -> str:
        """The metric that the task is reported by: accuracy in % (higher is better) or mse (lower is better)."""
        return "mse" if self.kind == "regression" else "accuracy"

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Mean loss of a batch: cross-entropy on logits, or squared error.

        Shape: prediction (N, outputs); target as in the attributes; result ().
        """
        if self.kind == "classification":
            return F.cross_entropy(prediction, target)
        if self.kind == "binary":
            return F.binary_cross_entropy_with_logits(prediction, target)
        return F.mse_loss(prediction, target)

    def score(self, prediction: Tensor, target: Tensor) -> float:
        """The task's :attr:`metric` over all given examples."""
        if self.kind == "regression":
            return F.mse_loss(prediction, target).item()
        return 100.0 * self.outcomes(prediction, target).double().mean().item()

    def outcomes(self, prediction: Tensor, target: Tensor) -> Tensor:
        """What the :attr:`metric` is the mean of: whether each example is right, or its squared error.

        Shape: (N,), bool or floating.
        """
        if self.kind == "regression":
            return (prediction - target).square().flatten(1).mean(1)
        label = prediction.argmax(1) if self.kind == "classification" else (prediction > 0).to(target.dtype)
        return (label == target).reshape(len(target), -1).all(1)

    def split(self, name: str) -> Split:
        """The pair (x, y) of one split.

        Raises:
            ValueError: unknown split.
        """
        if name not in SPLITS:
            raise ValueError(f"split {name!r} is not one of {', '.join(SPLITS)}")
        return getattr(self, name)

    def batches(
        self,
        split: str = "train",
        batch_size: int | None = None,
        limit: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Iterator[Split]:
        """Batches (x, y) of the first ``limit`` examples: in order, or shuffled when a CPU generator is given."""
        x, y = self.split(split)
        n = len(x) if limit is None else min(limit, len(x))
        size = batch_size or self.batch_size
        order = None if generator is None else torch.randperm(n, generator=generator).to(x.device)
        for start in range(0, n, size):
            part = slice(start, min(start + size, n)) if order is None else order[start : start + size]
            yield x[part], y[part]

    def to(self, device: torch.device | str) -> Task:
        """The same task with its tensors on a device."""
        moved = {s: tuple(t.to(device) for t in self.split(s)) for s in SPLITS}
        return replace(self, **moved)

    def map_inputs(self, function: Callable[[Tensor], Tensor], name: str | None = None) -> Task:
        """The task with the inputs of every split put through a function, (N, \\*inputs) -> (N, \\*inputs')."""
        mapped = {s: (function(x), y) for s in SPLITS for x, y in [self.split(s)]}
        return replace(self, name=name or self.name, **mapped)

    def classes(self, keep: Sequence[int], name: str) -> Task:
        """The part of a classification task with these labels, which become 0, 1, ... in the order given (E6).

        Raises:
            ValueError: another kind of task, or labels that are repeated or out of range.
        """
        if self.kind != "classification" or len(set(keep)) != len(keep) or not set(keep) <= set(range(self.outputs)):
            raise ValueError(f"task {self.name!r}: {list(keep)} are no distinct labels of {self.outputs} classes")
        chosen = {}
        for s in SPLITS:
            x, y = self.split(s)
            same = y[:, None] == torch.tensor(keep, device=y.device)
            rows = same.any(1)
            chosen[s] = (x[rows], same[rows].to(torch.int64).argmax(1))
        if self.test_rows is not None:
            chosen["test_rows"] = tuple(torch.tensor(self.test_rows)[rows.cpu()].tolist())  # the test part comes last
        return replace(self, name=name, outputs=len(keep), **chosen)
