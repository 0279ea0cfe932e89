"""The harness: from configuration to checks. The pytest plugin and the command line both call it, so they agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qguard import golden as goldens
from qguard.artifact import Artifact, open_artifact
from qguard.config import Config
from qguard.encoders import Encoder, Floats, open_encoder
from qguard.encoders.tokenizer import TextTokenizer
from qguard.errors import MeasurementProblem, QguardError, UsageProblem
from qguard.gates import Gate, gates_for
from qguard.gates.check import Check, judge
from qguard.golden import Golden
from qguard.metrics import FAMILIES, TASK, Comparison, Measured, families_of, measure
from qguard.models import Model, installed, resolve
from qguard.precisions import Precision, fp32_of
from qguard.precisions.calibration import DEFAULT
from qguard.runtimes import NO_FILES, RUNTIMES, TOKEN_IDS
from qguard.suites import Suite, load_suite
from qguard.vectors import FLOAT, SCALAR, Ranges, quantize, unit

if TYPE_CHECKING:
    from qguard.accepted.scores import Scope
    from qguard.drift import Cause
    from qguard.latency.timing import Timing
    from qguard.search import VectorFile


@dataclass(frozen=True, order=True)
class Target:
    """What one gate test judges: a precision of a model on a suite."""

    precision: Precision
    model: str
    suite: str

    def __str__(self) -> str:
        return f"{self.precision}-{self.model}-{self.suite}"

    @property
    def plain(self) -> Target:
        """The same model with float32 vectors."""
        return replace(self, precision=self.precision.plain)


@dataclass
class Harness:
    """Caches what several checks share: each model is hashed, each artifact built and each suite encoded once.

    Attributes:
        config: The configuration, already narrowed to the selected models and suites.
        artifact_path: ``--artifact``; ``None`` to quantize here.
        baseline_path: ``--baseline-artifact``: what is deployed now, for ``latency.regression``.
        baseline_python: ``--baseline-python``: the interpreter that the baseline runs in.
        intervals: Of all values, for a report; else of those that a gate bounds for the whole suite.
    """

    config: Config
    artifact_path: Path | None = None
    baseline_path: Path | None = None
    baseline_python: str | None = None
    intervals: bool = False
    _kept: dict[Any, Any] = field(default_factory=dict)

    def _once(self, key: Any, make: Any) -> Any:
        if key not in self._kept:
            try:
                self._kept[key] = make()
            except Exception as e:
                self._kept[key] = e  # a failed build is not tried again by every test
        value = self._kept[key]
        if isinstance(value, Exception):
            raise value
        return value

    def targets(self, precisions: list[Precision]) -> list[Target]:
        """All combinations of precision, model and suite.

        Raises:
            UsageProblem: when no model is configured.
        """
        if not self.config.models:
            raise UsageProblem("no model is configured; run: qguard init MODEL   (or pass --qguard-model MODEL)")
        plain = {p.plain for p in precisions}
        if self.artifact_path is not None and len(plain) * len(self.config.models) > 1:
            raise UsageProblem("--artifact judges one artifact: give one --precision and one --qguard-model")
        for precision in plain:
            if self.artifact_path is not None and precision.runs_in.files == NO_FILES:
                raise UsageProblem(
                    f"--artifact: {precision} is kept by its runtime {precision.runtime!r}, which reads no files; leave it out"
                )
            if self.has_baseline and (why := precision.runs_in.cannot_measure("latency")):
                raise UsageProblem(f"a baseline compares latency, and {precision} has none here: {why}; judge it without")
        if self.has_baseline and precisions and all(p.vectors != FLOAT for p in precisions):
            raise UsageProblem(
                f"a baseline compares latency, and {precisions[0]} has that of {precisions[0].plain}: "
                f"give --precision {precisions[0].plain},{precisions[0]}"
            )
        self._refuse_idle_gates(precisions)
        return [Target(p, m, s) for p in precisions for m in self.config.models for s in self.config.suites]

    @property
    def has_baseline(self) -> bool:
        """Whether something deployed is given to compare latency with."""
        return self.baseline_path is not None or self.baseline_python is not None

    @property
    def timing(self) -> Timing:
        """What is timed of each precision, and against what."""
        from qguard.latency.timing import Timing

        return Timing(self)

    def _refuse_idle_gates(self, precisions: list[Precision]) -> None:
        """A gate of the project on task quality needs a suite with such labels: it would hold in silence."""
        wanted = {key for gates in self.config.gates.values() for key in gates if key.startswith(f"{TASK}.")}
        if not wanted or not all(self.readable(s) for s in self.config.suites):
            return
        from qguard.metrics.task import names

        have = {name for s in self.config.suites for name in names(self.suite(s))}
        for precision in precisions:
            for gate in gates_for(precision, self.config.gates):
                key = gate.metric + (f"[{gate.slice}]" if gate.slice else "")
                if key in wanted and gate.metric not in have:
                    raise UsageProblem(
                        f"gate {key} of {precision} would never be judged: it needs labels that none of the suites "
                        f"{', '.join(self.config.suites)} has; add a suite that has them, or remove the gate"
                    )

    def model(self, name: str) -> Model:
        """The resolved fp32 model."""

        def make() -> Model:
            chosen = self.config.models[name]
            return resolve(name, self.config.model_ref(name), chosen.revision, self.config.model_settings(name))

        return self._once(("model", name), make)  # type: ignore[no-any-return]

    def suite(self, name: str, model: str | None = None) -> Suite:
        """The suite by name.

        Args:
            name: Its name.
            model: Only those of its texts that this model's golden holds vectors of, as everything that compares vectors needs.

        Raises:
            GoldenProblem: with a model that has no current golden of it.
        """
        whole: Suite = self._once(("suite", name), lambda: load_suite(name, self.config.suite_sources))
        if model is None:
            return whole
        return self._once(("judged", name, model), lambda: self.golden(model, name).judged(whole))  # type: ignore[no-any-return]

    def labelled(self, name: str) -> bool:
        """Whether the task's quality is to be measured on a suite; one that cannot be read is asked, and says why."""
        return not self.readable(name) or self.suite(name).labelled

    def also(self, target: Target) -> list[str]:
        """The gate tests of a target beyond those that every target has; see :data:`qguard.report.GATES`."""
        return [
            *(["test_task_quality"] if self.labelled(target.suite) else []),
            *(["test_robustness"] if self.tries_robustness(target.precision) else []),
            *(f"test_latency[{b}]" for b in self.timing.buckets(target.precision)),
        ]

    def left_out(self, precision: Precision) -> dict[str, str]:
        """What is not measured of a precision on purpose, each with its reason: what its runtime does not allow, and what the
        project or an option switched off.
        """
        modes = {"robustness": self.config.robustness.mode, "latency": self.config.latency.mode}
        off = {name: f"--qguard-{name}=off" for name, mode in modes.items() if mode == "off"}
        gone = {*off, *(["memory"] if "latency" in off else [])}  # which is measured with it
        found = {k: why for k, why in precision.runs_in.left_out().items() if k.partition(".")[0] not in gone}
        return {**off, **found}

    def without(self, precision: Precision) -> list[str]:
        """The gate tests that every target has, and this one has not; see :data:`qguard.report.GATES`."""
        return ["test_artifact_is_quantized"] if precision.runs_in.cannot_measure("artifact") else []

    def families(self, target: Target) -> list[str]:
        """The metric families that a target is judged by, besides robustness and latency, in the order of the gate."""
        files = [] if target.precision.runs_in.cannot_measure("artifact") else ["artifact"]
        return [*files, *families_of(self.suite(target.suite)), "invariance"]

    def readable(self, name: str) -> bool:
        """Whether a suite can be read."""
        try:
            return bool(self.suite(name).texts)
        except QguardError:
            return False

    def golden(self, model: str, suite: str) -> Golden:
        """The golden, read and proved current."""

        def read() -> Golden:
            golden = goldens.read(goldens.golden_folder(self.config.golden_root, model, suite))
            goldens.check(golden, self.model(model), self.suite(suite))
            return golden

        return self._once(("golden", model, suite), read)  # type: ignore[no-any-return]

    def artifact(self, precision: Precision, model: str) -> Artifact:
        """The given artifact, or the one that is built (once, cached) for this precision."""
        path, base, precision = self.artifact_path, self.model(model), precision.plain
        return self._once(  # type: ignore[no-any-return]
            ("artifact", precision, model), lambda: open_artifact(path, base) if path else precision.build(base)
        )

    def encoder(self, precision: Precision, model: str) -> Encoder:
        """The candidate encoder, of float32 embeddings; see :meth:`qguard.artifact.Artifact.runtime`."""
        precision = precision.plain

        def make() -> Encoder:
            a, base = self.artifact(precision, model), self.model(model)
            runtime = a.runtime(precision.runtime)
            tokenizer = self._tokenizer(precision, model)
            return open_encoder(runtime, a.folder, a.pipeline, precision.base, a.file, self.config.device, tokenizer, base)

        return self._once(("encoder", precision, model), make)  # type: ignore[no-any-return]

    def _tokenizer(self, precision: Precision, model: str) -> TextTokenizer:
        """The artifact's own; the base model's where it has no files."""

        def make() -> TextTokenizer:
            a = self.artifact(precision, model)
            return TextTokenizer.open(a.folder / a.pipeline.transformer, a.pipeline)

        return self._once(("tokenizer", precision, model), make)  # type: ignore[no-any-return]

    def token_ids(self, target: Target) -> list[list[int]]:
        """The artifact's own token ids, proved equal to the golden's; without files those by the base model's tokenizer."""
        target = target.plain

        def make() -> list[list[int]]:
            golden, suite = self.golden(target.model, target.suite), self.suite(target.suite, target.model)
            self.refuse_overlap(target.precision, target.model, target.suite)
            ids = self._tokenizer(target.precision, target.model)(suite.texts, suite.roles)
            goldens.compare_tokens(golden, suite, ids, self.model(target.model))
            return ids

        return self._once(("tokens", target), make)  # type: ignore[no-any-return]

    def refuse_overlap(self, precision: Precision, model: str, suite: str) -> None:
        """The texts that calibrate, as a given artifact's provenance or the configuration says, are not those that judge.

        Raises:
            UsageProblem: when they are, unless the project says that it is intended.
        """
        sample = precision.sample
        facts = self.artifact(precision, model).calibration if self.artifact_path else sample.facts if sample else {}
        (precision.calibration or DEFAULT).refuse_overlap(precision.name, facts, suite, self.suite(suite).texts)

    def embeddings(self, target: Target) -> Floats:
        """The candidate's float32 embeddings (texts, dim) of the suite, before any quantization of the vectors."""
        target = target.plain

        def make() -> Floats:
            ids = self.token_ids(target)  # first: what may not be judged is not built either
            encoder = self.encoder(target.precision, target.model)
            return encoder.encode_rows(self.rows(target, encoder, ids))

        return self._once(("embeddings", target), make)  # type: ignore[no-any-return]

    def rows(self, target: Target, encoder: Encoder, ids: list[list[int]]) -> Sequence[Any]:
        """What an encoder is given of the suite: its token ids, or the texts where its runtime takes them."""
        if encoder.takes == TOKEN_IDS:
            return ids
        suite = self.suite(target.suite, target.model)
        return encoder.rows(suite.texts, suite.roles)

    def comparison(self, target: Target) -> Comparison:
        """Golden and candidate side by side, in float64; the candidate's vectors quantized if the precision says so."""

        return self._once(("comparison", target), lambda: self.compared(target, self.embeddings(target)))  # type: ignore[no-any-return]

    def compared(self, target: Target, embeddings: Floats) -> Comparison:
        """As :meth:`comparison`, of any float32 embeddings (texts, dim) of the suite."""
        golden = self.golden(target.model, target.suite)
        found = Comparison.of(self.suite(target.suite, target.model), golden.vectors, embeddings)
        if found.suite.corpus is not None:
            return self._searched(target, found, embeddings)
        if target.precision.vectors == FLOAT:
            return found
        if not self.model(target.model).pipeline.normalize:
            found = Comparison.of(found.suite, unit(found.golden), unit(found.candidate))
        return found.quantize(target.precision.vectors, self._ranges(target))

    def _searched(self, target: Target, found: Comparison, embeddings: Floats) -> Comparison:
        """A comparison of a large suite, with what its queries find in the whole corpus."""
        from qguard.metrics.neighbours import Neighbours

        suite, golden = found.suite, self.golden(target.model, target.suite).retrieved
        assert golden is not None  # its suite is this one, by hash
        if target.precision.vectors != FLOAT:
            raise MeasurementProblem(
                f"{target.precision}: quantized vectors are not measured on suite {suite.name!r}, whose documents are too many "
                f"to be held; judge them on a smaller suite, and this one with {target.precision.plain}"
            )
        golden_rows = golden.rows.astype("int64"), golden.scores
        neighbours = Neighbours.of(suite, golden_rows, embeddings[list(suite.queries)], self.corpus_vectors(target))
        return replace(found, neighbours=neighbours)

    def corpus_vectors(self, target: Target) -> VectorFile:
        """The candidate's float32 vectors of a large suite's whole corpus, in the cache; encoded where they are not there yet."""

        def make() -> VectorFile:
            from qguard.corpus_vectors import candidate_coder, encode_corpus
            from qguard.golden.corpus import compare_block

            self.token_ids(target)  # what may not be judged is not encoded for hours
            golden, suite, model = self.golden(target.model, target.suite), self.suite(target.suite), self.model(target.model)
            assert golden.retrieved is not None
            assert suite.corpus is not None
            artifact = self.artifact(target.precision, target.model)
            coder = candidate_coder(
                artifact, target.precision, self.config.device, lambda: self.encoder(target.precision, target.model)
            )

            def check(number: int, digest: str) -> None:
                compare_block(golden, suite, model, number, digest, coder)

            return encode_corpus(suite.corpus, coder, golden.retrieved.block, check)[0]

        return self._once(("corpus", target.plain), make)  # type: ignore[no-any-return]

    def calibration(self, target: Target) -> Ranges | None:
        """The ranges of int8 and uint8 vectors, from fp32 embeddings of the target's or the configured suite.

        Raises:
            MeasurementProblem: for too few texts.
            GoldenProblem: when the configured suite has no current golden.
        """
        if target.precision.vectors not in SCALAR:
            return None
        name = self.config.vectors.calibration or target.suite

        def make() -> Ranges:
            vectors = self.golden(target.model, name).vectors
            normalized = self.model(target.model).pipeline.normalize
            return Ranges.of(self.suite(name, target.model), vectors if normalized else unit(vectors))

        return self._once(("calibration", target.model, name), make)  # type: ignore[no-any-return]

    def _ranges(self, target: Target) -> Floats | None:
        calibration = self.calibration(target)
        return None if calibration is None else calibration.ranges

    def gates(self, precision: Precision, model: str | None = None) -> list[Gate]:
        """The default gates of a precision with the project's own put over them.

        Args:
            precision: What is judged.
            model: Of which model; without, every gate that any model has.
        """
        return gates_for(precision, self.config.gates, normalized=model is None or self.normalizes(model))

    def normalizes(self, model: str) -> bool:
        """Whether a model's vectors are of unit length, as its golden says: a verdict is verified without the model's files."""

        def find() -> bool:
            for suite in self.config.suites:
                try:
                    golden = goldens.read(goldens.golden_folder(self.config.golden_root, model, suite))
                except QguardError:
                    continue
                if isinstance(declared := golden.manifest.get("pipeline"), dict):
                    return bool(declared.get("normalize"))
            return self.model(model).pipeline.normalize

        return self._once(("normalizes", model), find)  # type: ignore[no-any-return]

    def checks(self, target: Target, family: str) -> list[Check]:
        """All checks of one metric family: ``embedding similarity ranking artifact invariance robustness task``."""
        if family == "artifact":
            from qguard.metrics.artifact import measure_artifact

            self.refuse_overlap(target.precision, target.model, target.suite)
            artifact = self.artifact(target.precision, target.model)
            artifact.need_files()
            runtime = artifact.runtime(target.precision.runtime)
            measured = measure_artifact(artifact, self.model(target.model), target.precision.recipe, runtime)
        elif family == "invariance":
            from qguard.metrics.invariance import measure_invariance

            encoder = self.encoder(target.precision, target.model)
            suite, ids = self.suite(target.suite, target.model), self.token_ids(target)
            measured = self._once(("invariance", target.plain), lambda: measure_invariance(encoder, suite, ids))
        elif family == "robustness":
            return self._robustness(target)
        else:
            measured = measure(self.comparison(target), family)
        gates = self.gates(target.precision, target.model)
        if family == "artifact":  # what a file does not hold is not measured in it
            lost = {g.metric for g in gates if g.metric.startswith("artifact.")} - {m.name for m in measured}
            if lost:
                raise MeasurementProblem(
                    f"no value for {', '.join(sorted(lost))}: the artifact holds nothing that this gate bounds"
                )
        elif slices := set(self.suite(target.suite).slice_names):  # those whose texts are all left out too
            of = {m.name for m in measured}
            idle = [g for g in gates if g.slice in slices and g.metric in of and not any(g.applies(m) for m in measured)]
            if idle:
                lost = {f"{g.metric}[{g.slice}]" for g in idle}
                raise MeasurementProblem(
                    f"no value for {', '.join(sorted(lost))}: the slice has too few items, labels that do not differ, or a score "
                    "of fp32 that is not above 0; remove the gate or give the slice more data"
                )
        return [*judge(measured, gates, target.suite, self.intervals), *self._accepted(target, family, measured)]

    def _robustness(self, target: Target) -> list[Check]:
        """Of the precision and model: all suites share one search."""
        from qguard.robustness.measure import gated, measure_robustness

        made = self._once(
            ("robustness", target.precision, target.model), lambda: measure_robustness(self, target.precision, target.model)
        )
        return judge(made, gated(self, target.precision), target.suite)

    def _accepted(self, target: Target, family: str, measured: list[Measured]) -> list[Check]:
        """Values that have an accepted score, held against it."""
        if family not in (*FAMILIES, TASK):
            return []
        from qguard.accepted.scores import judge_scores

        folder = goldens.golden_folder(self.config.golden_root, target.model, target.suite)
        return judge_scores(folder, self.scope(target), measured, target.suite)

    def scope(self, target: Target) -> Scope:
        """What scores measured here belong to: precision, machine, weights and texts."""
        from qguard.accepted.scores import Scope

        hashes = self.golden(target.model, target.suite).manifest["hashes"]
        return Scope.of(target.precision, self.device(target), hashes)

    def device(self, target: Target) -> str:
        """Where the target is computed: the configured device if its runtime has that one, else the runtime's own."""
        runtime = self.artifact(target.precision, target.model).runtime(target.precision.runtime)
        return RUNTIMES[runtime].device(self.config.device)

    def standard_errors(self, target: Target, family: str) -> dict[str, float]:
        """Standard error of each whole-suite value of a family over the suite's items, by metric."""
        from qguard.metrics import standard_errors

        found = self._once(("standard errors", target, family), lambda: standard_errors(self.comparison(target), family))
        return dict(found)

    def live_fp32(self, target: Target, rows: list[int]) -> tuple[str, Floats]:
        """fp32 as this machine computes it now; see :meth:`fp32_runtime` for where.

        Args:
            target: Its model, suite and artifact.
            rows: Indices of n texts.

        Returns:
            The precision's name, and float32 (n, dim).

        Raises:
            QguardError: when fp32 cannot be made or run here.
        """
        runtime = self.fp32_runtime(target.precision, target.model)
        name = f"fp32@{runtime}"
        if target.precision.base == "fp32" and self.artifact_path is None and runtime == target.precision.runtime:
            return name, self.embeddings(target)[rows]  # the candidate is what would be run
        ids = self.golden(target.model, target.suite).token_ids
        return name, self.fp32_encoder(target.model, runtime).encode_ids([ids[i] for i in rows])

    def fp32_runtime(self, precision: Precision, model: str) -> str:
        """The runtime that computes fp32 beside a candidate, as the recipes of the candidate's runtime name it."""
        return fp32_of(self.artifact(precision, model).runtime(precision.runtime)).runtime

    def fp32_encoder(self, model: str, runtime: str) -> Encoder:
        """fp32 in a runtime, to be run now.

        Raises:
            QguardError: when fp32 cannot be made or run here.
        """

        def make() -> Encoder:
            fp32 = self.fp32(model, runtime)
            return open_encoder(runtime, fp32.folder, fp32.pipeline, "fp32", fp32.file, self.config.device)

        return self._once(("live fp32", runtime, model), make)  # type: ignore[no-any-return]

    def tries_robustness(self, precision: Precision) -> bool:
        """Whether generated texts are tried; not with quantized vectors, whose model is that of the plain precision."""
        return self.config.robustness.mode != "off" and precision.vectors == FLOAT

    def cause(self, target: Target) -> Cause:
        """Whether the stack drifted since the golden, or the quantization loses what is missing."""
        from qguard.drift import find_cause

        return self._once(("cause", target), lambda: find_cause(self, target))  # type: ignore[no-any-return]

    def deployed(self, model: str) -> Artifact | None:
        """``--baseline-artifact``, opened; ``None`` where only another interpreter is given."""
        path, base = self.baseline_path, self.model(model)
        return self._once(("baseline", model), lambda: open_artifact(path, base)) if path else None

    def fp32(self, model: str, runtime: str) -> Artifact:
        """fp32 as an artifact of a runtime: what candidates of that runtime are timed against."""
        return self._once(("fp32", runtime, model), lambda: fp32_of(runtime).build(self.model(model)))  # type: ignore[no-any-return]

    def facts(self, target: Target) -> dict[str, Any]:
        """What the report says about an artifact besides its checks."""
        artifact = self.artifact(target.precision, target.model)
        facts: dict[str, Any] = {"device": self.device(target), "changed": self.changed(target)}
        if artifact.has_files:
            facts["artifact"] = {"sha256": artifact.sha256, "bytes": artifact.bytes}
        facts["scope"] = self.scope(target).to_json()
        texts = self.suite(target.suite).texts
        left_out = self.golden(target.model, target.suite).left_out
        facts["texts_left_out"] = [f"{texts[i][:60]!r}: {why}" for i, why in left_out.items()]
        if target.precision.vectors != FLOAT:
            calibration = self.calibration(target)
            floats = self.golden(target.model, target.suite).vectors[:1]
            facts["stored"] = {
                "bytes": quantize(floats, target.precision.vectors, self._ranges(target)).nbytes,
                "float32_bytes": floats.nbytes,
                "calibration": calibration and calibration.to_json(),
                "latency_of": str(target.precision.plain),
            }
        return facts

    def holds(self, target: Target) -> str:
        """What the artifact's files compute, in one line; empty without files."""
        from qguard.metrics.artifact import summary

        artifact = self.artifact(target.precision, target.model)
        return summary(artifact) if artifact.has_files else ""

    def changed(self, target: Target) -> list[str]:
        """Versions that differ from those the golden was recorded with."""
        then = self.golden(target.model, target.suite).manifest.get("versions", {})
        now = installed(*then)
        return [f"{k} {then[k]} → {now[k]}" for k in then if then[k] != now[k]]
