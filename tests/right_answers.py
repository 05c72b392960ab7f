"""Right answers to the problem sets in other styles than the solutions': loops, numpy, pandas, copies put back."""

# Problem set -> sets of answers, by the name of the answer's cell; each must get every point.
RIGHT = {
    "ps1": [
        {
            "exercise1": """\
def entries(numel, density):
    import numpy as np

    if not (0 < density <= 1):
        raise ValueError("no")
    return max(1, np.int64(np.rint(density * numel)))""",
            "exercise2": """\
def top(scores, count):
    chosen = torch.zeros(len(scores), dtype=torch.bool)
    s = scores.clone()
    for _ in range(count):
        k = int(((s == s.max()) & ~chosen).nonzero()[0])
        chosen[k] = True
        s[k] = -float("inf")
    return chosen.nonzero().flatten()""",
            "exercise3": """\
def allocate(owner, scores, task, density):
    after = owner.clone()
    rows, columns = owner.shape
    for name, where in (
        ("weight", [(i, j) for i in range(rows) for j in range(columns - 1)]),
        ("bias", [(i, columns - 1) for i in range(rows)]),
    ):
        n = max(1, round(density * len(where)))
        free = [p for p in where if owner[p] == 0]
        if len(free) < n:
            raise CapacityError(name, n, len(free), len(where))
        for p in sorted(free, key=lambda p: -scores[p])[:n]:
            after[p] = task
    return after""",
            "exercise4": """\
def draw_owners(owner, names):
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch
    import numpy as np

    shades = [str(1 - k / len(names)) for k in range(len(names) + 1)]
    fig = plt.figure()
    ax = fig.add_subplot()
    ax.imshow(np.asarray(owner), cmap=ListedColormap(shades), vmin=-0.5, vmax=len(names) + 0.5, origin="lower")
    fig.legend(handles=[Patch(color=s, label=n) for s, n in zip(shades, ["free", *names])])
    ax.set_xlabel("input")
    ax.set_ylabel("unit")
    return ax""",
        },
        {
            "exercise1": """\
def entries(numel, density):
    from decimal import Decimal, ROUND_HALF_EVEN

    assert True
    if density > 1 or density <= 0:
        raise ValueError
    return max(1, int(Decimal(density * numel).quantize(Decimal(1), ROUND_HALF_EVEN)))""",
            "exercise4": """\
def draw_owners(owner, names):
    rgb = torch.ones(*owner.shape, 3)
    for k in range(1, len(names) + 1):
        rgb[owner == k] = 1 - k / len(names)
    plt.figure()
    plt.imshow((255 * rgb).to(torch.uint8))
    plt.xlabel("input")
    plt.ylabel("unit")
    for k, name in enumerate(["free", *names]):
        plt.scatter([], [], color=str(1 - k / len(names)), label=name)
    plt.legend(title="owner")
    return plt.gca()""",
        },
    ],
    "ps2": [
        {
            "exercise1": """\
def forward(x, weights, masks):
    h = x
    last = len(weights) - 1
    for k in range(len(weights)):
        w = torch.where(masks[k], weights[k], torch.zeros(()))
        h = torch.einsum("ni,oi->no", h, w)
        if k < last:
            h = torch.relu(h)
    return h""",
            "exercise2": """\
def train(weights, masks, data, optimizer, steps):
    x, y = data
    loss = None
    for step in range(steps):
        for w in weights:
            w.grad = None
        loss = torch.nn.functional.mse_loss(masked_output(x, weights, masks), y)
        loss.backward()
        optimizer.step()
    return loss.detach()""",
            "exercise3": """\
def momentum_drift(velocity, learning_rate, momentum, steps):
    return -learning_rate * velocity * momentum * (1 - momentum**steps) / (1 - momentum)


def decay_drift(weight, learning_rate, decay, steps):
    w = weight
    for _ in range(steps):
        w = w - learning_rate * decay * w
    return w - weight""",
            "exercise4": """\
def train_isolated(weights, masks, data, make_optimizer, steps, read=None):
    copies = [w.detach().clone().requires_grad_() for w in weights]
    optimizer = make_optimizer(copies)
    for _ in range(steps):
        optimizer.zero_grad()
        squared_error(masked_output(data[0], copies, masks), data[1]).backward()
        optimizer.step()
    for w, c, m in zip(weights, copies, masks):
        w.data[m] = c.data[m]""",
            "exercise5": """\
def same_bits(a, b):
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return a.numpy().tobytes() == b.numpy().tobytes()""",
        },
        {
            "exercise1": """\
def forward(x, weights, masks):
    pairs = [(w * m).t() for w, m in zip(weights, masks)]
    for p in pairs[:-1]:
        x = torch.clamp(x @ p, min=0)
    return x @ pairs[-1]""",
            "exercise3": """\
def momentum_drift(velocity, learning_rate, momentum, steps):
    w, v = 0 * velocity, velocity
    for _ in range(steps):
        v = momentum * v
        w = w - learning_rate * v
    return w


def decay_drift(weight, learning_rate, decay, steps):
    import math

    return weight * math.expm1(steps * math.log1p(-learning_rate * decay))""",
            "exercise4": """\
def train_isolated(weights, masks, data, make_optimizer, steps, read=None):
    optimizer = make_optimizer(weights)
    for _ in range(steps):
        optimizer.zero_grad()
        squared_error(masked_output(data[0], weights, masks), data[1]).backward()
        kept = [w.detach().clone() for w in weights]
        optimizer.step()
        with torch.no_grad():
            for w, k, m in zip(weights, kept, masks):
                w.copy_(torch.where(m, w, k))""",
            "exercise5": """\
def same_bits(a, b):
    if a.dtype is not b.dtype or a.shape != b.shape:
        return False
    i = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    return bool((a.view(i) == b.view(i)).all())""",
        },
    ],
    "ps3": [
        {
            "exercise1": """\
def multitask(group, seed):
    seed_everything(seed, threads=1)
    net = dense_network(list(group), inputs=64, width=width, depth=2)
    for task in group:
        allocate(net, task.name, density=density, method="gradient", batches=task.batches(), loss=task.loss)
    fit(net, tuple(group), **recipe)
    found = {}
    for task in group:
        found[task.name] = evaluate(net, task)[task.name]["accuracy"]
    return found""",
            "exercise2": """\
def differences(results):
    wide = results.pivot_table(index="seed", columns=["task", "arm"], values="accuracy")
    tasks = results.task.unique()
    return pd.DataFrame(
        {t: wide[t].get("multitask", float("nan")) - wide[t].get("dedicated", float("nan")) for t in tasks}
    )""",
            "exercise3": """\
def mean_bound(paired, confidence):
    import numpy as np

    x = np.array([v for v in paired if v == v])
    return scipy.stats.t.interval(2 * confidence - 1, len(x) - 1, loc=x.mean(), scale=scipy.stats.sem(x))[0]""",
            "exercise4": """\
def non_inferior(paired, margin, confidence):
    if margin <= 0:
        raise ValueError
    return scipy.stats.ttest_1samp(paired.dropna(), -margin, alternative="greater").pvalue < 1 - confidence""",
            "exercise5": """\
def partner_effect(results):
    a = results[results.partner == "alike"]
    b = results[results.partner == "other"]
    m = a.merge(b, on=["seed", "place"])
    m["d"] = m.accuracy_x - m.accuracy_y
    return m.groupby("place")["d"].mean()""",
        },
        {
            "exercise2": """\
def differences(results):
    m = results[results.arm == "multitask"].merge(results[results.arm == "dedicated"], on=["seed", "task"], how="outer")
    m["d"] = m.accuracy_x - m.accuracy_y
    return m.pivot(index="seed", columns="task", values="d").sort_index()""",
            "exercise5": """\
def partner_effect(results):
    found = {}
    for place, part in results.groupby("place"):
        d = []
        for s, two in part.groupby("seed"):
            v = dict(zip(two.partner, two.accuracy))
            if len(v) == 2:
                d.append(v["alike"] - v["other"])
        found[place] = sum(d) / len(d)
    return pd.Series(found)""",
        },
    ],
    "ps4": [
        {
            "exercise1": """\
def starving(owned):
    return [k for k, row in enumerate(owned) if not row.any()]""",
            "exercise2": """\
def recalls(predicted, targets, classes):
    import numpy as np

    p, t = predicted.numpy(), targets.numpy()
    with np.errstate(all="ignore"):
        return [100 * np.mean(p[t == k] == k) for k in range(classes)]""",
            "exercise3": """\
def fair(offers):
    kept = {}
    for name, offer in offers.items():
        if not offer.is_output:
            kept[name] = offer.best()
            continue
        if len(offer.scores) < offer.count:
            raise CapacityError(name, offer.count, len(offer.scores), offer.numel)
        columns = offer.shape[1]
        queues = {
            u: sorted((-s, p) for s, p in zip(offer.scores.tolist(), offer.positions.tolist()) if p // columns == u)
            for u in range(offer.shape[0])
        }
        got = []
        while len(got) < offer.count:
            heads = sorted(q.pop(0) for q in queues.values() if q)
            got += [p for _, p in heads[: offer.count - len(got)]]
        kept[name] = Kept(torch.tensor(sorted(got)))
    return kept""",
            "exercise4": """\
import numpy as np


def measured(recalls):
    return np.nanmean(recalls)


def interval(differences, confidence):
    d = np.array(differences)
    return scipy.stats.t.interval(confidence, len(d) - 1, loc=d.mean(), scale=scipy.stats.sem(d))""",
        },
        {
            "exercise1": """\
def starving(owned):
    return torch.where(~owned.any(dim=1))[0].tolist()""",
            "exercise4": """\
import numpy as np


def measured(recalls):
    return pd.Series(recalls).mean()


def interval(differences, confidence):
    return scipy.stats.ttest_1samp(differences, 0).confidence_interval(confidence)""",
            "exercise3": """\
def fair(offers):
    kept = dict()
    for name in offers:
        o = offers[name]
        if o.is_output:
            if o.count > o.positions.numel():
                raise CapacityError(name, o.count, o.positions.numel(), o.numel)
            grid = torch.full(o.shape, -torch.inf).flatten()
            grid[o.positions] = o.scores
            grid = grid.view(o.shape)
            order = grid.sort(dim=1, descending=True)
            left, chosen = o.count, []
            for r in range(o.shape[1]):
                row = order.values[:, r]
                units = row.argsort(descending=True)
                units = units[row[units] > -torch.inf][:left]
                chosen.append(units * o.shape[1] + order.indices[units, r])
                left -= len(units)
            kept[name] = Kept(torch.cat(chosen).sort()[0])
        else:
            kept[name] = anywhere(o)
    return kept""",
        },
    ],
}
