"""Parts of a task: other inputs, fewer classes."""

import pytest
import torch

from msnlib import Task

X = torch.arange(8.0).view(4, 2)
TASK = Task("t", "classification", *[(X, torch.tensor([0, 2, 1, 2]))] * 3, outputs=3)


def test_inputs_of_every_split_are_mapped_and_labels_are_not():
    half = TASK.map_inputs(lambda x: x[:, :1] / 2, "half")
    for split in ("train", "valid", "test"):
        x, y = half.split(split)
        assert x.tolist() == [[0.0], [1.0], [2.0], [3.0]] and y.equal(TASK.split(split)[1])
    assert half.name == "half" and half.inputs == (1,) and half.outputs == 3
    assert TASK.map_inputs(torch.neg).name == "t"


def test_chosen_classes_are_relabelled_in_the_order_given():
    part = TASK.classes([2, 0], "part")
    x, y = part.test
    assert x.tolist() == [[0.0, 1.0], [2.0, 3.0], [6.0, 7.0]] and y.tolist() == [1, 0, 0]
    assert y.dtype == torch.int64 and part.outputs == 2 and part.name == "part"
    assert TASK.test[1].tolist() == [0, 2, 1, 2]


@pytest.mark.parametrize("keep", [[0, 0], [3], [-1, 0]])
def test_labels_that_are_not_there_are_refused(keep):
    with pytest.raises(ValueError, match="'t'.*no distinct labels of 3 classes"):
        TASK.classes(keep, "part")


@pytest.mark.parametrize(
    ("kind", "prediction", "target", "outcomes"),
    [
        ("classification", [[1.0, 2.0], [3.0, 0.0], [0.0, 1.0]], [1, 1, 1], [True, False, True]),
        ("binary", [[0.5], [-1.0], [2.0]], [[1.0], [1.0], [0.0]], [True, False, False]),
        ("regression", [[1.0], [2.0], [5.0]], [[1.0], [4.0], [2.0]], [0.0, 4.0, 9.0]),
    ],
)
def test_a_score_is_the_mean_of_the_outcomes_of_examples(kind, prediction, target, outcomes):
    task = Task("t", kind, *[(X[:3], torch.tensor(target))] * 3, outputs=len(prediction[0]))
    found = task.outcomes(torch.tensor(prediction), torch.tensor(target))
    assert found.tolist() == outcomes and found.shape == (3,)
    unit = 1 if kind == "regression" else 100
    assert task.score(torch.tensor(prediction), torch.tensor(target)) == pytest.approx(unit * sum(outcomes) / 3)
