"""Whether a verdict says that these very bytes passed the gates that are in force now, on the golden that is stored now."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from qguard.artifacts.candidates import place
from qguard.attest import served
from qguard.attest.checks import refuse_checks
from qguard.attest.policy import gates_in_force, laxer
from qguard.attest.refusal import Refusal, listed
from qguard.attest.settings import changed, settings_in_force
from qguard.attest.shape import Verdict
from qguard.attest.statement import PASSED
from qguard.attest.subjects import digests, home, name_in_folder
from qguard.endpoints.settings import SERVED
from qguard.errors import GoldenProblem
from qguard.families import FAMILIES
from qguard.files import sha256_json
from qguard.gates import Asked as AskedGate
from qguard.judging.families import tests_of
from qguard.models.kind import said_kind
from qguard.report import CURRENT

if TYPE_CHECKING:
    from qguard.gates import Gate
    from qguard.judging.session import Session
    from qguard.precisions import Precision

_SKEW = datetime.timedelta(minutes=5)  # two machines' clocks


@dataclass(frozen=True)
class Asked:
    """What a deployment asks of a verdict.

    Attributes:
        session: The project's configuration; nothing is measured with it.
        model: Its name in the configuration.
        precision: Must have passed.
        artifact: The files to deploy; ``None`` for a server, which the precision names.
        max_age: Of the verdict; ``None`` for any.
        now: The time.
    """

    session: Session
    model: str
    precision: Precision
    artifact: Path | None
    max_age: datetime.timedelta | None
    now: datetime.datetime

    @cached_property
    def gates(self) -> dict[str, Gate]:
        """Those in force now."""
        return gates_in_force(self.session, self.precision, self.model)

    @property
    def again(self) -> str:
        """The command that judges the artifact anew."""
        judged = f" --artifact={self.artifact}" if self.artifact else ""
        if self.precision.endpoint is not None and self.precision.name == SERVED:
            judged = f" --endpoint={self.precision.endpoint.shown}"
        return f"judge it again: pytest --precision {self.precision}{judged} --qguard-attest=verdict.json"


def verify(verdict: Verdict, asked: Asked) -> list[Refusal]:
    """Every reason why the artifact may not be deployed on the strength of this verdict; none when it may.

    Raises:
        QguardError: when the artifact or a suite of the project cannot be read.
    """
    subjects = served.refusals if asked.artifact is None else _files
    found = [*subjects(verdict, asked), *_identity(verdict, asked), *_result(verdict, asked), *_age(verdict, asked)]
    if any(r.part == "precision" for r in found):
        return found  # gates of another precision would all be refused, which says nothing more
    return [
        *found,
        *_gates(verdict, asked),
        *_settings(verdict, asked),
        *_suites(verdict, asked),
        *refuse_checks(verdict, asked),
    ]


def _files(verdict: Verdict, asked: Asked) -> Iterator[Refusal]:
    want = {s.name: s.digest.sha256 for s in verdict.subjects}
    if len(want) != len(verdict.subjects):
        yield Refusal("subject", "every file once", "a file named twice", asked.again)
    assert asked.artifact is not None
    have = digests(asked.artifact)
    gone, new = sorted(want.keys() - have.keys()), sorted(have.keys() - want.keys())
    renamed = [(a, b) for a in gone for b in new if want[a] == have[b]]
    changed = [n for n in want if n in have and want[n] != have[n]]
    mend = f"deploy the files that were judged, or {asked.again}"
    if renamed:
        yield Refusal("artifact", listed(a for a, _ in renamed), f"renamed to {listed(b for _, b in renamed)}", mend)
    if gone := [n for n in gone if n not in {a for a, _ in renamed}]:
        yield Refusal("artifact", listed(gone), "no such file in it", mend)
    if new := [n for n in new if n not in {b for _, b in renamed}]:
        yield Refusal("artifact", "only the files that were judged", f"also {listed(new)}", mend)
    judged, named = verdict.tool.precision.file, name_in_folder(asked.artifact)
    if judged and named and judged != named:
        yield Refusal("artifact", judged, f"{named}: another file of the same folder", mend)
    if changed:
        first = changed[0]
        yield Refusal(
            "artifact",
            f"SHA-256 {want[first][:12]}… of {listed(changed)}",
            f"{have[first][:12]}…: not the bytes that were judged",
            mend,
        )


def _identity(verdict: Verdict, asked: Asked) -> Iterator[Refusal]:
    p, found = asked.precision, verdict.tool.precision
    want = (p.label, p.runtime, p.vectors, p.base)
    have = (found.name, found.runtime, found.vectors, found.recipe)
    if want != have:
        yield Refusal("precision", _words(*want), _words(*have), asked.again)
    elif found.computed_in != p.runtime:
        yield Refusal("runtime", p.runtime, f"{found.computed_in}: the artifact did not run in {p.runtime}", asked.again)
    if verdict.model != asked.model:
        yield Refusal("model", asked.model, verdict.model, asked.again)
    yield from _kind(verdict, asked)


def _kind(verdict: Verdict, asked: Asked) -> Iterator[Refusal]:
    """The stated kind is the one that the project states, that the golden is of, and that the artifact's files say."""
    session = asked.session
    sources = [(session.config.models[asked.model].kind, "the configuration"), (session.kind(asked.model), "its golden")]
    for kind, where in [*sources, _said_by(asked.artifact) or (None, "")]:
        if kind not in (None, verdict.model_facts.kind):
            yield Refusal("kind", f"a {kind} model, as {where} says", f"a {verdict.model_facts.kind} one", asked.again)
            return


def _said_by(artifact: Path | None) -> tuple[str, str] | None:
    """The kind that an artifact's own files say, and which of them; ``None`` where it is judged with the model's files."""
    path = place(artifact)[0] if artifact else None
    folder = path if path is None or path.is_dir() else home(path)
    return said_kind(folder) if folder is not None and (folder / "modules.json").exists() else None


def _words(name: str, runtime: str, vectors: str, recipe: str) -> str:
    return f"{name}@{runtime}" + (f" made as {recipe}" if recipe != name else "") + f" with {vectors} vectors"


def _result(verdict: Verdict, asked: Asked) -> Iterator[Refusal]:
    p = verdict.predicate
    bad = [*p.failedTests, *p.warnedTests]
    if p.result != PASSED:
        found = f"{p.result}: {listed(bad) or 'no test is named'}"
        yield Refusal("result", PASSED, found, f"fix what failed, then {asked.again}")
    elif bad:
        yield Refusal("result", "no failed test of what PASSED", listed(bad), f"it was edited: {asked.again}")


def _gates(verdict: Verdict, asked: Asked) -> Iterator[Refusal]:
    if sha256_json(verdict.sealed_gates) != verdict.gates_sha256:
        yield Refusal("gates", f"gates with the SHA-256 {verdict.gates_sha256[:12]}…", "others", f"it was edited: {asked.again}")
    for key, now in verdict.as_written(asked.gates).items():
        then = verdict.gates.get(key)
        if laxer(then, now):
            found = "no such gate" if then is None else f"{_gate(then)} when it was judged"
            yield Refusal("gates", f"{key} {_gate(now)}, in force now", found, asked.again)


def _settings(verdict: Verdict, asked: Asked) -> Iterator[Refusal]:
    then = verdict.settings
    if then is None:
        yield Refusal("settings", "the settings that it was judged with", "none: an older qguard wrote it", asked.again)
        return
    if sha256_json(then) != verdict.settings_sha256:
        found = f"settings with the SHA-256 {verdict.settings_sha256[:12]}…"
        yield Refusal("settings", found, "others", f"it was edited: {asked.again}")
    for key, now, was in changed(then, settings_in_force(asked.session, asked.precision, asked.model)):
        yield Refusal("settings", f"{key} = {now}, in force now", f"{was} when it was judged", asked.again)


def _gate(g: AskedGate) -> str:
    return g.bound.exact + ("" if g.on == "value" else f" on the {g.on} end")


def _suites(verdict: Verdict, asked: Asked) -> Iterator[Refusal]:
    from qguard import goldens
    from qguard.judging.session import Target

    session = asked.session
    for name in session.config.suites:
        if name not in verdict.suites or name not in verdict.goldens:
            yield Refusal("suite", f"{name}, which the project is judged on", listed(verdict.suites), asked.again)
            continue
        suite = session.suite_of(name, asked.model)
        if suite.sha256 != verdict.suite_sha256[name]:
            found = f"SHA-256 {verdict.suite_sha256[name][:12]}…: other texts"
            yield Refusal(f"suite {name}", f"SHA-256 {suite.sha256[:12]}…", found, asked.again)
        reported = {f.test for f in FAMILIES.values() if f.switch and getattr(session.config, f.switch).mode != "gate"}
        target = Target(asked.precision, asked.model, name)
        tests = (CURRENT, *(t for t in tests_of(session, target) if t.partition("[")[0] not in reported))
        if lost := sorted({f"{name}/{t}" for t in tests} - set(verdict.predicate.passedTests)):
            yield Refusal(f"suite {name}", f"{listed(lost)} passed", "not among its passed tests", asked.again)
        try:
            manifest = goldens.read(goldens.golden_folder(session.config.golden_root, asked.model, name)).manifest
        except GoldenProblem as e:
            yield Refusal(f"golden {name}", "the golden that it was judged on", str(e), "restore it from version control")
            continue
        yield from _golden(verdict, asked, name, manifest)


def _golden(verdict: Verdict, asked: Asked, name: str, manifest: Mapping[str, object]) -> Iterator[Refusal]:
    then, part, hashes = verdict.goldens[name], f"golden {asked.model}/{name}", manifest["hashes"]
    assert isinstance(hashes, dict)  # it was read as a golden
    if (then.manifest, verdict.golden_data[name]) != (manifest["manifest_sha256"], manifest["data_sha256"]):
        yield Refusal(
            part, f"the stored one, manifest {str(manifest['manifest_sha256'])[:12]}…", f"another, {then.manifest[:12]}…",
            f"restore the golden from version control, or {asked.again}",
        )  # fmt: skip
    facts = {"weights": verdict.weights, "tokenizer": verdict.model_facts.tokenizer, "pipeline": verdict.model_facts.pipeline}
    if other := [k for k in facts if facts[k] != hashes[k]]:
        yield Refusal(f"model {asked.model}", f"the golden's {listed(other)}", "those of another model", asked.again)
    if verdict.suite_sha256[name] != hashes["suite"]:
        yield Refusal(part, "a golden of the suite that was judged", "one of other texts", asked.again)


def _age(verdict: Verdict, asked: Asked) -> Iterator[Refusal]:
    age = asked.now - verdict.tool.date
    if age < -_SKEW:
        before = f"a verdict of before {asked.now:%Y-%m-%d %H:%M} UTC"
        yield Refusal("date", before, f"one of {verdict.tool.date}", f"set the clock, or {asked.again}")
    if asked.max_age is not None and age > asked.max_age:
        yield Refusal("age", f"at most {_span(asked.max_age)}", f"{_span(age)}: judged on {verdict.tool.date}", asked.again)


def _span(d: datetime.timedelta) -> str:
    hours = d.total_seconds() / 3600
    return f"{hours / 24:.1f} days" if hours >= 48 else f"{hours:.1f} hours"
