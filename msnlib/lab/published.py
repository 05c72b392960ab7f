"""What the paper's authors got.

"Published" means from the output files the authors released (github AISquaredInc/MultitaskNetworkExperiments), not from
the paper's printed tables: accuracies (in %) are recomputed from the confusion matrices, squared errors (on min-max
scaled prices) are printed there. Each figure is one run, without a seed.
"""

import pandas as pd

_COLUMNS = ("id", "experiment", "task", "arm", "metric", "value")
_ROWS = (
    ("E1", "BothMNISTfc", "mnist", "dedicated", "accuracy", 97.24),
    ("E1", "BothMNISTfc", "fashion", "dedicated", "accuracy", 88.11),
    ("E1", "BothMNISTfc", "mnist", "multitask", "accuracy", 97.58),
    ("E1", "BothMNISTfc", "fashion", "multitask", "accuracy", 87.09),
    ("E2", "BothMNISTconv", "mnist", "dedicated", "accuracy", 98.74),
    ("E2", "BothMNISTconv", "fashion", "dedicated", "accuracy", 91.59),
    ("E2", "BothMNISTconv", "mnist", "multitask", "accuracy", 98.84),
    ("E2", "BothMNISTconv", "fashion", "multitask", "accuracy", 90.26),
    ("E3", "BothMNISTBostonfc", "boston", "dedicated", "mse", 0.01750),
    ("E3", "BothMNISTBostonfc", "mnist", "multitask", "accuracy", 97.46),
    ("E3", "BothMNISTBostonfc", "fashion", "multitask", "accuracy", 87.04),
    ("E3", "BothMNISTBostonfc", "boston", "multitask", "mse", 0.01602),
    ("E4", "BothMNISTBostonIMDB", "imdb", "dedicated", "accuracy", 79.66),
    ("E4", "BothMNISTBostonIMDB", "mnist", "multitask", "accuracy", 96.92),
    ("E4", "BothMNISTBostonIMDB", "fashion", "multitask", "accuracy", 86.74),
    ("E4", "BothMNISTBostonIMDB", "boston", "multitask", "mse", 0.01103),
    ("E4", "BothMNISTBostonIMDB", "imdb", "multitask", "accuracy", 81.89),
    ("E5", "CIFARBothMNISTconv", "cifar10", "dedicated", "accuracy", 47.12),
    ("E5", "CIFARBothMNISTconv", "cifar10", "multitask", "accuracy", 60.47),
    ("E5", "CIFARBothMNISTconv", "mnist", "multitask", "accuracy", 98.10),
    ("E5", "CIFARBothMNISTconv", "fashion", "multitask", "accuracy", 89.35),
    ("E6", "EasyHardFashionSplit", "easy", "multitask", "accuracy", 97.76),
    ("E6", "EasyHardFashionSplit", "hard", "multitask", "accuracy", 84.42),
    ("E7", "SelfEnsembleFashionconv", "fashion_1", "multitask", "accuracy", 90.36),
    ("E7", "SelfEnsembleFashionconv", "fashion_2", "multitask", "accuracy", 89.83),
    ("E7", "SelfEnsembleFashionconv", "fashion_3", "multitask", "accuracy", 89.54),
    ("E7", "SelfEnsembleFashionconv", "fashion_4", "multitask", "accuracy", 90.17),
    ("E7", "SelfEnsembleFashionconv", "fashion_5", "multitask", "accuracy", 92.10),
    ("E7", "SelfEnsembleFashionconv", "fashion_sum", "multitask", "accuracy", 91.68),
    ("E8", "utkfaceCIFAR10", "age", "dedicated", "accuracy", 32.12),
    ("E8", "utkfaceCIFAR10", "gender", "dedicated", "accuracy", 47.55),
    ("E8", "utkfaceCIFAR10", "ethnicity", "dedicated", "accuracy", 14.41),
    ("E8", "utkfaceCIFAR10", "cifar10", "dedicated", "accuracy", 10.00),
    ("E8", "utkfaceCIFAR10", "age", "multitask", "accuracy", 54.82),
    ("E8", "utkfaceCIFAR10", "gender", "multitask", "accuracy", 89.15),
    ("E8", "utkfaceCIFAR10", "ethnicity", "multitask", "accuracy", 76.84),
    ("E8", "utkfaceCIFAR10", "cifar10", "multitask", "accuracy", 49.80),
    # E9 has one task: its dedicated network is the dense one, the other is pruned to 10 % of its weights.
    ("E9", "transformerExperiment", "reuters", "dedicated", "accuracy", 74.98),
    ("E9", "transformerExperiment", "reuters", "multitask", "accuracy", 79.34),
    # E10 first names the task an input belongs to (task_identity); "overall" is over both tasks' labels.
    ("E10", "TaskIdentification", "task_identity", "multitask", "accuracy", 99.94),
    ("E10", "TaskIdentification", "overall", "multitask", "accuracy", 92.45),
    ("E10", "TaskIdentification", "mnist", "multitask", "accuracy", 96.94),
    ("E10", "TaskIdentification", "fashion", "multitask", "accuracy", 87.96),
)

# Other versions of the same output files, by the commit that holds them. Each is one run too, perhaps of an earlier
# version of the script.
_OTHERS = (
    ("E5", "954f997d", "cifar10", "dedicated", "accuracy", 53.64),
    ("E5", "954f997d", "cifar10", "multitask", "accuracy", 56.39),
    ("E5", "954f997d", "mnist", "multitask", "accuracy", 98.40),
    ("E5", "954f997d", "fashion", "multitask", "accuracy", 90.38),
    ("E10", "50561b83", "task_identity", "multitask", "accuracy", 99.975),
    ("E10", "50561b83", "overall", "multitask", "accuracy", 91.555),
    ("E10", "50561b83", "mnist", "multitask", "accuracy", 96.84),
    ("E10", "50561b83", "fashion", "multitask", "accuracy", 86.27),
    ("E10", "8411d6a2", "task_identity", "multitask", "accuracy", 99.975),
    ("E10", "8411d6a2", "overall", "multitask", "accuracy", 91.99),
    ("E10", "8411d6a2", "mnist", "multitask", "accuracy", 96.80),
    ("E10", "8411d6a2", "fashion", "multitask", "accuracy", 87.18),
)


def published_table(id: str | None = None) -> pd.DataFrame:
    """Return the published figures of one experiment (``"E1"``), or all of them.

    Columns: id, experiment (the authors' script), task, arm (``dedicated`` or ``multitask``), metric, value.

    Raises `KeyError` for an unknown id.
    """
    table = pd.DataFrame(_ROWS, columns=list(_COLUMNS))
    if id is None:
        return table
    if id not in set(table["id"]):
        raise KeyError(f"no published figures for {id!r}; there are {', '.join(table['id'].unique())}")
    return table[table["id"] == id].reset_index(drop=True)


def other_outputs(id: str) -> pd.DataFrame:
    """Return what other versions of one experiment's output file say: a hint at how far two runs lie apart.

    They come from the history of the authors' repositories and are never taken as the published figures.

    Columns: output (its commit), task, arm, metric, value; without rows where no other version is known.

    Raises `KeyError` for an unknown id.
    """
    published_table(id)
    return pd.DataFrame([row[1:] for row in _OTHERS if row[0] == id], columns=["output", *_COLUMNS[2:]])


# (id, our arm) or (id, task, our arm) -> the published arm that it repeats, where that is not the one of the same name.
# E10's released network has a trained discerner, where our "multitask" names the task by prototypes; E4's control of
# the reviews saw batches of 512, where our "dedicated" sees those of its subnetwork.
_REPEATS = {
    ("E10", "multitask"): None,
    ("E10", "discerner"): "multitask",
    ("E4", "imdb", "dedicated"): None,
    ("E4", "imdb", "dedicated 512"): "dedicated",
}
_RELEASED = "multitask, legacy percentile"  # of E7, where "multitask" is five disjoint subnetworks


def published_value(id: str, task: str, arm: str, metric: str) -> float | None:
    """Return the published figure of what one of our arms repeats, or None where the authors have none.

    Args:
        id: of the experiment, like ``"E1"``.
        task, metric: as in `published_table`.
        arm: ours; ``dedicated`` or ``multitask`` but for E10 (``discerner``) and E4's reviews (``dedicated 512``).
    """
    theirs = _REPEATS.get((id, task, arm), _REPEATS.get((id, arm), arm))
    return _VALUES.get((id, task, theirs, metric))


def repeated_value(id: str, task: str, arm: str, metric: str) -> float | None:
    """As `published_value`, but a figure of E7 belongs to the arm whose subnetworks the released rule chose."""
    if id == "E7" and arm in ("multitask", _RELEASED):
        return published_value(id, task, "multitask", metric) if arm == _RELEASED else None
    return published_value(id, task, arm, metric)


def repeating_arm(id: str, task: str, arm: str) -> str:
    """Return which of our arms repeats a published one of an experiment and task."""
    if (id, arm) == ("E7", "multitask"):
        return _RELEASED
    ours = {theirs: key for key, theirs in _REPEATS.items() if key[:-1] in ((id,), (id, task))}
    return ours[arm][-1] if arm in ours else arm


_VALUES = {(id, task, arm, metric): value for id, _, task, arm, metric, value in _ROWS}
