"""Matrix products that leave out the zeros: with the owned weights alone, forward and backward, on a CPU."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

# Not torch.sparse_csr_tensor, which checks its parts in every call and which torch.load cannot trace again.
CSR = torch.ops.aten._sparse_csr_tensor_unsafe.default
# Sparse rows times a dense matrix by torch's own kernel. That of MKL, behind @ and addmm, is several times as fast
# with few columns; with MANY or more it takes up to half as long again.
OWN_MM = torch.ops.aten._sparse_mm.reduce
MANY = 128

# Which product a layer takes when nobody says: one table for everyone, over the matrix, the task's own density and the
# examples, so that a task's numbers depend neither on a clock nor on its neighbours. Measured on two cores with MKL,
# forward and backward, for random and for gradient masks alike (notebook 80, "Which product").
SMALLEST = 62_500  # entries of a matrix (250 x 250): below, putting the dense one together costs next to nothing
FEW_EXAMPLES, MANY_EXAMPLES = 0.25, 0.175  # densities up to which leaving out the zeros pays, below MANY and from it on


class Pattern(nn.Module):
    """Where the k kept entries of an (m, n) matrix stand, compressed by row and by column: about 8 bytes an entry.

    Attributes:
        rows: (m + 1,) int32: where each row begins among the entries.
        column: (k,) int16, or int32 where m or n does not fit: the column of every entry.
        columns: (n + 1,) int32: where each column begins among the entries in column order.
        row: (k,) like ``column``: in column order, the row of every entry.
        order: (k,) int32: the entries in column order.
    """

    rows: Tensor
    column: Tensor
    columns: Tensor
    row: Tensor
    order: Tensor

    def __init__(self, positions: Tensor, shape: tuple[int, int]):
        """The pattern of these flat positions, (k,) int64, ascending."""
        super().__init__()
        self.shape = tuple(shape)
        row, column = positions // shape[1], positions % shape[1]
        order = torch.argsort(column, stable=True)
        small = torch.int16 if max(shape) <= torch.iinfo(torch.int16).max else torch.int32
        for name, index in {
            "rows": _begins(row, shape[0]),
            "column": column.to(small),
            "columns": _begins(column, shape[1]),
            "row": row[order].to(small),
            "order": order.int(),
        }.items():
            self.register_buffer(name, index, persistent=False)

    def positions(self) -> Tensor:
        """The flat positions, (k,) int64, ascending."""
        row = torch.arange(self.shape[0], device=self.rows.device)
        row = row.repeat_interleave(self.rows.diff(), output_size=len(self.column))
        return row * self.shape[1] + self.column

    def matrix(self, values: Tensor) -> Tensor:
        """The (m, n) matrix of these values, (k,), as sparse rows; they are not copied."""
        return _csr(self.rows, self.column, values, self.shape)

    def transposed(self, values: Tensor) -> Tensor:
        """Its transpose, (n, m), as sparse rows."""
        return _csr(self.columns, self.row, values.index_select(0, self.order), self.shape[::-1])


def _begins(index: Tensor, size: int) -> Tensor:
    return nn.functional.pad(torch.bincount(index, minlength=size).cumsum(0), (1, 0)).int()


def _csr(begins: Tensor, at: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    # Indices of 4 bytes halve what a product has to read, compared with those of 8; MKL takes none of 2.
    return CSR(begins, at.int(), values, shape, dtype=values.dtype, layout=torch.sparse_csr)


def pays(kept: int, numel: int, examples: int) -> bool:
    """Whether leaving out the zeros of a matrix of ``numel`` entries is faster, by the table above."""
    return numel >= SMALLEST and kept <= (FEW_EXAMPLES if examples < MANY else MANY_EXAMPLES) * numel


def available(input: Tensor, values: Tensor) -> bool:
    """Whether torch has these products for such tensors: on a CPU with MKL, in one precision, as they are."""
    return (
        not torch.compiler.is_compiling()
        and input.device.type == "cpu"
        and input.dtype == values.dtype
        and input.dtype in (torch.float32, torch.float64)
        and torch.backends.mkl.is_available()
        and not torch.is_autocast_enabled("cpu")
    )


def sparse_linear(input: Tensor, values: Tensor, pattern: Pattern, bias: Tensor | None = None) -> Tensor:
    """``torch.nn.functional.linear`` with the (m, n) weight of these values: (\\*, n) -> (\\*, m).

    Forward and both gradients multiply kept entries only. Differentiable once; RuntimeError beyond.
    """
    m, n = pattern.shape
    # torch is fast at sparse times dense alone, so examples stand in columns; between two such layers no copy is made.
    output = _Product.apply(input.reshape(-1, n).t().contiguous(), values, bias, pattern).t()
    return output if input.dim() == 2 else output.contiguous().view(*input.shape[:-1], m)


def _times(weight: Tensor, dense: Tensor, bias: Tensor | None = None) -> Tensor:
    """Sparse rows times dense columns, plus a bias, by the kernel that is faster for so many."""
    if dense.shape[1] < MANY:
        return weight @ dense if bias is None else torch.addmm(bias[:, None], weight, dense)
    product = OWN_MM(weight, dense, "sum")
    return product if bias is None else product.add_(bias[:, None])


def once(advice: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Refuse derivatives of a backward, which would be silently 0: ``once_differentiable`` sees only some of them."""

    def guarded(backward: Callable[..., Any]) -> Callable[..., Any]:
        inner = torch.autograd.function.once_differentiable(backward)

        @wraps(backward)
        def outer(ctx: Any, *grads: Tensor) -> Any:
            if torch.is_grad_enabled():
                raise RuntimeError(f"second derivatives: {advice}")
            return inner(ctx, *grads)

        return outer

    return guarded


class _Product(torch.autograd.Function):
    """Weight times inputs, (n, N) -> (m, N)."""

    @staticmethod
    def forward(ctx, input: Tensor, values: Tensor, bias: Tensor | None, pattern: Pattern) -> Tensor:
        ctx.save_for_backward(input, values)
        ctx.pattern = pattern
        return _times(pattern.matrix(values), input, bias)

    @staticmethod
    @once("a product without zeros has first ones only; sparse_products(net, 0) puts the zeros back")
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, values = ctx.saved_tensors
        pattern, grad = ctx.pattern, grad.contiguous()
        of_input = of_values = of_bias = None
        if ctx.needs_input_grad[0]:
            of_input = _times(pattern.transposed(values), grad)
        if ctx.needs_input_grad[1]:  # at the kept entries alone
            of_values = torch.zeros_like(values)
            weight = pattern.matrix(of_values)
            torch.sparse.sampled_addmm(weight, grad, input.t(), beta=0.0, out=weight)
        if ctx.needs_input_grad[2]:
            of_bias = grad.sum(1)
        return of_input, of_values, of_bias, None


with warnings.catch_warnings():  # torch says once a process that sparse rows are in beta
    warnings.filterwarnings("ignore", "Sparse CSR tensor support", UserWarning)
    _csr(torch.zeros(2, dtype=torch.int32), torch.zeros(0, dtype=torch.int32), torch.zeros(0), (1, 1))
