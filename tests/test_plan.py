"""Plans: the formula is what a simulation on real overlaps finds, and each metric says what can be said of it."""

from __future__ import annotations

import json
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from qguard import cli
from qguard.config import load_config
from qguard.families import FAMILIES
from qguard.files import dump_json
from qguard.gates.check import Check, judge
from qguard.judging.session import Session
from qguard.judging.target import Target
from qguard.metrics import reduced
from qguard.metrics.bootstrap import DETECTABLE, uncertainty
from qguard.metrics.ranking import items
from qguard.metrics.statistics import Quantile
from qguard.planning.plan import ORDER, ROOT, least_of_quantile, plan
from qguard.precisions import parse_precision

DROP = 0.01
TRIALS = 4000


def check(name="ranking.overlap@10", items=100, detectable: float | None = 0.02, note="", value=0.95, part=None):
    return Check(name, "own", part, value, None, "reported", None, items, interval_note=note, detectable=detectable)


@pytest.fixture(scope="module")
def comparison(small, int8):
    session = Session(load_config(small))
    return session.comparison(Target(parse_precision("int8"), "minilm", "own"))


@pytest.fixture(scope="module")
def overlaps(comparison):
    """How many of its ten neighbors each text of a real suite keeps in int8, as a share."""
    return items(comparison).rows[:, 0]


@pytest.fixture(scope="module")
def checks(comparison):
    """Every value of int8 on the suite, as a report holds it."""
    found = []
    for name in ("ranking", "embedding", "similarity"):
        for part, metrics in FAMILIES[name].parts_of(comparison):
            found += judge(reduced(part, metrics, comparison.suite), [], "own", intervals=True)
    return found


@pytest.mark.parametrize("drop", [0.005, 0.01, 0.02])
def test_the_planned_number_of_real_texts_detects_the_drop_4_times_of_5(checks, overlaps, drop):
    """A gate, moved down by 1.64 standard errors of so many texts, against a model that is worse by the drop."""
    (need,) = plan([c for c in checks if c.label == "ranking.overlap@10"], drop)
    assert need.needed is not None
    values, share = np.unique(overlaps, return_counts=True)
    share = share / share.sum()
    # texts lose one neighbor more, as many as give the drop on average
    losing = drop / (0.1 * share[values >= 0.1].sum()) * share * (values >= 0.1)
    assert (losing <= share).all()
    same, worse = (
        simulated(values, share, need.needed),
        simulated(np.r_[values, values - 0.1], np.r_[share - losing, losing], need.needed),
    )
    bound = overlaps.mean() - NormalDist().inv_cdf(0.95) * overlaps.std() / need.needed**0.5
    assert (same < bound).mean() == pytest.approx(0.05, abs=0.015)
    assert (worse < bound).mean() == pytest.approx(0.80, abs=0.05)
    assert worse.mean() == pytest.approx(overlaps.mean() - drop, abs=drop / 20)


def simulated(values, shares, n):
    """Means of n texts drawn from real values, of many suites."""
    return np.random.default_rng(0).multinomial(n, shares, TRIALS) @ values / n


def test_half_of_the_planned_texts_does_not_detect_it(checks, overlaps):
    """The simulation can fail: with half of the texts power is clearly below 80 %."""
    (need,) = plan([c for c in checks if c.label == "ranking.overlap@10"], DROP)
    n = need.needed // 2
    values, share = np.unique(overlaps, return_counts=True)
    worse = simulated(values, share / share.sum(), n) - DROP
    bound = overlaps.mean() - NormalDist().inv_cdf(0.95) * overlaps.std() / n**0.5
    assert (worse < bound).mean() < 0.65


def test_each_metric_says_what_can_be_said_of_it(checks):
    found = {n.metric: n for n in plan([c for c in checks if c.slice is None], DROP)}
    assert found["ranking.overlap@10"].rule == ROOT
    minimum = found["embedding.cosine_min"]
    assert (minimum.needed, minimum.detectable) == (None, None)
    assert "a minimum has no interval" in minimum.why
    p01 = found["embedding.cosine_p01"]
    assert p01.needed is None
    assert "expected at least 368" in p01.why  # of 117 texts


def test_a_quantile_needs_the_order_statistics_of_an_interval():
    assert least_of_quantile(0.01) == least_of_quantile(0.99) == 368
    one = check("embedding.cosine_p01", 1000, 0.001, "order statistics")
    assert plan([one], 0.01)[0].needed == 368
    (need,) = plan([one], 0.0002)
    assert (need.needed, need.rule) == (25000, ORDER)


def test_the_plan_of_a_quantile_is_rough_and_rather_too_high():
    """Of 1,500 texts fifteen lie below p01, so the width that their order statistics give varies."""
    rng = np.random.default_rng(0)
    needed = []
    for _ in range(200):
        losses = rng.gamma(2, 0.001, 1500)
        found = uncertainty(Quantile(0, 0.01), 1 - losses[:, None], 0, "texts")
        one = check("embedding.cosine_p01", 1500, found.detectable, found.note)
        needed.append(plan([one], 0.0008)[0].needed)
    truth = 1170  # of so many texts the standard deviation of p01 is .0008 / 2.49
    assert DETECTABLE * np.quantile(1 - rng.gamma(2, 0.001, (1000, truth)), 0.01, axis=1).std() == pytest.approx(0.0008, rel=0.06)
    low, middle, high = np.quantile(needed, [0.1, 0.5, 0.9]) / truth
    assert 0.6 < low < 1 < middle < 1.4 < high < 2.4


def test_items_of_which_none_lost_anything_exclude_a_loss():
    one = check(items=40, detectable=0.05, note="exact binomial: none of 40 texts lost anything", value=1.0)
    (need,) = plan([one], 0.01)
    assert need.needed == 368
    assert 0.99**368 <= 0.025 < 0.99**367


def test_what_is_no_sample_of_items_and_what_was_not_asked_is_left_out():
    size = check("artifact.size_ratio", 1, None, "no sample of items")
    slow = check("latency.speedup", 12, None, "")
    assert plan([size, slow], DROP) == []
    assert [n.metric for n in plan([check(), check(), check(part="legal")], DROP)] == [
        "ranking.overlap@10",
        "ranking.overlap@10[legal]",
    ]


@pytest.fixture
def report(checks, tmp_path):
    """A saved report of these checks, made from one of the tests' data, whose other parts stay."""
    from tests.conftest import ROOT

    whole = json.loads((ROOT / "tests" / "data" / "report_schema_1.json").read_text(encoding="utf-8"))

    def write(some):
        run = next(r for r in whole["runs"] if r["suite"] == "loss")
        old = [{**c.to_json(), "bound": c.bound and c.bound.text} for c in some]
        for entry in old:
            entry.pop("promised")
        file = tmp_path / "r.json"
        file.write_bytes(dump_json({**whole, "runs": [{**run, "suite": "own", "checks": old}]}))
        return file

    return write


def planned(*args):
    return cli.main(["plan", *map(str, args)])


def test_the_command_shows_items_now_and_needed_and_the_formula(checks, report, tmp_path, capsys):
    assert planned("--detect", 0.01, report(checks), "--json", tmp_path / "p.json") == 0
    out = capsys.readouterr().out
    assert "int8-dynamic minilm own: items that a gate needs to detect a change for the worse of 0.01" in out
    assert "items needed = items x (detects now / drop)^2" in out
    assert "2.49 x standard error" in out
    assert "a minimum has no interval" in out
    facts = json.loads((tmp_path / "p.json").read_text())
    by = {m["metric"]: m for m in facts["runs"][0]["metrics"]}
    one = by["ranking.overlap@10"]
    assert one["needed"] > one["items"] * (one["detectable"] / 0.01) ** 2  # a worse model varies more
    mean = by["embedding.cosine_mean"]
    assert mean["needed"] == max(30, int(np.ceil(mean["items"] * (mean["detectable"] / 0.01) ** 2)))
    assert f"{one['needed']:,}" in out


def test_one_metric_is_asked_for_also_by_slice(checks, report, capsys):
    part = next(c.slice for c in checks if c.slice and c.name == "ranking.overlap@10")
    file = report(checks)
    assert planned("--detect", 0.05, "--metric", f"ranking.overlap@10[{part}]", file) == 0
    out = capsys.readouterr().out
    assert f"ranking.overlap@10[{part}]" in out
    assert "embedding" not in out
    assert planned("--detect", 0.05, "--metric", "ranking.overlap@10[*]", file) == 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--detect", "0"], "--detect: expected a number above 0, such as 0.01, found 0"),
        (["--detect", "nan"], "found nan"),
        (["--detect", "0.01", "--metric", "ranking.overlap@1"], "did you mean ranking.overlap@10"),
    ],
)
def test_mistakes_are_told_in_a_sentence(checks, report, capsys, args, words):
    assert planned(*args, report(checks)) == 2
    assert words in capsys.readouterr().err


def test_a_file_that_is_no_report_is_refused(tmp_path, capsys):
    (tmp_path / "r.json").write_text("{}")
    assert planned("--detect", 0.01, tmp_path / "r.json") == 2
    assert "not a report" in capsys.readouterr().err


def test_where_nothing_can_be_said_the_exit_code_is_3(checks, report, capsys):
    some = [replace(c, detectable=None) for c in checks if c.label == "embedding.cosine_min"]
    assert planned("--detect", 0.01, report(some)) == 3
    assert "no metric has a standard error, so nothing can be said" in capsys.readouterr().err
