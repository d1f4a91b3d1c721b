"""Each criterion against its paper's formula, written out on the rows themselves."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib import import_module
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
from made_up import added, group

from onnx_reap.errors import ReapError
from onnx_reap.fields import CRITERIA
from onnx_reap.prune.criteria.balance import balanced
from onnx_reap.prune.criteria.observation import Observation, Reading
from onnx_reap.prune.criteria.ranking import MergeTarget, Ranking
from onnx_reap.prune.criteria.table import check_packages, ranking

SEEDS = range(3)
NAMES = [name for name, criterion in CRITERIA.items() if criterion.ranks]


def order_of(name: str, observed: Observation) -> list[int]:
    if CRITERIA[name].package:
        pytest.importorskip(CRITERIA[name].package)
    return ranking(name, observed).order


def ascending(scores) -> list[int]:
    return np.argsort(scores, kind="stable").tolist()


# All of them


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("parts", [None, 2, 4])
def test_an_order_holds_every_unit_once_and_parts_take_turns(name, parts):
    observed, _ = group(8, parts=parts)
    order = order_of(name, observed)
    assert sorted(order) == list(range(8))
    assert order_of(name, group(8, parts=parts)[0]) == order
    if parts:
        label = observed.parts[order]
        assert all(set(label[i : i + parts]) == set(range(parts)) for i in range(0, 8, parts))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("units", [1, 2])
def test_a_group_may_be_tiny(name, units):
    assert sorted(order_of(name, group(units)[0])) == list(range(units))


@pytest.mark.parametrize("name", NAMES)
def test_units_that_nothing_is_known_of_have_an_order(name):
    """Constants of zero, made and read by zeros."""
    reader = Reading(np.zeros((4, 2)), np.arange(4)[:, None], np.zeros((4, 4)), np.zeros(4))
    for readers in ((), (reader,)):
        observed = Observation("g", np.zeros((4, 0 if readers else 3)), readers)
        if readers:
            observed = replace(observed, features=np.zeros((5, 4)), responses=np.zeros((5, 2)))
        assert sorted(order_of(name, observed)) == [0, 1, 2, 3]


@pytest.mark.parametrize("name", [n for n in NAMES if CRITERIA[n].runs])
def test_a_unit_that_does_nothing_goes_first(name):
    observed, known = group(7)
    readers = []
    for x, reader in known:
        x = x.copy()
        x[:, reader.columns[4]] = 0
        mean = x.mean(0)
        gram = (x - mean).T @ (x - mean) / len(x)
        readers.append(replace(reader, gram=gram, mean=mean))
    features = observed.features * (np.arange(7) != 4)
    assert order_of(name, replace(observed, readers=tuple(readers), features=features))[0] == 4


def test_every_criterion_has_a_module_that_cites_its_paper():
    for name in NAMES:
        module = import_module(f"onnx_reap.prune.criteria.{name}")
        assert ("References" in module.__doc__) == (name != "random")


def test_the_page_lists_every_criterion():
    page = (Path(__file__).parent.parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
    page, *_ = page.split("\n## ")  # figures follow
    listed = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| (.*?) \|$", page, re.MULTILINE)
    assert [(name, by, paper) for name, by, _, paper in listed] == [
        (name, each.goes_by, each.paper) for name, each in CRITERIA.items()
    ]


def test_balancing_keeps_the_order_within_parts():
    order = balanced([5, 0, 1, 4, 2, 3], (0, 0, 0, 1, 1, 1))
    assert order.tolist() == [0, 5, 1, 4, 2, 3]
    assert balanced([2, 0, 1], None).tolist() == [2, 0, 1]


def test_a_missing_package_is_told_in_one_line(monkeypatch):
    monkeypatch.setattr("onnx_reap.prune.criteria.table.find_spec", lambda name: None)
    check_packages("thinet")
    with pytest.raises(ReapError, match="try: pip install scikit-learn") as refused:
        check_packages("lasso")
    assert refused.value.exit_code == 1 and "\n" not in str(refused.value)


# One by one


@pytest.mark.parametrize("seed", SEEDS)
def test_parts_are_clustered_apart_from_each_other(seed):
    """The order within a part is that of a group of nothing else."""
    observed, _ = group(8, parts=2, seed=seed)
    order = np.array(order_of("fold", observed))
    for part in (0, 1):
        own = np.flatnonzero(observed.parts == part)
        alone = order_of("fold", Observation("g", observed.filters[own]))
        assert order[observed.parts[order] == part].tolist() == own[alone].tolist()


@pytest.mark.parametrize("seed", SEEDS)
def test_fpgm_adds_up_distances(seed):
    observed, _ = group(seed=seed)
    scores = [sum(np.linalg.norm(a - b) for b in observed.filters) for a in observed.filters]
    assert order_of("fpgm", observed) == ascending(scores)


@pytest.mark.parametrize("seed", SEEDS)
def test_wanda_multiplies_weights_and_norms(seed):
    observed, known = group(seed=seed)
    scores = np.zeros(7)
    for (x, reader), unit in product(known, range(7)):
        for column, out in product(reader.columns[unit], range(reader.weight.shape[1])):
            scores[unit] += abs(reader.weight[column, out]) * np.linalg.norm(x[:, column])
    assert order_of("wanda", observed) == ascending(scores)


@pytest.mark.parametrize("parts", [None, 2])
@pytest.mark.parametrize("seed", SEEDS)
def test_thinet_leaves_out_what_is_missed_least(seed, parts):
    observed, known = group(6, parts=parts, seed=seed)

    def missed(gone) -> float:
        return sum(np.square(sum(added(x, r, i) for i in gone)).sum() for x, r in known)

    gone: list[int] = []
    for step in range(6):
        rest = [i for i in range(6) if i not in gone]
        if parts and step % 2:
            rest = [i for i in rest if observed.parts[i] != observed.parts[gone[-1]]]
        gone.append(min(rest, key=lambda i: missed([*gone, i])))
    found = order_of("thinet", observed)
    size = parts or 1  # within a round parts have an order of their own
    assert [set(found[i : i + size]) for i in range(0, 6, size)] == [
        set(gone[i : i + size]) for i in range(0, 6, size)
    ]


@pytest.mark.parametrize("seed", SEEDS)
def test_lasso_keeps_what_a_lasso_on_the_rows_keeps(seed):
    """Coordinate descent on all contributions, at prices between those at which units leave."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    observed, known = group(seed=seed)
    from onnx_reap.prune.criteria.lasso import leaving_prices

    z = np.concatenate(
        [np.stack([added(x, r, i).ravel() for i in range(7)], axis=1) for x, r in known]
    )
    gram = observed.contributions()
    np.testing.assert_allclose(gram, z.T @ z / 60, rtol=1e-9)
    leaving = leaving_prices(gram) * gram.diagonal().max()
    order = order_of("lasso", observed)
    assert order == ascending(leaving)
    for gone in range(1, 7):
        price = (leaving[order[gone - 1]] + leaving[order[gone]]) / 2
        model = linear_model.Lasso(
            alpha=price * 60 / len(z), fit_intercept=False, tol=1e-12, max_iter=10**6
        )
        kept = np.flatnonzero(model.fit(z, z.sum(axis=1)).coef_)
        assert set(kept) == set(order[gone:])


def test_lasso_needs_only_one_of_two_that_are_alike():
    pytest.importorskip("sklearn")
    from onnx_reap.prune.criteria.lasso import leaving_prices

    z = np.random.default_rng(0).standard_normal((40, 4))
    z = np.concatenate([z, z[:, :1]], axis=1)
    assert (leaving_prices(z.T @ z) == 0).sum() == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_nu_unifies_the_pair_of_least_error_with_the_weights_as_they_are(seed):
    """With one tap the error is that of the outputs themselves, for independent directions."""
    observed, known = group(6, taps=1, outputs=(4, 3), seed=seed)
    weights = [r.weight.copy() for _, r in known]
    behaviour = np.concatenate([x[:, r.columns[:, 0]] for x, r in known])
    alive, order = list(range(6)), []
    while len(alive) > 1:
        errors = {}
        for i, j in ((i, j) for i in alive for j in alive if i != j):
            a = behaviour[:, i] @ behaviour[:, j] / (behaviour[:, i] @ behaviour[:, i])
            lost = np.square(behaviour[:, j] - a * behaviour[:, i]).sum()
            norm = sum(
                np.square(w[r.columns[j, 0]]).sum()
                for w, (_, r) in zip(weights, known, strict=True)
            )
            errors[i, j] = (norm * lost, a)
        i, j = min(errors, key=lambda pair: errors[pair][0])
        for w, (_, r) in zip(weights, known, strict=True):
            w[r.columns[i, 0]] += errors[i, j][1] * w[r.columns[j, 0]]
        alive.remove(j)
        order.append(j)
    assert order_of("nu", observed) == [*order, *alive]


def test_nu_lets_a_multiple_of_another_unit_go_first():
    rng = np.random.default_rng(2)
    x = rng.standard_normal((50, 5))
    x[:, 3] = -2 * x[:, 1]
    mean = x.mean(0)
    reader = Reading(
        rng.standard_normal((5, 3)), np.arange(5)[:, None], np.cov(x.T, bias=True), mean
    )
    assert order_of("nu", Observation("g", np.zeros((5, 1)), (reader,)))[0] in (1, 3)


@pytest.mark.parametrize("seed", SEEDS)
def test_pls_ranks_by_variable_importance_in_projection(seed):
    """Two components by deflation; each weight vector is a singular vector of X'Y."""
    observed, _ = group(seed=seed)
    x, y = (
        (each - each.mean(0)) / each.std(0, ddof=1)
        for each in (observed.features, observed.responses)
    )
    weights, strengths = [], []
    for _ in range(2):
        w = np.linalg.svd(x.T @ y)[0][:, 0]
        t = x @ w
        p, q = x.T @ t / (t @ t), y.T @ t / (t @ t)
        x, y = x - np.outer(t, p), y - np.outer(t, q)
        weights.append(w)
        strengths.append((t @ t) * (q @ q))
    vip = np.sqrt(
        7 * sum(s * w**2 for s, w in zip(strengths, weights, strict=True)) / sum(strengths)
    )
    pytest.importorskip("sklearn")
    from onnx_reap.prune.criteria.pls import importances

    np.testing.assert_allclose(importances(observed.features, observed.responses), vip, rtol=1e-4)
    assert order_of("pls", observed) == ascending(vip)


def test_nu_lets_none_emulate_where_it_is_not_read():
    """Units 0 and 1 are the same, but the second layer reads unit 1 and not unit 0."""
    x = np.random.default_rng(3).standard_normal((50, 3))
    x[:, 1] = x[:, 0]
    readers = [
        Reading(np.ones((3, 2)), columns[:, None], x.T @ x / 50, np.zeros(3))
        for columns in (np.array([0, 1, 2]), np.array([-1, 1, 2]))
    ]
    assert order_of("nu", Observation("g", np.zeros((3, 1)), tuple(readers)))[0] == 0
    readers[1] = replace(readers[1], columns=np.array([[0], [-1], [2]]))
    assert order_of("nu", Observation("g", np.zeros((3, 1)), tuple(readers)))[0] == 1


def test_heirs_are_found_behind_heirs_that_went():
    ranking = Ranking(
        [3, 1, 0, 2],
        {3: MergeTarget(1, 2.0), 1: MergeTarget(0, 0.5), 0: MergeTarget(2, -1.0)},
        averaged=True,
    )
    assert ranking.merged(0) == {}
    assert ranking.merged(1) == {3: (1, 2.0)}
    assert ranking.merged(2) == {3: (0, 1.0), 1: (0, 0.5)}
    assert ranking.merged(3) == {3: (2, -1.0), 1: (2, -0.5), 0: (2, -1.0)}
    assert Ranking([1, 0, 2], {1: MergeTarget(0, 2.0)}).merged(2) == {}  # 0 went and has no target


@pytest.mark.parametrize("name", [name for name in NAMES if CRITERIA[name].merges])
@pytest.mark.parametrize("parts", [None, 2])
def test_heirs_go_later_and_are_of_the_same_part(name, parts):
    if CRITERIA[name].package:
        pytest.importorskip(CRITERIA[name].package)
    observed, _ = group(8, parts=parts)
    found = ranking(name, observed)
    assert len(found.targets) == 8 - (parts or 1)
    for unit, target in found.targets.items():
        assert found.order.index(target.unit) > found.order.index(unit)
        assert parts is None or observed.parts[unit] == observed.parts[target.unit]


def merged(rise, strength: np.ndarray) -> list[int]:
    """Merge the two clusters of least rise, again and again; the weaker of the two heads goes."""
    clusters, heads, gone = [[i] for i in range(len(strength))], list(range(len(strength))), []
    while len(clusters) > 1:
        pairs = combinations(range(len(clusters)), 2)
        a, b = min(pairs, key=lambda pair: rise(*(clusters[p] for p in pair)))
        weak, strong = sorted((heads[a], heads[b]), key=lambda u: strength[u])
        gone.append(weak)
        rest = [i for i in range(len(clusters)) if i not in (a, b)]
        clusters = [*(clusters[i] for i in rest), clusters[a] + clusters[b]]
        heads = [*(heads[i] for i in rest), strong]
    return [*gone, *heads]


@pytest.mark.parametrize("seed", SEEDS)
def test_similarity_merges_what_is_near_on_average(seed):
    observed, known = group(seed=seed)
    values = [np.concatenate([x[:, r.columns[i]].ravel() for x, r in known]) for i in range(7)]
    m, v = (np.array([f(each) for each in values]) for f in (np.mean, np.var))
    distance = np.sqrt((m[:, None] - m) ** 2 + v[:, None] + v)
    expected = merged(lambda one, other: distance[np.ix_(one, other)].mean(), v)
    assert order_of("similarity", observed) == expected


@pytest.mark.parametrize("seed", SEEDS)
def test_fold_raises_the_objective_of_k_means_least(seed):
    observed, _ = group(seed=seed)
    norms, points = np.linalg.norm(observed.filters, axis=1), observed.filters

    def spread(members) -> float:
        return float(np.square(points[members] - points[members].mean(0)).sum())

    expected = merged(lambda a, b: spread(a + b) - spread(a) - spread(b), norms)
    assert order_of("fold", observed) == expected
