"""Whose turn it is: threads, coroutines, copies, generators, recomputation and compilation, none with mixed outputs."""

import asyncio
import contextvars
import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from msnlib import MaskedLinear, PerTask, allocate, convert, release, switches, task_parameters, using

pytestmark = pytest.mark.usefixtures("seeded")

AGAIN = "computed again in backward .*call backward inside the same `with using"


def by_hand():
    return nn.Sequential(MaskedLinear(6, 8), PerTask({t: nn.BatchNorm1d(8) for t in "ab"}), MaskedLinear(8, 3))


def converted():
    return convert(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)))


@pytest.fixture(params=[by_hand, converted])
def served(request):
    """A network of two tasks, a batch, and what each gives for it."""
    net, x = request.param().eval(), torch.randn(5, 6)
    want = {}
    for task in "ab":
        allocate(net, task, 0.4, method="random")
        with using(net, task), torch.no_grad():
            want[task] = net(x)
    assert not want["a"].equal(want["b"])
    return net, x, want


def active(net):
    return {getattr(module, "active", None) for module in net.modules()}


def test_threads_have_their_own_tasks_at_the_same_time(served):
    net, x, want = served
    together = threading.Barrier(2)

    def serve(task):
        right = 0
        for _ in range(50):
            together.wait()
            with using(net, task), torch.no_grad():
                together.wait()  # both are inside now
                right += net(x).equal(want[task])
        return right

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(serve, "ab")) == [50, 50]
    assert active(net) == {None}


def test_a_thread_has_nothing_of_the_block_in_which_it_was_started(served):
    net, x, _ = served
    with using(net, "a"), ThreadPoolExecutor(1) as pool:
        assert isinstance(pool.submit(net, x).exception(), RuntimeError)


def test_training_in_threads_gives_each_task_what_it_gets_alone(served):
    net, x, _ = served
    alone = copy.deepcopy(net)

    def train(net, task):
        optimizer = torch.optim.SGD(task_parameters(net, task), lr=0.01)
        for _ in range(20):
            optimizer.zero_grad()
            with using(net, task):
                net(x).square().mean().backward()
            optimizer.step()

    for task in "ab":
        train(alone, task)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda task: train(net, task), "ab"))
    for mine, other in zip(net.state_dict().values(), alone.state_dict().values(), strict=True):
        assert mine.equal(other)


def test_coroutines_that_take_turns_have_their_own_tasks(served):
    net, x, want = served

    async def serve(task):
        for _ in range(10):
            with using(net, task):
                await asyncio.sleep(0)
                assert net(x).detach().equal(want[task])

    async def both():
        await asyncio.gather(serve("a"), serve("b"))

    asyncio.run(both())
    assert active(net) == {None}


@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy])
def test_a_copy_made_inside_a_block_is_not_switched_on_for_ever(served, duplicate):
    net, x, want = served
    with using(net, "a"):
        twin = duplicate(net)
    with pytest.raises(RuntimeError, match="no task is active"):
        twin(x)
    with using(twin, "b"), torch.no_grad():
        assert twin(x).equal(want["b"]) and active(net) <= {None, "b"}


def test_blocks_of_parts_and_of_the_whole_nest(served):
    net, x, want = served
    with using(net, "a"), torch.no_grad():
        with using(net[0], "b"):
            assert not net(x).equal(want["a"])  # the first layer is b's
            with using(net, "a"):
                assert net(x).equal(want["a"])
        assert net(x).equal(want["a"])
    with pytest.raises(KeyError), using(net, "a"):
        raise KeyError
    assert active(net) == {None}


def test_generators_that_take_turns_are_told_and_leave_nothing_on(served):
    net, x, _ = served

    def outputs(task, times):
        with using(net, task):
            for _ in range(times):
                yield net(x)

    first, second = outputs("a", 1), outputs("b", 1)
    next(first), next(second)
    with pytest.raises(RuntimeError, match="task 'a' ended inside that of 'b'.*two generators"):
        next(first)
    with pytest.raises(StopIteration):
        next(second)
    assert active(net) == {None}


def test_a_block_left_in_another_thread_is_over(served):
    net, x, _ = served
    block = using(net, "a")
    block.__enter__()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(block.__exit__, None, None, None).result()
    assert active(net) == {None}


@pytest.mark.parametrize("reentrant", [True, False])
def test_what_is_computed_again_in_backward_is_of_the_same_task(served, reentrant):
    net, _, _ = served
    x = torch.randn(5, 6, requires_grad=True)
    gradients = {}
    for way, run in {"stored": net, "again": lambda x: checkpoint(net, x, use_reentrant=reentrant)}.items():
        net.zero_grad()
        with using(net, "a"):
            run(x).square().sum().backward()
        gradients[way] = [p.grad.clone() for p in task_parameters(net, "a")]
    assert all(a.equal(b) for a, b in zip(gradients["stored"], gradients["again"], strict=True))


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("other", [None, "b", "a"])
def test_backward_in_another_block_is_refused_where_it_computes_again(served, reentrant, other):
    net, _, _ = served
    x = torch.randn(5, 6, requires_grad=True)
    with using(net, "a"):
        loss = checkpoint(net, x, use_reentrant=reentrant).sum()
    with pytest.raises(RuntimeError, match=AGAIN):
        if other is None:
            loss.backward()
        else:
            with using(net, other):
                loss.backward()
    assert all(p.grad is None for p in net.parameters())
    with pytest.raises(RuntimeError, match=AGAIN), using(net, "b"):
        with using(net, "a"):
            loss = checkpoint(net, x, use_reentrant=reentrant).sum()
        loss.backward()
    assert all(p.grad is None for p in net.parameters())


def test_a_task_that_is_named_inside_what_is_computed_again_is_right_everywhere(small_network):
    net, (a, *_) = small_network
    allocate(net, "a", 0.4, method="random")
    loss = checkpoint(lambda x: net(x, task="a"), a.train[0], use_reentrant=False).sum()
    loss.backward()
    again = [p.grad.clone() for p in task_parameters(net, "a")]
    net.zero_grad()
    net(a.train[0], task="a").sum().backward()
    assert all(p.grad.equal(g) for p, g in zip(task_parameters(net, "a"), again, strict=True))


def test_a_compiled_network_follows_the_turn(served):
    net, x, want = served
    fast = torch.compile(net, backend="eager", fullgraph=True)
    for task in "abba" * 5:
        with using(net, task), torch.no_grad():
            torch.testing.assert_close(fast(x), want[task])
    with pytest.raises(Exception, match="no task is active"):
        fast(x)


def test_replicas_as_of_data_parallel_keep_the_turn_in_their_threads(served):
    net, x, want = served

    def replica(module):
        twin = module._replicate_for_data_parallel()
        twin._modules = {name: replica(child) for name, child in module._modules.items()}
        twin._parameters = dict(module._parameters)
        return twin

    with using(net, "a"), ThreadPoolExecutor(1) as pool, torch.no_grad():
        twin = replica(net)
        assert pool.submit(torch.no_grad()(twin), x).result().equal(want["a"])
        with using(net, "b"):
            assert net(x).equal(want["b"])


def test_a_task_released_inside_its_block_is_not_computed(served):
    net, x, _ = served
    with using(net, "a"):
        release(net, "a")
        with pytest.raises(RuntimeError, match="task 'a' has no entries here"):
            net(x)


def test_threads_of_autograd_itself_find_the_turn_of_whoever_called_backward(served):
    """They have no context of their own, but torch leaves the caller's there; a thread stands for that of a GPU."""
    net, _, _ = served
    switch = next(module for module in net.modules() if hasattr(module, "active"))

    def found(context):
        torch._C._stash_obj_in_tls("context", context)
        return switches._in_backward(switches._find(switches._latest.get(), switch), switch).task

    with ThreadPoolExecutor(2) as pool, using(net, "b"):
        assert pool.submit(found, contextvars.copy_context()).result() == "b"
        with pytest.raises(RuntimeError, match=AGAIN):
            pool.submit(found, contextvars.Context()).result()
