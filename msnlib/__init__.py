"""msnlib: several tasks in one network, each in its own disjoint subnetwork.

Reproduces and extends Renn, Sotnek, Harvey, Caffo (2022), The Multiple Subnetwork Hypothesis, arXiv 2207.08821.
"""

import lazy_loader

__version__ = "0.2.0"

# Imported when first used: the command line should not wait seconds for torch to print its help.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "allocation": ["DeadOutputWarning", "OverlapWarning", "allocate", "prune"],
        "data.readers": ["DataError"],
        "data.registry": ["datasets", "load_task"],
        "exchange.conversion": ["convert"],
        "exchange.export": ["export_onnx", "extract"],
        "exchange.storage": ["inspect", "load", "save"],
        "isolation": ["SharedParameterWarning"],
        "layers": ["MaskedConv2d", "MaskedLinear"],
        "learner": ["Learner", "Schedule"],
        "measuring": ["evaluate", "predict", "scores"],
        "networks": ["MultitaskNetwork", "conv_network", "dense_network"],
        "selection": ["RULES", "CapacityError", "Kept", "Offer", "Rule", "entries", "erk", "top"],
        "seeding": ["seed_everything", "stream"],
        "subnetworks": [
            *("FrozenTaskError", "owner_map", "release", "set_values", "shared_tensors"),
            *("sparse_products", "task_parameters", "tasks", "using"),
        ],
        "switches": ["PerTask"],
        "task": ["Task"],
        "training": ["AUTHORS", "CONVERGED", "Stopping", "fit", "fit_sequence"],
    },
)
