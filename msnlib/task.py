"""A task: its data, its loss, its metrics. Everything an experiment knows about one problem."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from numbers import Integral

import torch
import torch.nn.functional as F
from torch import Tensor

KINDS = ("classification", "binary", "regression")
SPLITS = ("train", "valid", "test")
Split = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Task:
    """One problem, split into training, validation and test parts; checked where it is made.

    Attributes:
        name: what the task is called everywhere, in code and in figures.
        kind: ``"classification"``, ``"binary"`` or ``"regression"``; it fixes the loss and the metrics.
        train, valid, test: pairs ``(x, y)``. x has shape (N, \\*inputs), all parts alike. y has shape (N,) and dtype
            int64 for classification, shape (N, outputs) and x's floating dtype otherwise; other dtypes of the same
            meaning are converted, and so is (N,) where there is one output. Only the training part must have examples;
            what needs another part refuses an empty one.
        outputs: number of network outputs: the classes; 1 for a binary task or a regression, or the targets of one
            example.
        batch_size: examples a training step, as published for this data.
        vocabulary: number of words when x holds word indices (int64), else None.
        description: one line for a table: what it is and where it came from.
        test_rows: which rows of the dataset the test part holds, in its order, where it was drawn anew; None where it
            is the dataset's own.
        labels: names of the classes, for figures; empty where they are numbers.

    Raises:
        ValueError: unknown kind, or parts that are none of such a task, by the name of task and part.
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
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._require(isinstance(self.name, str) and self.name, "its name must be a string that is not empty")
        self._require(self.kind in KINDS, f"kind {self.kind!r} is not one of {', '.join(KINDS)}")
        for what in ("outputs", "batch_size", *(("vocabulary",) if self.vocabulary is not None else ())):
            self._require(is_count(getattr(self, what)), f"{what} {getattr(self, what)!r} must be at least 1")
            object.__setattr__(self, what, int(getattr(self, what)))  # of numpy's, which no file could hold
        enough = self.kind != "classification" or self.outputs > 1
        self._require(enough, "one output tells no classes apart: give at least 2, or kind 'binary'")
        named = len(self.labels)
        self._require(named in (0, self.outputs), f"labels names {named} classes of {self.outputs}: give all, or ()")
        for part in SPLITS:
            pair = getattr(self, part)
            if not (isinstance(pair, tuple | list) and len(pair) == 2 and all(isinstance(t, Tensor) for t in pair)):
                self._refuse(f"{part} must be a pair (x, y) of tensors, not {_kinds(pair)}")
            x = self._checked_x(part, pair[0].detach())
            object.__setattr__(self, part, (x, self._checked_y(part, x, pair[1].detach())))
        self._require(len(self.train[0]), "no examples in its train part")
        for part in SPLITS[1:]:
            x, first = getattr(self, part)[0], self.train[0]
            self._require(
                x.shape[1:] == first.shape[1:],
                f"examples of {part} have shape {tuple(x.shape[1:])}, those of train {tuple(first.shape[1:])}",
            )
            self._require(x.dtype == first.dtype, f"x of {part} is {_type(x)}, that of train {_type(first)}")

    def _checked_x(self, part: str, x: Tensor) -> Tensor:
        """Inputs of one part as they are meant."""
        self._require(x.dim() > 1, f"x of {part} has shape {tuple(x.shape)}, meant is (N, inputs): try x[:, None]")
        if self.vocabulary is None:
            self._require(
                x.is_floating_point(),
                f"x of {part} is {_type(x)}, meant is a floating dtype: try x.float()"
                " (or say vocabulary= if these are word indices)",
            )
            self._require(_finite(x), f"x of {part} holds NaN or infinite values")
            return x
        self._require(_whole(x), f"x of {part} is {_type(x)}, but word indices are int64")
        self._in_range(x, f"word indices in x of {part}", self.vocabulary)
        return x.long()

    def _checked_y(self, part: str, x: Tensor, y: Tensor) -> Tensor:
        """Targets of one part as they are meant."""
        self._require(
            y.dim() and len(x) == len(y),
            f"{part} has {len(x)} examples x and {len(y) if y.dim() else 'no axis of'} targets y",
        )
        self._require(x.device == y.device, f"x of {part} is on {x.device}, y on {y.device}")
        found = f"y of {part} has shape {tuple(y.shape)}"
        if self.kind == "classification":
            hint = ": try y.argmax(1)" if tuple(y.shape[1:]) == (self.outputs,) else ": try y.flatten()"
            self._require(y.dim() == 1, f"{found}, meant is (N,), a label for each example{hint if y.numel() else ''}")
            self._require(_whole(y), f"y of {part} is {_type(y)}, but labels are int64")
            self._in_range(y, f"labels in y of {part}", self.outputs)
            return y.long()
        if y.dim() == 1 and self.outputs == 1:
            y = y[:, None]
        meant = f"meant is (N, {self.outputs})"
        self._require(tuple(y.shape[1:]) == (self.outputs,), f"{found}, {meant}")
        self._require(not y.is_complex(), f"y of {part} is {_type(y)}")
        self._require(_finite(y), f"y of {part} holds NaN or infinite values")
        if self.kind == "binary" and not bool(((y == 0) | (y == 1)).all()):
            self._refuse(f"labels in y of {part} go from {y.min().item():g} to {y.max().item():g}, meant are 0 and 1")
        meant = x.dtype if x.is_floating_point() else torch.get_default_dtype()
        self._require(_finite(y.to(meant)), f"y of {part} does not fit into {meant}, the dtype of x")
        return y.to(meant)

    def _in_range(self, values: Tensor, what: str, count: int) -> None:
        low, high = (int(v) for v in values.aminmax()) if values.numel() else (0, 0)
        self._require(0 <= low and high < count, f"{what} go from {low} to {high}, meant are 0 to {count - 1}")

    def _require(self, holds: object, message: str) -> None:
        if not holds:
            self._refuse(message)

    def _refuse(self, message: str) -> None:
        raise ValueError(f"task {self.name!r}: {message}")

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

        Shape: prediction (N, outputs), for classification with more columns where a head serves several tasks; target
        as in the attributes; result ().

        Raises:
            ValueError: a prediction of another shape.
        """
        self._check_prediction(prediction, target)
        if self.kind == "classification":
            return F.cross_entropy(prediction, target)
        if self.kind == "binary":
            return F.binary_cross_entropy_with_logits(prediction, target)
        return F.mse_loss(prediction, target)

    def score(self, prediction: Tensor, target: Tensor) -> float:
        """The task's :attr:`metric` over all given examples; shapes and errors as for :meth:`loss`."""
        self._check_prediction(prediction, target)
        if self.kind == "regression":
            return F.mse_loss(prediction, target).item()
        return 100.0 * self.outcomes(prediction, target).double().mean().item()

    def outcomes(self, prediction: Tensor, target: Tensor) -> Tensor:
        """What the :attr:`metric` is the mean of: whether each example is right, or its squared error.

        Shape: (N,), bool or floating.
        """
        self._check_prediction(prediction, target)
        if self.kind == "regression":
            return (prediction - target).square().flatten(1).mean(1)
        label = prediction.argmax(1) if self.kind == "classification" else (prediction > 0).to(target.dtype)
        return (label == target).reshape(len(target), -1).all(1)

    def _check_prediction(self, prediction: Tensor, target: Tensor) -> None:
        shape = prediction.shape
        if self.kind == "classification":
            fits = len(shape) == 2 and shape[0] == len(target) and shape[1] >= self.outputs
        else:
            fits = shape == target.shape
        if not fits:
            meant = f"({len(target)}, {self.outputs})"
            self._refuse(f"the network gives outputs of shape {tuple(shape)}, meant is {meant}")

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
        """Batches (x, y) of the first ``limit`` examples: in order, or shuffled when a CPU generator is given.

        Raises:
            ValueError: unknown or empty split, a limit or batch size below 1; with the first batch.
        """
        x, y = self.split(split)
        self._require(len(x), f"no examples in its {split} part")
        self._require(limit is None or is_count(limit), f"limit {limit!r} must be at least 1")
        self._require(batch_size is None or is_count(batch_size), f"batch_size {batch_size!r} must be at least 1")
        n = len(x) if limit is None else min(limit, len(x))
        size = batch_size or self.batch_size
        order = None if generator is None else torch.randperm(n, generator=generator).to(x.device)
        for start in range(0, n, size):
            part = slice(start, min(start + size, n)) if order is None else order[start : start + size]
            yield x[part], y[part]

    def to(self, device: torch.device | str) -> Task:
        """The same task with its tensors on a device."""
        moved = copy.copy(self)  # not replace(), which checks all that is known to be right anew
        for s in SPLITS:
            object.__setattr__(moved, s, tuple(t.to(device) for t in self.split(s)))
        return moved

    def map_inputs(self, function: Callable[[Tensor], Tensor], name: str | None = None) -> Task:
        """The task with the inputs of every split put through a function, (N, \\*inputs) -> (N, \\*inputs')."""
        mapped = {s: (function(x), y) for s in SPLITS for x, y in [self.split(s)]}
        return replace(self, name=name or self.name, **mapped)

    def classes(self, keep: Sequence[int], name: str) -> Task:
        """The part of a classification task with these labels, which become 0, 1, ... in the order given (E6).

        Raises:
            ValueError: another kind of task, labels that are repeated or out of range, or that no example has.
        """
        keep = [int(label) for label in keep]
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
        labels = tuple(self.labels[label] for label in keep) if self.labels else ()
        return replace(self, name=name, outputs=len(keep), labels=labels, **chosen)


def is_count(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= 1


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _whole(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def _finite(tensor: Tensor) -> bool:
    """Whether all values are finite; the sum alone tells in most cases, in one pass and without a copy."""
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def _kinds(pair: object) -> str:
    items = f" of {', '.join(type(item).__name__ for item in pair)}" if isinstance(pair, tuple | list) else ""
    return f"a {type(pair).__name__}{items}"
