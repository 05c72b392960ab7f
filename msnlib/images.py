"""Images in bfloat16 on a CPU: convolutions a few images at a time, in one memory layout up to the first linear layer.

Mixed precision itself is ``torch.autocast``. What is here takes out what then costs as much as the products: maxima of
stride 1 in torch's kernel, activations that leave the caches, copies between layouts. Gradients are the same up to
rounding, except that of a maximum which two neighbours share (torch gives it to the first, here the last has it).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from msnlib.layers import MaskedConv2d, MaskedLinear
from msnlib.products import once

PART = 64  # images whose activations stay in a cache: measured, as notebook 80 shows; 32 to 128 differ by 5 %
_BEFORE = (MaskedConv2d, nn.ReLU, nn.MaxPool2d)  # what looks at each image alone


def available(trunk: nn.Module, x: Tensor) -> bool:
    """Whether :func:`images` can compute the trunk: under autocast to bfloat16 on a CPU, and of layers it knows."""
    if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
        return False
    kinds = [type(layer) for layer in trunk] if type(trunk) is nn.Sequential else []
    at = kinds.index(nn.Flatten) if nn.Flatten in kinds else len(kinds)
    fits = set(kinds[:at]) <= set(_BEFORE) and kinds[at + 1 : at + 2] == [MaskedLinear]
    fits = fits and not any(_has_more(module) for module in (trunk, *trunk))
    return fits and torch.get_autocast_dtype("cpu") == torch.bfloat16 and trunk[at].start_dim == 1


def _has_more(module: nn.Module) -> bool:
    """Whether calling the module does more than its class: it has hooks or a forward of its own."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def images(trunk: nn.Sequential, x: Tensor) -> Tensor:
    """What the trunk gives for a batch of images in channels-last layout, (N, C, H, W) -> (N, features)."""
    layers = list(trunk)
    at = next(i for i, layer in enumerate(layers) if isinstance(layer, nn.Flatten))
    x = _linear(layers[at + 1], torch.cat([_convolved(layers[:at], part) for part in x.split(PART)]))
    for layer in layers[at + 2 :]:
        x = layer(x)
    return x


def _convolved(layers: list[nn.Module], x: Tensor) -> Tensor:
    for layer in layers:
        pairs = isinstance(layer, nn.MaxPool2d) and x.requires_grad and _is_of_pairs(layer)
        x = _Maxima.apply(x) if pairs else layer(x)
    return x


def _is_of_pairs(pool: nn.MaxPool2d) -> bool:
    plain = not pool.padding and pool.dilation == 1 and not pool.ceil_mode and not pool.return_indices
    return plain and pool.kernel_size == 2 and pool.stride == 1


def _linear(layer: MaskedLinear, x: Tensor) -> Tensor:
    """The layer on flattened images; the weight is turned to their layout, which has fewer entries than they have."""
    weight = layer.weight().to(torch.bfloat16).view(-1, *x.shape[1:]).permute(0, 2, 3, 1)
    bias = None if layer.bias is None else layer.bias()
    return nn.functional.linear(x.permute(0, 2, 3, 1).flatten(1), weight.flatten(1), bias)


class _Maxima(torch.autograd.Function):
    """2 x 2 maxima of stride 1, as maxima of neighbours in a column and then in a row."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        lead = []
        for axis in (2, 3):
            one, other = x.narrow(axis, 0, x.shape[axis] - 1), x.narrow(axis, 1, x.shape[axis] - 1)
            lead.append(one - other)
            x = torch.maximum(one, other)
        ctx.save_for_backward(*lead)
        return x

    @staticmethod
    @once("maxima of stride 1 in bfloat16 have first ones only; leave torch.autocast")
    def backward(ctx, grad: Tensor) -> Tensor:
        for axis, lead in zip((3, 2), reversed(ctx.saved_tensors), strict=True):
            one = torch.ops.aten.threshold_backward(grad, lead, 0)  # where the first is larger
            other = grad - one
            size, shape = grad.shape[axis], [length + (k == axis) for k, length in enumerate(grad.shape)]
            grad = torch.empty(shape, dtype=grad.dtype, memory_format=torch.channels_last)
            grad.narrow(axis, 0, 1).copy_(one.narrow(axis, 0, 1))
            between = one.narrow(axis, 1, size - 1), other.narrow(axis, 0, size - 1)
            torch.add(*between, out=grad.narrow(axis, 1, size - 1))
            grad.narrow(axis, size, 1).copy_(other.narrow(axis, size - 1, 1))
        return grad
