"""Small things that tests share. Nothing applies to whoever does not ask."""

import shutil

import pytest
import torch

from msnlib import Task, dense_network, seed_everything, tasks
from msnlib.seeding import stream

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
SWITCHES = "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync"


@pytest.fixture(scope="module")
def browser():
    """A Chromium without a window, driven by Playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"there is no browser: none of {', '.join(BROWSERS)}")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path, args=[*SWITCHES.split(), "--no-first-run"])
        yield chromium
        chromium.close()


@pytest.fixture
def seeded():
    """The same randomness for every test, and one thread: enough for tensors this small."""
    threads = torch.get_num_threads()
    seed_everything(0, threads=1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make_task():
    """A small problem that a linear map solves; its data depend on its name alone."""

    def make(name, kind="classification", inputs=(4,), outputs=3, examples=24, batch_size=8, vocabulary=None):
        def part(count):
            x = torch.randn(count, *inputs, generator=data)
            if vocabulary is not None:
                x = torch.randint(vocabulary, (count, *inputs), generator=data)
            y = x.flatten(1).float() @ rule
            if kind == "classification":
                return x, y.argmax(1)
            return x, (y > 0).float() if kind == "binary" else y

        data = stream("data of a test", name, seed=0)
        rule = torch.randn(torch.Size(inputs).numel(), outputs, generator=data)
        parts = part(examples), part(examples // 2), part(examples // 2)
        return Task(name, kind, *parts, outputs, batch_size, vocabulary)

    return make


@pytest.fixture
def small_network(make_task):
    """A builder's network 4 - 2 x 12 and the three tasks it declares: a (as wide as the trunk), b (stem), c (words)."""
    group = [
        make_task("a"),
        make_task("b", "regression", inputs=(2, 3), outputs=1),
        make_task("c", "binary", inputs=(5,), outputs=1, vocabulary=7),
    ]
    return dense_network(group, width=12, depth=2), group


@pytest.fixture
def snapshot():
    """Everything about a network that a refused or measuring call must leave alone, to compare before and after."""

    def take(net):
        return {
            "state": {name: tensor.clone() for name, tensor in net.state_dict().items()},
            "tasks": tasks(net),
            "grads": {n: None if p.grad is None else p.grad.clone() for n, p in net.named_parameters()},
            "parameters": {name: id(p) for name, p in net.named_parameters()},
            "switches": [(m.training, getattr(m, "active", None)) for m in net.modules()],
            "torch": torch.get_rng_state(),
        }

    return take


@pytest.fixture
def same():
    """Bit-equality of nested snapshots; NaN equals NaN."""

    def equal(a, b):
        if isinstance(a, torch.Tensor):
            return a.dtype == b.dtype and torch.equal(a.nan_to_num(777), b.nan_to_num(777))
        if isinstance(a, dict):
            return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
        return a == b

    return equal
