"""msnlib: several tasks in one network, each in its own disjoint subnetwork.

Reproduces and extends Renn, Sotnek, Harvey, Caffo (2022), The Multiple Subnetwork Hypothesis, arXiv 2207.08821.
"""

from importlib import import_module

__version__ = "0.1.0"

# Imported when first used: the command line should not wait seconds for torch to print its help.
_HOME = {
    "allocation": ("CapacityError", "DeadOutputWarning", "OverlapWarning", "allocate", "prune"),
    "conversion": ("convert",),
    "data": ("datasets", "load_task"),
    "export": ("export_onnx", "extract"),
    "layers": (
        *("FrozenTaskError", "MaskedConv2d", "MaskedLinear", "PerTask"),
        *("owner_map", "release", "sparse_products", "task_parameters", "tasks", "using"),
    ),
    "networks": ("MultitaskNetwork", "conv_network", "dense_network"),
    "readers": ("DataError",),
    "seeding": ("seed_everything",),
    "storage": ("inspect", "load", "save"),
    "task": ("Task",),
    "training": ("AUTHORS", "CONVERGED", "Stopping", "evaluate", "fit", "fit_sequence", "predict"),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(_MODULE)


def __getattr__(name: str) -> object:
    if name not in _MODULE:
        raise AttributeError(f"module 'msnlib' has no attribute {name!r}")
    value = getattr(import_module(f"msnlib.{_MODULE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
