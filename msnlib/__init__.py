"""msnlib: several tasks in one network, each in its own disjoint subnetwork.

Reproduces and extends Renn, Sotnek, Harvey, Caffo (2022), The Multiple Subnetwork Hypothesis, arXiv 2207.08821.
"""

from msnlib.allocation import CapacityError, DeadOutputWarning, OverlapWarning, allocate, prune
from msnlib.data import DataError, datasets, load_task
from msnlib.layers import (
    FrozenTaskError,
    MaskedConv2d,
    MaskedLinear,
    PerTask,
    owner_map,
    release,
    task_parameters,
    tasks,
    using,
)
from msnlib.networks import MultitaskNetwork, dense_network
from msnlib.seeding import seed_everything
from msnlib.storage import extract, load, save
from msnlib.tasks import Task
from msnlib.training import (
    AUTHORS,
    CONVERGED,
    Stopping,
    evaluate,
    fit,
    fit_sequence,
    predict,
)

__version__ = "0.1.0"

__all__ = [
    "AUTHORS",
    "CONVERGED",
    "CapacityError",
    "DataError",
    "DeadOutputWarning",
    "FrozenTaskError",
    "MaskedConv2d",
    "MaskedLinear",
    "MultitaskNetwork",
    "OverlapWarning",
    "PerTask",
    "Stopping",
    "Task",
    "allocate",
    "datasets",
    "dense_network",
    "evaluate",
    "extract",
    "fit",
    "fit_sequence",
    "load",
    "load_task",
    "owner_map",
    "predict",
    "prune",
    "release",
    "save",
    "seed_everything",
    "task_parameters",
    "tasks",
    "using",
]
