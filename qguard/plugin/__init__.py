"""The pytest plugin: options, fixtures, hooks. It only translates; nothing else in qguard imports pytest."""

from __future__ import annotations

import os
from collections.abc import Generator
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qguard.console.visible import visible
from qguard.plugin.options import add_options, add_short, without_short
from qguard.plugin.state import GATE, RECORD, STATE, TAKEN, State

if TYPE_CHECKING:
    from qguard.fleet import Fleet
    from qguard.judging.session import Session, Target
    from qguard.plugin.gatekeeper import GateKeeper

_ASKS = ("--precision", "--qguard-precision")
_JUDGES = ("qguard_gate", "qguard_encoder", "qguard_comparison")  # fixtures that run the candidate
# what pytest shows instead of running tests; its exit code is then 0 whatever a plugin says
_SHOWS = ("help", "version", "markers", "showfixtures", "show_fixtures_per_test", "cacheshow")
FIXTURES = (
    "qguard_target", "qguard_gate", "qguard_session", "qguard_harness", "qguard_encoder", "qguard_golden", "qguard_comparison",
)  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the option names that are qguard's own; the short ones follow once others had the chance to own them."""
    add_options(parser)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: list[str]
) -> Generator[None, None, None]:
    """Short option names, after plugins and conftest files; before, pytest must not take their values for paths of tests."""
    known = early_config.known_args_namespace
    known.file_or_dir = parser.parse_known_args(without_short(args), copy(early_config.option)).file_or_dir
    yield
    early_config.stash[TAKEN] = add_short(parser)
    early_config.known_args_namespace = parser.parse_known_args(args, namespace=known)


def asked_for(config: pytest.Config) -> str | None:
    """The precisions that the command line names; ``None`` where no gate runs.

    An empty one, of a variable that is not set, asks for a gate too: it must not turn into a run without.
    """
    found: str | None = config.getoption("qguard_precision")
    return found


class _NoBenchmark:
    """Stands in for pytest-benchmark under ``-p no:benchmark``: latency is measured all the same."""

    @pytest.fixture
    def benchmark(self) -> None:
        """No fixture to hand timings to."""


def pytest_configure(config: pytest.Config) -> None:
    """Read the configuration only when a gate was asked for."""
    if not config.pluginmanager.hasplugin("benchmark"):
        config.addinivalue_line("markers", "benchmark: the marker of pytest-benchmark, which is disabled here")
        config.pluginmanager.register(_NoBenchmark(), "qguard-no-benchmark")
    config.addinivalue_line("markers", "qguard(family, labelled, generated): runs with the gate if --precision is given")
    asked, update = asked_for(config), config.getoption("qguard_golden_update")
    shows = next((name for name in _SHOWS if getattr(config.option, name, None)), "")
    strict = config.getoption("qguard_strict")
    wanted = asked is not None or any(str(a).startswith(_ASKS) for a in config.invocation_params.args)  # --help reads no more
    if wanted and shows and (os.environ.get("CI") if strict is None else strict):
        raise pytest.UsageError(
            f"--precision is strict here, and nothing would be judged: another option only shows something ({shows})"
        )
    if asked is None and not update:
        for option, name in (
            ("qguard_artifact", "--artifact"),
            ("qguard_report", "--qguard-report"),
            ("qguard_attest", "--qguard-attest"),
            ("qguard_baseline_artifact", "--baseline-artifact"),
            ("qguard_baseline_python", "--baseline-python"),
            ("qguard_baseline_endpoint", "--baseline-endpoint"),
            ("qguard_endpoint", "--endpoint"),
            ("qguard_endpoint_protocol", "--endpoint-protocol"),
            ("qguard_endpoint_model", "--endpoint-model"),
            ("qguard_endpoint_replica", "--endpoint-replica"),
            ("qguard_index", "--index"),
            ("qguard_vectors", "--qguard-vectors"),
            ("qguard_cpu", "--cpu"),
            ("qguard_cpu_texts", "--qguard-cpu-texts"),
            ("qguard_ray", "--ray"),
            ("qguard_ray_alike", "--ray-alike"),
        ):
            if config.getoption(option):
                raise pytest.UsageError(f"{name} needs --precision: nothing would be measured")
        return
    if asked is not None and update:
        raise pytest.UsageError("--golden-update records fp32 and cannot be combined with --precision; run them one by one")
    from qguard.boundary import shown, told
    from qguard.errors import QguardError
    from qguard.report import check_format

    try:
        for path in config.getoption("qguard_report"):
            check_format(Path(path))
        state = _state(config, "fp32" if asked is None else asked)
        if update:
            from qguard.goldens import refuse_in_ci

            refuse_in_ci(config.getoption("qguard_golden_update_in_ci"))
    except pytest.UsageError:
        raise
    except Exception as e:
        problem = e if isinstance(e, QguardError) else told(e, "reading the configuration")
        raise pytest.UsageError(visible(f"{shown(problem)}{problem}")) from None
    config.stash[STATE] = state
    if asked is not None:
        _add_gate(config, state)


def _state(config: pytest.Config, asked: str) -> State:
    from qguard import parts
    from qguard.config import load_config
    from qguard.endpoints.settings import SERVED
    from qguard.errors import UsageProblem
    from qguard.judging.cpus import parse_texts, resolved
    from qguard.judging.session import Session
    from qguard.precisions import parse_precisions

    parts.check()
    path = config.getoption("qguard_config")
    loaded = load_config(Path(path) if path else _project(config))
    chosen = loaded.select(config.getoption("qguard_model"), config.getoption("qguard_suite"))
    url, update_goldens = config.getoption("qguard_endpoint"), config.getoption("qguard_golden_update")
    protocol, named, replicas = (config.getoption(f"qguard_endpoint_{name}") for name in ("protocol", "model", "replica"))
    chosen = chosen.served(url, protocol, named, tuple(replicas))
    artifact = config.getoption("qguard_artifact")
    precisions, device = parse_precisions(asked, chosen.precisions, chosen.own_precisions), config.getoption("qguard_device")
    if url and not (update_goldens or any(p.name == SERVED for p in precisions)):
        raise UsageProblem(f"--endpoint URL is judged as {SERVED}, which is not among the precisions: --precision {SERVED}")
    if device == "cuda" and not any("cuda" in p.runs_in.devices for p in precisions):
        raise UsageProblem(f"--qguard-device cuda is for torch precisions, such as fp16@torch; {asked} runs on the CPU")
    only = [str(p) for p in precisions if p.runs_in.devices == ("cuda",)]
    if device == "cpu" and only:
        raise UsageProblem(
            f"--qguard-device cpu: {', '.join(only)} runs on CUDA devices alone; leave the option out, or judge @onnx"
        )
    update = {"latency": chosen.latency.model_copy(update=_latency(config)), "device": device or chosen.device}
    update["robustness"] = chosen.robustness.model_copy(update=_robustness(config))
    if mode := config.getoption("qguard_service"):
        update["service"] = chosen.service.model_copy(update={"mode": mode})
    chosen = chosen.model_copy(update=update)
    baseline, cpus = config.getoption("qguard_baseline_artifact"), _names(config.getoption("qguard_cpu"))
    session = Session(
        chosen,
        Path(artifact) if artifact else None,
        Path(baseline) if baseline else None,
        config.getoption("qguard_baseline_python"),
        config.getoption("qguard_baseline_endpoint"),
        intervals=bool(config.getoption("qguard_report")),
        indexes=_names(config.getoption("qguard_index")),
        cpus=resolved(cpus),
        cpu_texts=parse_texts(config.getoption("qguard_cpu_texts"), cpus),
        fleet=_fleet(config),
    )
    targets = session.targets(precisions)
    if config.getoption("qguard_attest"):
        from qguard.attest.evidence import refuse_cpus, refuse_indexes, refuse_several

        refuse_several(targets)
        refuse_indexes(session.indexes)
        refuse_cpus(session.cpus)
    strict = config.getoption("qguard_strict")
    strict = strict if strict is not None else chosen.strict if chosen.strict is not None else bool(os.environ.get("CI"))
    return State(session, targets, strict)


def _fleet(config: pytest.Config) -> Fleet | None:
    """The machines of ``--ray``; of xdist's workers each has its own."""
    address, alike = config.getoption("qguard_ray"), config.getoption("qguard_ray_alike")
    if address is None:
        if alike:
            raise pytest.UsageError("--ray-alike is about the nodes of a cluster; give --ray ADDRESS too")
        return None
    from qguard.fleet import connect

    return connect(address, alike)


def _names(given: str | None) -> tuple[str, ...]:
    """Names that an option separates by commas."""
    return tuple(dict.fromkeys(name for part in (given or "").split(",") if (name := part.strip())))


def _latency(config: pytest.Config) -> dict[str, Any]:
    """What the command line says about latency. ``--benchmark-max-time`` caps the budget where it is not its default."""
    update: dict[str, Any] = {}
    if mode := config.getoption("qguard_latency"):
        update["mode"] = mode
    longest = float(config.getoption("benchmark_max_time", 1.0))
    if longest != _BENCHMARK_DEFAULT:
        update["budget"] = longest
    return update


_BENCHMARK_DEFAULT = 1.0  # seconds; pytest-benchmark's own default says nothing about ours


def _robustness(config: pytest.Config) -> dict[str, Any]:
    """What the command line says about generated texts; the last two are options of Hypothesis' own plugin.

    A profile sets the number of examples, and unless it is derandomized every run draws others.
    """
    update: dict[str, Any] = {}
    if mode := config.getoption("qguard_robustness"):
        update["mode"] = mode
    if name := config.getoption("--hypothesis-profile", None):
        from hypothesis import settings
        from hypothesis.errors import HypothesisException

        from qguard.errors import UsageProblem

        try:
            profile = settings.get_profile(name)
        except HypothesisException as e:
            raise UsageProblem(f"--hypothesis-profile {name}: {e}") from e
        update["examples"] = profile.max_examples
        if not profile.derandomize:
            import secrets

            update["seed"] = secrets.randbelow(1 << 32)  # a failure names it
    if (seed := config.getoption("--hypothesis-seed", None)) is not None:
        if not str(seed).isdecimal():
            return update  # "random", or what Hypothesis itself refuses
        update["seed"] = int(seed)
    return update


def _project(config: pytest.Config) -> Path:
    """The nearest folder with a ``pyproject.toml``, upwards from where pytest was called.

    Not ``rootpath``: pytest takes it from the value of ``--artifact PATH`` before it knows that option.
    """
    from qguard.config import project_folder

    found = project_folder(config.invocation_params.dir)
    return found if (found / "pyproject.toml").exists() else config.rootpath


def _add_gate(config: pytest.Config, state: State) -> None:
    """The shipped gate joins the run, unless its arguments name files or tests: then those alone run.

    A folder says where tests lie, and not that they are all: ``pytest tests`` must not turn the gate off.
    """
    gate = str(GATE)
    # the ids that pytest prints of the gate have no path where it lies outside the project
    config.args = [f"{gate}{a}" if a.startswith("::") else a for a in config.args]
    worker = getattr(config, "workerinput", None)
    if worker is not None:  # an xdist worker is always given arguments; the controller knows what the user typed
        state.gated, state.alone = worker["qguard_gated"], worker["qguard_alone"]
    else:
        state.alone = config.args_source != pytest.Config.ArgsSource.ARGS
        folders = [p for a in config.args if (p := config.invocation_params.dir / a).is_dir()]
        state.gated = state.alone or bool(folders)
        if any(GATE.is_relative_to(p.resolve()) for p in folders) or (config.option.pyargs and _GATE_PACKAGE in config.args):
            return
    if state.gated and gate not in config.args:
        config.args = [*config.args, gate]


_GATE_PACKAGE = "qguard.gate"


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell an xdist worker whether the shipped gate joined the run, and whether it runs alone."""
    state = node.config.stash.get(STATE, None)
    node.workerinput["qguard_gated"] = bool(state and state.gated)
    node.workerinput["qguard_alone"] = bool(state and state.alone)


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """The fingerprint that ratios depend on, beside what pytest-benchmark records itself."""
    state = config.stash.get(STATE, None)
    if state is not None:
        from qguard.latency.check import fingerprint

        asked = state.session.config.device
        used = {record.device(asked): record.name for record in (t.precision.runs_in for t in state.targets)}
        device = "cuda" if "cuda" in used else "cpu"
        machine_info["qguard"] = fingerprint(state.session.config.latency.threads, device, used.get(device, "torch"))


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say what will be judged, and whether ``--precision`` is somebody else's."""
    lines = []
    if taken := config.stash.get(TAKEN, []):
        belong = "belongs" if len(taken) == 1 else "belong"
        own = ", ".join(f"--qguard-{name.removeprefix('--')}" for name in taken)
        lines.append(f"qguard: {', '.join(taken)} {belong} to another plugin here; use {own}")
    state = config.stash.get(STATE, None)
    if state is not None:
        lines.append("qguard: " + visible(", ".join(map(str, state.targets)), "") + (" (strict)" if state.strict else ""))
    return lines


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each precision, model and suite; with ``@pytest.mark.qguard(family=NAME)`` for those that the family judges,
    with ``labelled=True`` for suites with labels, with ``generated=True`` where generated texts are tried.
    """
    if "qguard_target" in metafunc.fixturenames:
        state = metafunc.config.stash.get(STATE, None)
        targets = state.targets if state else []
        if "qguard_bucket" in metafunc.fixturenames:
            from qguard.judging import latency

            both = [(t, b) for t in targets if state for b in latency.buckets(state.session, t.precision, t.model)]
            metafunc.parametrize(("qguard_target", "qguard_bucket"), both, ids=[f"{t}-{b}" for t, b in both], scope="session")
            return
        mark = metafunc.definition.get_closest_marker("qguard")
        asks = mark.kwargs if state and mark else {}
        if state and asks.get("labelled"):
            targets = [t for t in targets if state.session.labelled(t.suite, t.model)]
        if state and asks.get("generated"):
            from qguard.judging.robustness import tried

            targets = [t for t in targets if tried(state.session, t.precision)]
        if state and (family := asks.get("family")):
            targets = [t for t in targets if family in [f.name for f in state.session.families(t)]]
        metafunc.parametrize("qguard_target", targets, ids=[str(t) for t in targets], scope="session")


def _about_quantization(item: pytest.Item) -> bool:
    return bool(item.get_closest_marker("qguard") or set(FIXTURES) & set(getattr(item, "fixturenames", ())))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect, visibly, what is not about quantization; with arguments that name tests nothing is touched."""
    state = config.stash.get(STATE, None)
    if state is None:
        return
    # where no latency is promised, or no suite labeled, pytest leaves an empty parameter set behind: not a skipped test
    items[:] = [i for i in items if not ("qguard_target" in getattr(i, "fixturenames", ()) and "NOTSET" in i.nodeid)]
    update = config.getoption("qguard_golden_update")
    if not state.alone and not update:
        return
    keep = [i for i in items if not update and _about_quantization(i)]
    drop = [i for i in items if i not in keep]
    if drop:
        config.hook.pytest_deselected(items=drop)
        items[:] = keep


@pytest.fixture(scope="session")
def qguard_session(request: pytest.FixtureRequest) -> Session:
    """The session of this run; with no ``--precision`` it uses the configured precisions."""
    state = request.config.stash.get(STATE, None)
    if state is None:
        from qguard.boundary import step
        from qguard.errors import QguardError

        try:
            with step("reading the configuration"):
                state = request.config.stash[STATE] = _state(request.config, "all")
        except QguardError as e:
            pytest.fail(visible(str(e)), pytrace=False)
    return state.session


@pytest.fixture(scope="session")
def qguard_harness(qguard_session: Session) -> Session:
    """The former name of ``qguard_session``."""
    return qguard_session


@pytest.fixture
def qguard_gate(request: pytest.FixtureRequest, qguard_session: Session) -> GateKeeper:
    """``qguard_gate.judge(qguard_target, "ranking")`` judges one metric family."""
    from qguard.plugin.gatekeeper import GateKeeper

    return GateKeeper(qguard_session, request.node)


@pytest.fixture
def qguard_encoder(qguard_session: Session, qguard_target: Target) -> Any:
    """The quantized encoder: ``qguard_encoder.encode(texts)`` → float32 (n, dim)."""
    return qguard_session.encoder(qguard_target.precision, qguard_target.model)


@pytest.fixture
def qguard_golden(qguard_session: Session, qguard_target: Target) -> Any:
    """The golden of the target's model and suite."""
    return qguard_session.golden(qguard_target.model, qguard_target.suite)


@pytest.fixture
def qguard_comparison(qguard_session: Session, qguard_target: Target) -> Any:
    """Golden and quantized embeddings side by side, in float64."""
    return qguard_session.comparison(qguard_target)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Put the record on the report, so that it travels from xdist workers."""
    report = yield
    if report.when == "call" and RECORD in item.stash:
        report.qguard = item.stash[RECORD]
    report.qguard_shipped = item.path == GATE  # its node id has no path where the gate lies outside the project
    judges = RECORD in item.stash or bool(set(_JUDGES) & set(getattr(item, "fixturenames", ())))
    report.qguard_judges = report.when == "call" and not report.skipped and judges
    return report


def pytest_sessionstart(session: pytest.Session) -> None:
    """Collect records in the controller only."""
    state = session.config.stash.get(STATE, None)
    if state is not None and not hasattr(session.config, "workerinput"):
        from qguard.plugin.collector import Collector

        # without a name: -p no:NAME would turn off what fails a run that measures nothing
        session.config.pluginmanager.register(Collector(session.config, state, asked_for(session.config) or ""))
