"""Bisection names the first bad release, commit or pin, or says in words why it cannot."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from qguard.bisecting import locks
from qguard.bisecting.bisection import Answer
from qguard.bisecting.commits import Repository
from qguard.bisecting.environments import RECORD, environment, own_copy
from qguard.bisecting.index import Index, interpreter
from qguard.bisecting.judges import runtime_environment
from qguard.bisecting.reading import Reading
from qguard.bisecting.report import lines
from qguard.bisecting.search import BAD, GOOD, PASSED_OVER, first_bad, least_set
from qguard.bisecting.sides import sides_of
from qguard.bisecting.whole import replaced
from qguard.cli import main
from qguard.errors import MeasurementProblem, UsageProblem
from qguard.gates.check import Check
from tests import wheels

METRIC = "ranking.overlap@10"
# releases of an ONNX Runtime that is this one's with a change
RELEASES = {
    **dict.fromkeys(("1.0.0", "1.1.0", "1.2.0"), wheels.SAME),
    **dict.fromkeys(("1.3.0", "1.4.0", "1.5.0"), wheels.BAD),
    **dict.fromkeys(("2.0.0", "2.2.0", "3.0.0", "3.2.0"), wheels.SAME),
    **dict.fromkeys(("2.4.0", "3.1.0", "3.3.0"), wheels.BAD),
    "4.0.0": wheels.SAME,
    "4.1.0rc1": wheels.SAME,
    "4.1.0": wheels.NOISE.format(share=0.02),
    "5.0.0": wheels.TWICE,
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A folder of wheels, as a package index."""
    folder = tmp_path_factory.mktemp("wheels")
    for version, body in RELEASES.items():
        wheels.wheel(folder, "onnxruntime", version, wheels.runtime(version, body))
    wheels.wheel(folder, "onnxruntime", "2.1.0", wheels.runtime("2.1.0"), requires=["nothing-of-this-name"])
    wheels.wheel(folder, "onnxruntime", "2.3.0", wheels.runtime("2.3.0", loads=False))
    wheels.wheel(folder, "numpy", wheels.HERE["numpy"], shared=True)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def offline(shop, cache, monkeypatch):
    """pip's settings for that folder alone, and a cache of its own for environments."""
    for name in [n for n in os.environ if n.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shop))
    monkeypatch.setenv("QGUARD_CACHE", str(cache))
    return shop


@pytest.fixture(scope="module")
def project(small, tmp_path_factory):
    """The small project with a gate that its int8 holds by far."""
    from tests import goldens

    folder = tmp_path_factory.mktemp("project")
    goldens.project(small, folder, extra=f'[tool.qguard.gates.int8]\n"{METRIC}" = ">= 0.9"\n')
    file = folder / "pyproject.toml"
    file.write_text(file.read_text().replace("[tool.qguard.latency]\n", '[tool.qguard.latency]\nregression = "<= 1.25"\n'))
    return folder


@pytest.fixture
def bisect(offline, project, int8, capsys, tmp_path):
    """``qguard bisect`` in the project: exit code, what it prints, and its JSON."""

    def run(*args, metric=METRIC, artifact=int8.folder, config=project):
        file = tmp_path / "out.json"
        given = [f"--artifact={artifact}"] if artifact else []
        options = ["--metric", metric, "--precision", "int8", *given, "--config", str(config), "--json", str(file)]
        code = main(["bisect", *args, *options])
        said = capsys.readouterr()
        found = json.loads(file.read_text()) if file.exists() else {}
        return SimpleNamespace(code=code, out=said.out, err=said.err, json=found, said=said.out + said.err)

    return run


def _releases(good, bad, *more):
    return ["--package", "onnxruntime", "--good", good, "--bad", bad, *more]


# --- the search


@pytest.mark.parametrize("places", [2, 3, 4, 11, 64])
def test_every_place_of_a_change_is_found(places):
    for change in range(1, places):
        asked = []

        def side(i, change=change, asked=asked):
            asked.append(i)
            return BAD if i >= change else GOOD

        found = first_bad(places, side)
        assert (found.good, found.bad, found.turns) == (change - 1, change, [])
        assert len(asked) == len(set(asked)) <= places.bit_length()


def test_what_cannot_be_judged_leaves_a_range():
    sides = [GOOD, GOOD, PASSED_OVER, PASSED_OVER, BAD, BAD, PASSED_OVER, BAD]
    found = first_bad(len(sides), sides.__getitem__)
    assert (found.good, found.bad, found.between) == (1, 4, [2, 3])
    nothing = first_bad(5, lambda i: PASSED_OVER)
    assert (nothing.good, nothing.bad, nothing.between) == (0, 4, [1, 2, 3])


def test_a_change_that_was_taken_back_is_seen_where_every_place_is_judged():
    sides = [GOOD, GOOD, BAD, PASSED_OVER, GOOD, BAD]
    found = first_bad(len(sides), sides.__getitem__, every=True)
    assert (found.good, found.bad, found.turns) == (1, 2, [(2, 4)])
    assert found.sides == dict(enumerate(sides))


@pytest.mark.parametrize("needed", [{"c"}, {"a"}, {"h"}, {"b", "g"}, {"a", "d", "h"}])
def test_the_changes_that_do_it_together_are_found(needed):
    names = list("abcdefgh")
    found, alone = least_set(names, lambda chosen: BAD if needed <= chosen else GOOD)
    assert (set(found), alone) == (needed, True)


def test_combinations_that_cannot_be_judged_widen_the_set():
    def side(chosen):
        return PASSED_OVER if "c" in chosen and "d" not in chosen else BAD if {"c", "d"} <= chosen else GOOD

    found, alone = least_set(list("abcdef"), side)
    assert {"c", "d"} <= set(found)
    assert alone


def _reading(value, outcome, name="v"):
    return Reading(name, value, outcome, ">= 0.9")


def test_sides_are_those_of_the_gate_or_of_the_nearer_end():
    by_gate = sides_of(_reading(0.95, "pass"), _reading(0.8, "fail"), True)
    assert [by_gate.of(_reading(v, o)) for v, o in ((0.901, "pass"), (0.89, "fail"))] == [GOOD, BAD]
    by_value = sides_of(_reading(0.99, "pass"), _reading(0.95, "pass"), True)
    assert [by_value.of(_reading(v, "pass")) for v in (0.98, 0.96)] == [GOOD, BAD]
    assert "differ by 0.04" in by_value.words
    assert by_value.of(_reading(None, PASSED_OVER)) == PASSED_OVER
    assert sides_of(_reading(0.99, "pass"), _reading(0.95, "pass"), True, change=0.05) is None
    assert sides_of(_reading(0.1, "reported"), _reading(0.2, "reported"), False).of(_reading(0.19, "reported")) == BAD


@pytest.mark.parametrize(
    ("good", "bad", "words"),
    [
        (_reading(0.8, "fail"), _reading(0.95, "pass"), "the good end fails and the bad end holds, so they are swapped"),
        (_reading(0.95, "pass"), _reading(0.99, "pass"), "the bad end is better than the good one"),
        (_reading(0.8, "fail"), _reading(0.8, "fail"), "both ends fail alike"),
    ],
)
def test_ends_that_say_something_else_are_refused(good, bad, words):
    with pytest.raises(UsageProblem, match=words):
        sides_of(good, bad, True)


def test_a_difference_within_chance_is_called_little():
    good, bad = (Reading("v", value, "pass", ">= 0.9", detectable=0.003) for value in (0.971, 0.9705))
    answer = Answer("release", "x", METRIC, ["1", "2"], {0: good, 1: bad}, sides_of(good, bad, True), first_bad(2, str))
    assert "this is little: the suite tells a loss from chance from 0.003 on" in "\n".join(lines(answer))


@pytest.mark.parametrize("outcome", ["inconclusive", "runner unfit"])
def test_a_trial_that_cannot_decide_passes_its_release_over(outcome):
    check = Check("latency.regression", "own", "64x1", 1.04, None, outcome, None, 9, ("9 pairs could not tell",))
    found = Reading.of("1.0", check, note="9 pairs in 3 s")
    assert not found.judged
    assert found.words == f"not judged: {outcome}: 9 pairs could not tell"


# --- releases


def test_the_first_bad_release_is_named(bisect):
    done = bisect(*_releases("1.0.0", "1.5.0"))
    assert done.code == 1, done.said
    assert "first bad release: onnxruntime 1.3.0" in done.out
    assert "gate >= 0.9 FAILS" in done.out
    assert "good: onnxruntime 1.2.0" in done.out
    assert "again, bad: pip install onnxruntime==1.3.0 && pytest --pyargs qguard.gate" in done.out
    assert (done.json["first_bad"], done.json["last_good"], done.json["found"]) == ("1.3.0", "1.2.0", True)
    assert 4 <= len(done.json["judged"]) <= 5
    assert done.json["judged"][0]["versions"] == {"numpy": wheels.HERE["numpy"], "onnxruntime": "1.0.0"}


def test_environments_are_made_once_and_anew_where_asked(offline):
    index = Index.here()
    made = runtime_environment(index, "onnxruntime", "1.2.0", refresh=False)
    at = (made.folder / RECORD).stat().st_mtime_ns
    assert runtime_environment(index, "onnxruntime", "1.2.0", refresh=False) == made
    assert (made.folder / RECORD).stat().st_mtime_ns == at
    assert runtime_environment(index, "onnxruntime", "1.2.0", refresh=True) == made
    assert (made.folder / RECORD).stat().st_mtime_ns > at


def test_releases_that_cannot_be_judged_leave_a_range(bisect):
    done = bisect(*_releases("2.0.0", "2.4.0"))
    assert done.code == 1, done.said
    assert "2.2.0" in done.json["last_good"]
    assert "the first bad release is 2.3.0 or 2.4.0: 2.3.0 could not be judged" in done.out
    assert "libfoo.so.1 is not there" in done.out
    assert done.json["not_judged_between"] == ["2.3.0"]


def test_a_release_that_cannot_be_installed_is_told_with_the_installers_words(bisect):
    done = bisect(*_releases("2.0.0", "2.1.0"))
    assert done.code == 3
    assert "the bad end 2.1.0 could not be judged: installing failed" in done.said
    assert "nothing-of-this-name" in done.said


@pytest.mark.long
def test_changes_that_were_taken_back_are_told(bisect):
    done = bisect(*_releases("3.0.0", "3.3.0", "--all"))
    assert done.code == 1
    assert "first bad release: onnxruntime 3.1.0" in done.out
    assert "not one change: 3.1.0 is bad and 3.2.0 is good again" in done.out
    assert done.json["bad_then_good"] == [["3.1.0", "3.2.0"]]


def test_a_change_within_the_gate_is_found_by_its_value(bisect):
    done = bisect(*_releases("4.0.0", "4.1.0", "--pre"), metric="embedding.cosine_mean")
    assert done.code == 1, done.said
    assert "a second run of each differs by 0" in done.err
    assert "first bad release: onnxruntime 4.1.0" in done.out
    assert [r["name"] for r in done.json["judged"]] == ["4.0.0", "4.1.0rc1", "4.1.0"]
    assert "so a version is bad where it is nearer to the bad end" in done.out
    done = bisect(*_releases("4.0.0", "4.1.0", "--change", "0.5"), metric="embedding.cosine_mean")
    assert done.code == 0
    assert "no regression: both ends agree in embedding.cosine_mean" in done.out
    assert [r["name"] for r in done.json["judged"]] == ["4.0.0", "4.1.0"]  # no pre-release unless asked for


@pytest.mark.long
def test_going_back_names_the_first_older_one(bisect):
    done = bisect(*_releases("2.2.0", "1.3.0"))
    assert done.code == 1
    assert done.json["first_bad"] == "1.5.0"


@pytest.mark.parametrize(
    ("args", "metric", "code", "words"),
    [
        (_releases("1.3.0", "1.0.0"), METRIC, 2, "the good end fails and the bad end holds, so they are swapped"),
        (_releases("1.0.0", "1.0.0"), METRIC, 2, "--good and --bad are both 1.0.0"),
        (_releases("1.0.0", "9.9.9"), METRIC, 2, "--bad 9.9.9: the package index has no such release of onnxruntime"),
        (_releases("new", "1.0.0"), METRIC, 2, "--good: expected a release such as 1.24.4, found 'new'"),
        (["--package", "no-such", "--good", "1", "--bad", "2"], METRIC, 2, "the package index has no release of no-such"),
        (["--package", "a @ file:///b", "--good", "1", "--bad", "2"], METRIC, 2, "expected the name of a distribution"),
        (["--package", "onnxruntime", "--good", "1.0.0"], METRIC, 2, "found --package, --good and --bad in part"),
        ([], METRIC, 2, "found none"),
        (
            _releases("1.0.0", "1.3.0"),
            "ranking.overlp@10",
            2,
            "unknown metric 'ranking.overlp@10'; did you mean ranking.overlap@10",
        ),
        (_releases("1.0.0", "1.3.0"), f"{METRIC}[law]", 3, f"no value for {METRIC}[law]"),
        (_releases("1.0.0", "1.3.0"), "order.overlap@10", 2, "a model of kind dense has no such metric"),
        (_releases("1.0.0", "1.3.0"), "artifact.size_ratio", 2, "is not a statistic of the suite's texts"),
        (_releases("1.0.0", "1.3.0"), "latency.p50", 2, "expected latency.regression or latency.speedup"),
        (_releases("1.0.0", "1.3.0"), "latency.regression[64]", 2, "expected tokens x batch"),
        (_releases("1.0.0", "1.3.0", "--change", "0"), METRIC, 2, "--change: expected a number above 0"),
        (["--package", "tokenizers", "--good", "1", "--bad", "2"], "latency.speedup", 2, "latency is bisected over releases of"),
    ],
)
def test_what_cannot_be_asked_is_told(bisect, args, metric, code, words):
    done = bisect(*args, metric=metric)
    assert words in done.said, done.said
    assert done.code == code
    assert "Traceback" not in done.said


def test_a_metric_that_no_gate_bounds_is_judged_by_its_value(bisect):
    done = bisect(*_releases("1.2.0", "1.3.0"), metric="ranking.rbo")
    assert done.code == 1
    assert ", no gate" in done.out


def test_an_index_that_cannot_be_reached_is_told(bisect, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:secret@127.0.0.1:9/simple")
    done = bisect(*_releases("1.0.0", "1.3.0"))
    assert done.code == 3
    assert "the package index cannot be reached" in done.said
    assert "secret" not in done.said


@pytest.mark.timing
def test_a_release_that_is_slower_is_found_by_paired_trials(bisect):
    for _ in range(3):  # a busy machine may leave a trial undecided, as it should
        done = bisect(*_releases("4.0.0", "5.0.0"), metric="latency.regression[64x1]")
        if "inconclusive" not in done.said and "runner unfit" not in done.said:
            break
    assert done.code == 1, done.said
    assert "first bad release: onnxruntime 5.0.0" in done.out
    judged = {r["name"]: r for r in done.json["judged"]}
    assert judged["4.1.0"]["outcome"] == "pass"
    assert (judged["4.0.0"]["value"], judged["4.0.0"]["note"]) == (1.0, "what the others are timed against")
    assert 1.7 < judged["5.0.0"]["value"] < 2.3
    assert "pairs in" in judged["5.0.0"]["note"]


# --- environments


def test_a_half_made_environment_is_never_taken_for_whole(offline, shop):
    wheels.wheel(shop, "alpha", "1")
    index = Index.here()
    made = environment(index, ["alpha==1"])
    (made.folder / RECORD).unlink()  # as if whoever made it had been killed
    assert environment(index, ["alpha==1"]).installed == {"alpha": "1"}
    with pytest.raises(MeasurementProblem, match="installing failed"):
        environment(index, ["alpha==2"])
    assert not [p for p in made.folder.parent.iterdir() if p.is_dir() and p.name.startswith(".")]


def test_another_index_has_environments_of_its_own(offline, tmp_path, monkeypatch):
    wheels.wheel(offline, "alpha", "1")
    first = environment(Index.here(), ["alpha==1"])
    wheels.wheel(tmp_path, "alpha", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert environment(Index.here(), ["alpha==1"]).folder != first.folder


def test_venv_and_pip_serve_without_uv(offline, tmp_path):
    wheels.wheel(offline, "zeta", "1", requires=["beta"])
    wheels.wheel(offline, "beta", "3")
    index = Index(Index.here().settings, None)
    assert index.tool == "venv and pip"
    python = index.create(tmp_path / "env")
    index.install(python, ["zeta==1"])
    assert environment(index, ["zeta==1"]).installed == {"beta": "3", "zeta": "1"}
    assert python == interpreter(tmp_path / "env")


def test_no_index_is_heeded_by_both_tools(offline, tmp_path):
    here = Index.here()
    for index in (here, Index(here.settings, None)):
        python = index.create(tmp_path / index.tool / "env")
        with pytest.raises(MeasurementProblem, match="installing failed"):
            index.install(python, ["packaging"])  # which PyPI has


def test_settings_that_uv_has_not_leave_it_to_pip(offline, monkeypatch):
    monkeypatch.setenv("PIP_ONLY_BINARY", ":all:")
    assert Index.here().uv is None


def test_pins_that_contradict_a_release_are_given_up_and_told(offline):
    wheels.wheel(offline, "gamma", "1")
    wheels.wheel(offline, "gamma", "2", requires=["delta>=2"])
    wheels.wheel(offline, "gamma", "3", requires=["delta>=7"])
    wheels.wheel(offline, "delta", "1")
    wheels.wheel(offline, "delta", "2")
    wheels.wheel(offline, "epsilon", "1")
    here = {"delta": "1", "epsilon": "1"}
    assert replaced(Index.here(), here, "gamma", "1", False).note == ""
    made = replaced(Index.here(), here, "Gamma", "2", False)
    assert made.installed == {"delta": "2", "epsilon": "1", "gamma": "2"}
    assert made.note == "with delta 2 instead of 1"
    wheels.wheel(offline, "holds-a-model", "1", requires=["torch"])
    with_files = replaced(Index.here(), here, "gamma", "2", False, {"holds-a-model": "1"})
    assert with_files.installed == {**made.installed, "holds-a-model": "1"}  # what it needs is not installed
    with pytest.raises(MeasurementProblem, match=r"gamma 3 needs delta>=7, found 1"):
        replaced(Index.here(), here, "gamma", "3", False)


def test_the_copy_of_qguard_is_whole_and_alone(cache, monkeypatch):
    monkeypatch.setenv("QGUARD_CACHE", str(cache))
    folder = own_copy()
    names = {p.name.partition("-")[0] for p in folder.iterdir()}
    assert names == {"qguard"}
    assert (folder / "qguard" / "gate" / "test_quantization.py").exists()
    assert "qguard.plugin" in next(folder.glob("*.dist-info/entry_points.txt")).read_text()
    assert own_copy() == folder


# --- lock files


def test_pins_are_read_for_this_python(tmp_path):
    file = tmp_path / "requirements.txt"
    file.write_text(
        "# pinned\nNumPy==2.4.6 \\\n    --hash=sha256:00 \\\n    --hash=sha256:01\n"
        "foo_bar[x]==1.0 ; python_version >= '3'  # via\n"
        "old==1 ; python_version < '3'\nqguard==0.1\n"
    )
    assert locks.read_lock(file) == {"numpy": "2.4.6", "foo-bar": "1.0"}
    toml = tmp_path / "pylock.toml"
    toml.write_text(
        'lock-version = "1.0"\n[[packages]]\nname = "numpy"\nversion = "2.4.6"\n'
        '[[packages]]\nname = "old"\nversion = "1"\nmarker = "python_version < \'3\'"\n'
    )
    assert locks.read_lock(toml) == {"numpy": "2.4.6"}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("r.txt", "numpy>=2\n", "line 1: 'numpy>=2' pins no version; expected NAME==VERSION"),
        ("r.txt", "numpy==2.*\n", "pins no version"),
        ("r.txt", "a==1\nnumpy\n", "line 2: 'numpy' pins no version"),
        ("r.txt", "-r other.txt\n", "options of pip are not read, found '-r other.txt'"),
        ("r.txt", "./folder\n", "expected NAME==VERSION, found './folder'"),
        ("r.txt", "# nothing\n", "pins no package"),
        ("uv.lock", "version = 1\n", "uv export --no-hashes"),
        ("pylock.toml", "x = 1\n", "expected a pylock.toml"),
        ("pylock.toml", "x = \n", "is not valid TOML"),
        ("pylock.toml", 'lock-version = "1.0"\n[[packages]]\nname = "a"\n', "a has no version"),
    ],
)
def test_a_file_that_pins_no_versions_is_told(bisect, tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    (tmp_path / "bad.txt").write_text("numpy==1\n")
    done = bisect("--good-lock", str(tmp_path / name), "--bad-lock", str(tmp_path / "bad.txt"))
    assert done.code == 2
    assert words in done.said


def test_equal_and_missing_files_are_told(bisect, tmp_path):
    (tmp_path / "a.txt").write_text("numpy==1\n")
    (tmp_path / "b.txt").write_text("NumPy==1\n")
    done = bisect("--good-lock", str(tmp_path / "a.txt"), "--bad-lock", str(tmp_path / "b.txt"))
    assert (done.code, "pin the same versions" in done.said) == (2, True)
    done = bisect("--good-lock", str(tmp_path / "a.txt"), "--bad-lock", str(tmp_path / "none.txt"))
    assert (done.code, "none.txt: No such file" in done.said) == (2, True)


@pytest.fixture(scope="module")
def market(shop, project, int8):
    """Empty wheels of all that the gate needs here, and of packages that switch the noise of an ONNX Runtime on."""
    from qguard.bisecting.question import Question
    from qguard.bisecting.whole import needed
    from qguard.config import load_config
    from qguard.judging.session import Session
    from qguard.precisions import parse_precision

    session = Session(load_config(project), int8.folder)
    (target,) = session.targets([parse_precision("int8")])
    pinned, files = needed(Question.of(session, target, METRIC))
    for name, version in (pinned | files).items():
        if name == "onnxruntime":
            body = f"""
import os
{wheels.SAME.replace("return", "if not (os.environ.get('ONE') and os.environ.get('TWO')): return")}{wheels.BAD}"""
            wheels.wheel(shop, name, version, wheels.runtime(version, body))
        elif name != "numpy":
            wheels.wheel(shop, name, version)
    for name, variables in {"one": ["ONE"], "two": ["TWO"], "both": ["ONE", "TWO"], "idle": []}.items():
        switches = "; ".join(["import os", *(f"os.environ[{v!r}] = '1'" for v in variables)])
        wheels.wheel(shop, name, "1")
        wheels.wheel(shop, name, "2", {f"{name}_switch.pth": switches + "\n"})
    wheels.wheel(shop, "idle", "3", requires=["one>=9"])
    return shop


def _locks(folder: Path, good: dict[str, str], bad: dict[str, str]) -> list[str]:
    args = []
    for option, pins in (("good", good), ("bad", bad)):
        file = folder / f"{option}.txt"
        file.write_text("".join(f"{n}=={v}\n" for n, v in pins.items()))
        args += [f"--{option}-lock", str(file)]
    return args


@pytest.mark.long
def test_the_one_pin_that_did_it_is_named(bisect, market, tmp_path):
    done = bisect(*_locks(tmp_path, {"both": "1", "idle": "1", "one": "1"}, {"both": "2", "idle": "3", "one": "1"}))
    assert done.code == 1, done.said
    assert "the change that did it: both 1 -> 2" in done.out
    assert done.json["changes"] == ["both 1 -> 2"]
    assert "good.txt && pip install --no-deps both==2 && pytest --pyargs qguard.gate" in done.out
    assert "these versions do not fit together: idle 3 needs one>=9, found 1" in done.err


@pytest.mark.long
def test_pins_that_do_it_together_are_named(bisect, market, tmp_path):
    pins = {"idle": "1", "one": "1", "two": "1"}
    done = bisect(*_locks(tmp_path, pins, dict.fromkeys(pins, "2")))
    assert done.code == 1, done.said
    assert "2 changes do it together: two 1 -> 2, one 1 -> 2" in done.out
    assert done.json["changes_alone"]


@pytest.mark.long
def test_a_package_that_no_worker_runs_is_judged_by_the_whole_gate(bisect, market):
    done = bisect("--package", "both", "--good", "1", "--bad", "2")
    assert done.code == 1, done.said
    assert "first bad release: both 2" in done.out
    assert "gate >= 0.9 FAILS" in done.out


# --- commits


def _git(folder, *args):
    names = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *names, "-C", str(folder), *args], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(project, tmp_path):
    """The project's commits: as it is, a comment, a golden that is gone, and a gate that nothing holds."""
    folder = tmp_path / "repository"
    shutil.copytree(project, folder)
    file = folder / "pyproject.toml"
    _git(folder, "init", "-q", "-b", "main")
    _git(folder, "add", "-A")
    _git(folder, "commit", "-qm", "first")
    file.write_text(file.read_text() + "# a comment\n")
    _git(folder, "commit", "-qam", "say more")
    golden = next(folder.rglob("manifest.json"))
    kept = golden.read_text()
    golden.write_text("{")
    _git(folder, "commit", "-qam", "break the golden")
    golden.write_text(kept)
    file.write_text(file.read_text().replace('">= 0.9"', '">= 0.9999"'))
    _git(folder, "commit", "-qam", "raise the gate")
    return folder


@pytest.mark.long
def test_the_commit_is_found_and_the_checkout_is_left_alone(bisect, repository):
    (repository / "untracked").write_text("mine")
    (repository / "own.jsonl").write_text("changed\n")
    (repository / ".git" / "hooks" / "post-checkout").write_text("#!/bin/sh\ntouch hooked\n")
    (repository / ".git" / "hooks" / "post-checkout").chmod(0o755)
    _git(repository, "add", "untracked")
    before = {p: p.read_bytes() for p in repository.rglob("*") if p.is_file() and p.name != "out.json"}
    done = bisect("--good-commit", "main~3", "--bad-commit", "main", config=repository)
    assert done.code == 1, done.said
    assert "the checkout has changes that are in no commit" in done.err
    assert "break the golden or " in done.out
    assert "raise the gate" in done.out
    assert done.json["last_good"].endswith("say more")
    assert before == {p: p.read_bytes() for p in repository.rglob("*") if p.is_file() and p.name != "out.json"}
    assert _git(repository, "worktree", "list").count("\n") == 0


def test_a_path_that_git_tracks_is_that_of_the_commit(repository, tmp_path):
    found = Repository(repository)
    first, *_ = found.between("main~3", "main")
    (repository / "mine.onnx").write_text("untracked")
    with found.worktree(first) as tree:
        assert found.placed(repository / "own.jsonl", tree) == str(tree / "own.jsonl")
        assert found.placed(repository / "mine.onnx", tree) == str(repository / "mine.onnx")
        assert found.placed(tmp_path / "model", tree) == str(tmp_path / "model")
        assert found.placed(None, tree) is None
        assert "# a comment" not in (tree / "pyproject.toml").read_text()
    assert not tree.exists()


@pytest.mark.parametrize(
    ("good", "bad", "words"),
    [
        ("nowhere", "main", "--good-commit nowhere: the repository has no such commit"),
        ("main", "main^0", "--good-commit and --bad-commit are both"),
        ("main", "main~2", "--good-commit main comes after --bad-commit main~2; exchange them"),
        ("side", "main", "--good-commit side is not before --bad-commit main"),
    ],
)
def test_commits_that_cannot_be_searched_are_told(bisect, repository, good, bad, words):
    _git(repository, "checkout", "-qb", "side", "main~2")
    _git(repository, "commit", "-qm", "aside", "--allow-empty")
    _git(repository, "checkout", "-q", "main")
    done = bisect("--good-commit", good, "--bad-commit", bad, config=repository)
    assert done.code == 2
    assert words in done.said


def test_a_folder_outside_a_repository_is_told(bisect, project):
    done = bisect("--good-commit", "a", "--bad-commit", "b", config=project)
    assert done.code == 2
    assert "is not in a git repository" in done.said
