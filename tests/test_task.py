"""Tasks: what cannot be one is refused where it is made; other inputs, fewer classes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from msnlib import Task, allocate, dense_network, evaluate, fit, predict, release, tasks
from msnlib.isolation import check_fits

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


def test_classes_keep_their_names():
    named = replace(TASK, labels=("boot", "coat", "bag"))
    assert named.classes([2, 0], "part").labels == ("bag", "boot")
    with pytest.raises(ValueError, match="'t': labels names 3 classes of 4"):
        replace(named, outputs=4)


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


# -------------------------------------------------------------------------- what cannot be a task

RIGHT = {
    "classification": (torch.randn(4, 3), torch.tensor([0, 2, 1, 2]), 3),
    "binary": (torch.randn(4, 3), torch.tensor([[0.0], [1.0], [1.0], [0.0]]), 1),
    "regression": (torch.randn(4, 3), torch.randn(4, 1), 1),
    "words": (torch.randint(7, (4, 3)), torch.tensor([0, 2, 1, 2]), 3),
}


def build(case, part="train", outputs=None, **change):
    """A task that is right but for x or y of one part."""
    x, y, count = RIGHT[case]
    parts = {name: (x, y) for name in ("train", "valid", "test")}
    parts[part] = (change.get("x", lambda x: x)(x), change.get("y", lambda y: y)(y))
    kind, vocabulary = ("classification", 7) if case == "words" else (case, None)
    return Task("t", kind, **parts, outputs=outputs or count, vocabulary=vocabulary)


@pytest.mark.parametrize("part", ["train", "valid", "test"])
@pytest.mark.parametrize(
    ("case", "change", "says"),
    [
        ("classification", {"x": lambda x: x[:3]}, "has 3 examples x and 4 targets y"),
        ("regression", {"y": lambda y: y[:1]}, "has 4 examples x and 1 targets y"),
        ("regression", {"y": lambda y: y[0, 0]}, "no axis of targets"),
        ("classification", {"x": lambda x: x[:, 0]}, r"has shape \(4,\), meant is \(N, inputs\)"),
        ("classification", {"x": lambda x: (255 * x).to(torch.uint8)}, "is uint8, meant is a floating dtype"),
        ("regression", {"x": lambda x: x > 0}, "is bool, meant is a floating dtype"),
        ("binary", {"x": lambda x: x / 0}, "NaN or infinite"),
        ("regression", {"x": lambda x: x.masked_fill(x == x[2, 1], torch.nan)}, "x of .* holds NaN or infinite"),
        ("regression", {"y": lambda y: y * torch.inf}, "y of .* holds NaN or infinite"),
        ("classification", {"y": lambda y: y + 1}, "labels .* go from 1 to 3, meant are 0 to 2"),
        ("classification", {"y": lambda y: y - 1}, "labels .* go from -1 to 1, meant are 0 to 2"),
        ("classification", {"y": lambda y: F.one_hot(y, 3)}, r"shape \(4, 3\), meant is \(N,\).*argmax"),
        ("classification", {"y": lambda y: y[:, None]}, r"shape \(4, 1\), meant is \(N,\).*flatten"),
        ("classification", {"y": lambda y: y.float()}, "y of .* is float32, but labels are int64"),
        ("classification", {"y": lambda y: y > 0}, "y of .* is bool, but labels are int64"),
        ("binary", {"y": lambda y: 2 * y - 1}, "go from -1 to 1, meant are 0 and 1"),
        ("binary", {"y": lambda y: y / 2}, "go from 0 to 0.5, meant are 0 and 1"),
        ("binary", {"y": lambda y: y + 1}, "go from 1 to 2, meant are 0 and 1"),
        ("binary", {"y": lambda y: torch.cat([y, 1 - y], 1)}, r"shape \(4, 2\), meant is \(N, 1\)"),
        ("regression", {"y": lambda y: y.flatten()[:, None, None]}, r"shape \(4, 1, 1\), meant is \(N, 1\)"),
        ("words", {"x": lambda x: x + 7}, "word indices .* meant are 0 to 6"),
        ("words", {"x": lambda x: x - 7}, "word indices .* meant are 0 to 6"),
        ("words", {"x": lambda x: x.float()}, "is float32, but word indices are int64"),
        ("regression", {"x": lambda x: x.numpy()}, "must be a pair .x, y. of tensors, not a tuple of ndarray, Tensor"),
    ],
)
def test_what_is_no_task_is_refused_where_it_is_made_by_task_and_part(case, change, says, part):
    with pytest.raises(ValueError, match=f"^task 't': .*{says}") as error:
        build(case, part, **change)
    message = str(error.value)
    assert part in message and "\n" not in message and len(message) < 200


@pytest.mark.parametrize("part", ["valid", "test"])
@pytest.mark.parametrize(
    ("change", "says"), [({"x": lambda x: x[:, :2]}, "shape"), ({"x": torch.Tensor.double}, "float64")]
)
def test_parts_that_do_not_go_together_are_refused(part, change, says):
    with pytest.raises(ValueError, match=f"^task 't': .*{part}.*{says}|^task 't': .*{says}.*{part}"):
        build("regression", part, **change)


@pytest.mark.parametrize("outputs", [0, -1, 1.5, True, 1])
def test_numbers_of_outputs_that_cannot_be_are_refused(outputs):
    with pytest.raises(ValueError, match="^task 't': .*(outputs .* at least 1|one output tells no classes apart)"):
        Task("t", "classification", *[RIGHT["classification"][:2]] * 3, outputs=outputs)


@pytest.mark.parametrize(
    ("case", "change", "dtype"),
    [
        ("classification", {"y": torch.Tensor.int}, torch.int64),
        ("classification", {"y": lambda y: y.to(torch.uint8)}, torch.int64),
        ("words", {"x": torch.Tensor.int}, torch.int64),
        ("binary", {"y": torch.Tensor.bool}, torch.float32),
        ("binary", {"y": torch.Tensor.long}, torch.float32),
        ("binary", {"y": torch.Tensor.flatten}, torch.float32),
        ("regression", {"y": torch.Tensor.double}, torch.float32),
        ("regression", {"y": torch.Tensor.flatten}, torch.float32),
    ],
)
def test_other_dtypes_and_shapes_of_the_same_meaning_are_converted(case, change, dtype):
    other, right = build(case, **change), build(case)
    assert all(torch.equal(a.double(), b.double()) for a, b in zip(other.train, right.train, strict=True))
    assert other.train[0 if case == "words" else 1].dtype == dtype
    assert other.loss(torch.zeros(4, 3 if other.kind == "classification" else 1), other.train[1]).isfinite()


def test_an_empty_training_part_is_refused_and_another_where_it_is_used():
    empty = {"x": lambda x: x[:0], "y": lambda y: y[:0]}
    with pytest.raises(ValueError, match="^task 't': no examples in its train part"):
        build("words", "train", **empty)
    with pytest.raises(ValueError, match="^task 'rare': no examples in its train part"):
        Task("t", "classification", *[(X, torch.tensor([0, 1, 1, 0]))] * 3, outputs=4).classes([2, 3], "rare")
    for part in ("valid", "test"):
        task = build("regression", part, **empty)
        with pytest.raises(ValueError, match=f"^task 't': no examples in its {part} part"):
            next(task.batches(part))
        with pytest.raises(ValueError, match=f"^task 't': no examples in its {part} part"):
            net = dense_network([task], width=4, depth=1)
            allocate(net, "t", 0.5, method="random")
            check_fits(net, task, "train", part)


@pytest.mark.parametrize("part", ["valid", "train"])
def test_fit_refuses_what_it_could_not_measure_before_it_trains(part, same):
    task = build("regression")
    net = dense_network([task], width=4, depth=1)
    allocate(net, "t", 0.5, method="random")
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    cut = lambda x: x[:0] if part == "valid" else x  # noqa: E731
    wrong = build("regression", "valid", x=cut, y=cut) if part == "valid" else task.map_inputs(torch.Tensor.double)
    for act in (fit, evaluate, predict):
        with pytest.raises(ValueError, match="^task 't': (no examples in its valid part|x is float64)"):
            act(net, wrong) if act is fit else act(net, wrong, "valid")
    assert same(dict(net.state_dict()), before)


@pytest.mark.parametrize("argument", ["limit", "batch_size"])
@pytest.mark.parametrize("value", [0, -1, 2.5])
def test_a_limit_or_batch_without_examples_is_refused(argument, value):
    with pytest.raises(ValueError, match=f"^task 't': {argument} {value} must be at least 1"):
        next(TASK.batches(**{argument: value}))


@pytest.mark.parametrize("function", [lambda x: x[:2], lambda x: x.long(), lambda x: x / 0, lambda x: x[0]])
def test_mapping_inputs_cannot_make_a_broken_task(function):
    with pytest.raises(ValueError, match="^task 'mapped': "):
        TASK.map_inputs(function, "mapped")


@pytest.mark.parametrize("case", ["classification", "binary", "regression"])
@pytest.mark.parametrize("measure", ["loss", "score", "outcomes"])
def test_a_prediction_of_another_shape_is_refused(case, measure):
    task = build(case)
    for wrong in (torch.zeros(4), torch.zeros(3, task.outputs), torch.zeros(4, task.outputs, 1), torch.zeros(4, 0)):
        with pytest.raises(ValueError, match=r"^task 't': the network gives outputs of shape .*, meant is \(4, "):
            getattr(task, measure)(wrong, task.train[1])


def test_a_task_is_checked_against_what_the_network_was_given():
    net = dense_network([build("classification")], width=4, depth=1)
    allocate(net, "t", 0.5, method="random")
    check_fits(net, build("classification"), "train", "valid", "test")
    x, y, _ = RIGHT["classification"]
    for other, says in (
        (Task("t", "classification", *[(x, y)] * 3, outputs=5), "outputs 5, but the network was given outputs 3"),
        (Task("t", "classification", *[(x[:, :2], y)] * 3, outputs=3), r"inputs \[2\], but .* inputs \[3\]"),
        (build("words"), "vocabulary 7, but the network was given vocabulary None"),
        (build("classification").map_inputs(torch.Tensor.double), "x is float64, the network float32"),
    ):
        with pytest.raises(ValueError, match=f"^task 't': {says}"):
            check_fits(net, other)
    check_fits(net, Task("t", "classification", *[(x, y)] * 3, outputs=5), targets=False)
    check_fits(net, Task("t", "classification", *[(x, y.clamp(max=1))] * 3, outputs=2))  # the head may be wider
    with pytest.raises(ValueError, match="^task 't': x is float64, the network float32"):
        double = build("classification").map_inputs(torch.Tensor.double)
        release(net, "t")
        allocate(net, "t", 0.5, batches=double.batches(), loss=double.loss)
    assert tasks(net) == []


def test_tasks_are_compared_and_hashed_as_objects():
    assert TASK == TASK and TASK != build("words") and len({TASK, TASK}) == 1


def test_counts_of_numpy_become_pythons_and_tensors_leave_their_graph():
    x = torch.randn(6, 4, requires_grad=True) * 2
    task = Task("a", "classification", *[(x, torch.arange(6) % 3)] * 3, outputs=np.int64(3), batch_size=np.int32(2))
    assert type(task.outputs) is int and type(task.batch_size) is int
    assert not any(task.split(part)[0].requires_grad for part in ("train", "valid", "test"))


def test_targets_must_fit_into_the_dtype_of_the_inputs():
    pair = (torch.randn(2, 3).half(), torch.tensor([1.0, 250000.0]))
    with pytest.raises(ValueError, match="y of train does not fit into torch.float16"):
        Task("r", "regression", pair, pair, pair, outputs=1)
