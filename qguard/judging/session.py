"""A session: what several checks share. Each model is hashed, each artifact built and each suite encoded once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qguard import goldens
from qguard.artifacts.artifact import Artifact, open_artifact
from qguard.boundary import step
from qguard.config import Config
from qguard.encoders import Encoder, Floats, open_encoder
from qguard.encoders.runtimes import ENDPOINT, GGUF, NO_FILES, RUNTIMES, TOKEN_IDS
from qguard.encoders.tokenizer import TextTokenizer
from qguard.encoders.whole import Whole
from qguard.errors import MeasurementProblem, QguardError, UsageProblem, unknown
from qguard.families import FAMILIES, TASK, Family, family_of
from qguard.files import inside
from qguard.gates import LENGTH_OF_GENERATED, Gate, gates_for
from qguard.gates.check import Check
from qguard.gates.derived import SUITE, Standing
from qguard.goldens import Golden
from qguard.goldens.fragile import KEY as FRAGILE
from qguard.judging.once import once
from qguard.judging.surroundings import prove
from qguard.judging.target import Target
from qguard.kinds import CROSS_ENCODER, DENSE, KINDS, MULTI_VECTOR
from qguard.metrics import Comparison
from qguard.models.model import Model, resolve
from qguard.models.pipeline import STATIC, Pipeline
from qguard.precisions import Precision, known
from qguard.precisions.calibration import DEFAULT
from qguard.suites import Suite, load_suite
from qguard.vectors.quantized import FLOAT, SCALAR, Ranges, unit
from qguard.vectors.similarity import COSINE, Similarity, similarity_for, similarity_of

if TYPE_CHECKING:
    from qguard.fleet import Fleet
    from qguard.vectors.search import VectorFile

__all__ = ["Session", "Target"]


@dataclass(eq=False)
class Session:
    """From configuration to embeddings.

    Attributes:
        config: The configuration, already narrowed to the selected models and suites.
        artifact_path: ``--artifact``; ``None`` to quantize here.
        baseline_path: ``--baseline-artifact``: what is deployed now, for ``latency.regression``.
        baseline_python: ``--baseline-python``: the interpreter that the baseline runs in, for ``latency.regression`` and the
            family ``regression``.
        baseline_endpoint: ``--baseline-endpoint``: the server that a server is compared with, a name or a URL.
        indexes: ``--index``: names of ``[tool.qguard.index]`` that the candidate's vectors are searched in.
        cpus: ``--cpu``: CPUs that are emulated, as QEMU names them.
        cpu_texts: So many texts are computed on each; 0 for all.
        intervals: Of all values, for a report; else of those that a gate bounds for the whole suite.
        fleet: Who encodes and searches large suites; ``None`` for this process.
    """

    config: Config
    artifact_path: Path | None = None
    baseline_path: Path | None = None
    baseline_python: str | None = None
    baseline_endpoint: str | None = None
    intervals: bool = False
    indexes: tuple[str, ...] = ()
    cpus: tuple[str, ...] = ()
    cpu_texts: int = 48
    fleet: Fleet | None = None

    def targets(self, precisions: list[Precision]) -> list[Target]:
        """All combinations of precision, model and suite.

        Raises:
            UsageProblem: when no model is configured.
        """
        from qguard.judging import cpus, index
        from qguard.judging.load import refuse

        if not self.config.models:
            raise UsageProblem("no model is configured; run: qguard init MODEL   (or pass --qguard-model MODEL)")
        plain = {p.plain for p in precisions}
        if self.artifact_path is not None and len(plain) * len(self.config.models) > 1:
            raise UsageProblem("--artifact judges one artifact: give one --precision and one --qguard-model")
        for precision in plain:
            if precision.runtime == ENDPOINT:
                _ = precision.server
            if self.artifact_path is not None and precision.runs_in.files == NO_FILES:
                raise UsageProblem(
                    f"--artifact: {precision} is kept by its runtime {precision.runtime!r}, which reads no files; leave it out"
                )
            if self.has_baseline and precision.runtime != ENDPOINT and (why := precision.runs_in.cannot_measure("latency")):
                raise UsageProblem(
                    f"a baseline is for latency, which is not measured for {precision} here: {why}; leave the baseline out"
                )
        refuse(self, precisions)
        if self.has_baseline and precisions and all(p != p.plain for p in precisions):
            raise UsageProblem(
                f"a baseline compares latency and whole vectors, and {precisions[0]} has those of {precisions[0].plain}: "
                f"give --precision {precisions[0].plain},{precisions[0]}"
            )
        self._refuse_idle_gates(precisions)
        self._refuse_gates_of_other_kinds()
        if self.indexes:
            index.refuse(self, precisions)
        cpus.refuse(self, precisions)
        for precision in precisions:
            for model in self.config.models:
                self._refuse_stored(precision, model)
                if precision.dims:
                    self._refuse_dims(precision, model)
        return [Target(p, m, s) for p in precisions for m in self.config.models for s in self.config.suites]

    def _refuse_stored(self, precision: Precision, model: str) -> None:
        """What a model gives can be stored so: vectors of texts are cut or quantized, and those of tokens quantized."""
        if precision == precision.plain or (kind := self.kind(model)) == DENSE:
            return
        if precision.dims or kind != MULTI_VECTOR:
            what = "cut to fewer dimensions" if precision.dims else f"stored as {precision.vectors}"
            raise UsageProblem(
                f"{precision}: model {model!r} gives {KINDS[kind].gives}, which is not {what}; give --precision {precision.plain}"
            )

    def _refuse_dims(self, precision: Precision, model: str) -> None:
        """A model has at least the dimensions that are to be kept, as far as a golden tells; without one nothing is judged."""
        for suite in self.config.suites:
            try:
                width = int(goldens.read(goldens.golden_folder(self.config.golden_root, model, suite)).manifest["dim"])
            except QguardError:
                continue
            _need_dims(precision, model, width)
            return

    @property
    def has_baseline(self) -> bool:
        """Whether something deployed is given to compare with."""
        return self.baseline_path is not None or self.baseline_python is not None

    def _refuse_idle_gates(self, precisions: list[Precision]) -> None:
        """A gate of the project on task quality needs a suite with such labels; without one, nothing would ever judge it."""
        wanted = {key for gates in self.config.gates.values() for key in gates if key.startswith(f"{TASK}.")}
        models = self._known_models() if wanted else None
        read = [(s, m) for s in self.config.suites for m in models or ()]
        if not models or not all(self.readable(s, m) for s, m in read):
            return
        from qguard.metrics.task import names

        have = {name for s, m in read for name in names(self.suite_of(s, m))}
        for precision in precisions:
            for gate in gates_for(precision, self.config.gates):
                key = gate.metric + (f"[{gate.slice}]" if gate.slice else "")
                if key in wanted and gate.metric not in have:
                    raise UsageProblem(
                        f"gate {key} of {precision} would never be judged: it needs labels that none of the suites "
                        f"{', '.join(self.config.suites)} has; add a suite that has them, or remove the gate"
                    )

    def _known_models(self) -> list[str] | None:
        """Every model of the project, also those that this run leaves out: a gate may be theirs. ``None`` where such a one has no
        golden that tells what it is.
        """
        if any(self.recorded(name) is None for name in self.config.configured.keys() - self.config.models.keys()):
            return None
        return list(self.config.configured)

    def _refuse_gates_of_other_kinds(self) -> None:
        """A gate of the project on a metric that none of its models has would never be judged."""
        models = self._known_models() if self.config.gates else None
        if not models:
            return
        kinds = {self.kind(model) for model in models}
        for table, gates in self.config.gates.items():
            for key in gates:
                of = FAMILIES.find(family_of(key)).kinds
                found = ""
                if not kinds & set(of):
                    found = (
                        f"it is for models of kind {' or '.join(of)}, and the configured ones are {' and '.join(sorted(kinds))}"
                    )
                elif key == LENGTH_OF_GENERATED and not any(map(self.normalized, models)):
                    found = "it is for models whose vectors have unit length, and none of the configured ones normalizes them"
                if found:
                    raise UsageProblem(f"gate {key} of {table} would never be judged: {found}; remove the gate")
                if key.startswith("score.threshold_flips") and not any(
                    m.threshold is not None for m in self.config.configured.values()
                ):
                    raise UsageProblem(
                        f"gate {key} of {table} would never be judged: no model has a threshold; state the score from which on a "
                        'pair is a match: NAME = { ref = "…", threshold = 0.5 } in [tool.qguard.models]'
                    )

    @once
    def model(self, name: str) -> Model:
        """The resolved fp32 model."""
        chosen = self.config.configured[name]
        with step(f"reading model {name!r}", chosen.ref):
            was_folder = goldens.was_folder(self.config.golden_root, name, chosen.ref)
            settings = self.config.model_settings(name)
            return resolve(name, self.config.model_ref(name), chosen.revision, settings, was_folder=was_folder)

    def suite(self, name: str, model: str | None = None) -> Suite:
        """The suite by name.

        Args:
            name: Its name.
            model: Only those of its texts that this model's golden holds vectors of, as everything that compares vectors needs.

        Raises:
            GoldenProblem: with a model that has no current golden of it.
        """
        return self.whole_suite(name) if model is None else self.judged_suite(name, model)

    @once
    def whole_suite(self, name: str) -> Suite:
        """The suite with all of its texts."""
        with step(f"reading suite {name!r}"):
            return load_suite(name, self.config.suite_sources)

    @once
    def judged_suite(self, name: str, model: str) -> Suite:
        """The suite without the texts that a model's golden leaves out."""
        return self.golden(model, name).judged(self.suite_of(name, model))

    def suite_of(self, name: str, model: str) -> Suite:
        """The suite as a model reads it, with all of its texts: a cross-encoder reads pairs."""
        return self.paired_suite(name) if self.kind(model) == CROSS_ENCODER else self.whole_suite(name)

    @once
    def paired_suite(self, name: str) -> Suite:
        """The suite as pairs of texts; see :meth:`qguard.suites.Suite.paired`. Where it gives no candidates, they are those that
        the project's first stage finds.

        Raises:
            DataProblem: for a suite without pairs and candidates.
            UsageProblem: for a first stage that is no dense model of the configuration.
        """
        suite, stated = self.whole_suite(name), self.config.suite.get(name)
        if stated is not None and stated.candidates is not None:
            if suite.candidates:
                raise UsageProblem(
                    f"suite {name!r} has candidates of its own; remove candidates = {stated.candidates!r} from "
                    f"[tool.qguard.suite.{name}]"
                )
            from qguard.goldens.first_stage import read_first_stage, with_candidates

            first = stated.candidates
            if first not in self.config.configured:
                raise unknown("model", first, self.config.configured)
            golden = read_first_stage(self.config.golden_root, first, suite)
            suite = with_candidates(suite, golden, first, stated.top, self.similarity(first))
        return suite.paired()

    def recorded_suite(self, name: str, model: str) -> Suite:
        """As :meth:`suite_of`, for a golden that is recorded or judged: the first stage that chose its candidates is current.

        Raises:
            GoldenProblem: for a first stage whose model has changed since.
        """
        stated = self.config.suite.get(name)
        suite = self.suite_of(name, model)
        if suite.first_stage and stated is not None and stated.candidates is not None:
            self.golden(stated.candidates, name)
        return suite

    def labelled(self, name: str, model: str | None = None) -> bool:
        """Whether the task's quality is to be measured on a suite; one that cannot be read is asked, and says why.

        Of a cross-encoder with several labels nothing tells which of its scores a label is about.
        """
        if not self.readable(name, model):
            return True
        suite = self.suite(name) if model is None else self.suite_of(name, model)
        return suite.labelled and (model is None or self.scores(model) <= 1)

    def ordered(self, name: str, model: str) -> bool:
        """Whether a cross-encoder orders candidates: it gives one score, and the suite has queries with several of them."""
        if not self.readable(name, model):
            return True
        return self.scores(model) == 1 and any(len(g.members) > 1 for g in self.suite_of(name, model).groups)

    def scores(self, model: str) -> int:
        """How many scores a cross-encoder gives a pair; 0 of any other model."""
        return len((self.declared(model).get("scoring") or {}).get("labels", ()))

    def readable(self, name: str, model: str | None = None) -> bool:
        """Whether a suite can be read, as a model reads it where one is named."""
        try:
            return bool((self.suite(name) if model is None else self.suite_of(name, model)).texts)
        except QguardError:
            return False

    @once
    def golden(self, model: str, suite: str) -> Golden:
        """The golden, read and proved current."""
        folder = goldens.golden_folder(self.config.golden_root, model, suite)
        with step(f"reading the golden of model {model!r} and suite {suite!r}", folder):
            golden = goldens.read(folder)
            goldens.check(golden, self.model(model), self.recorded_suite(suite, model))
            return golden

    def artifact(self, precision: Precision, model: str) -> Artifact:
        """The given artifact, or the one that is built (once, cached) for this precision."""
        return self.plain_artifact(precision.plain, model)

    @once
    def plain_artifact(self, precision: Precision, model: str) -> Artifact:
        """As :meth:`artifact`, of a precision with float32 vectors."""
        path, base = self.artifact_path, self.model(model)
        with step("opening the artifact", path):
            if path is None:
                return self._placed(precision.build(base))
            given = self._placed(open_artifact(path, base, precision.runtime))
        if (given.kind == GGUF) != (precision.runs_in.files == GGUF):
            what = "is a GGUF file, which llama.cpp runs" if given.kind == GGUF else "is no GGUF file, which llama.cpp runs alone"
            names = ", ".join(known(lambda r: (RUNTIMES[r.runtime].files == GGUF) == (given.kind == GGUF)))
            raise UsageProblem(
                f"--artifact: {(given.file or given.folder).name} {what}; expected one of {names}, found {precision}"
            )
        return given

    @once
    def deployed(self, model: str) -> Artifact | None:
        """``--baseline-artifact``, opened; ``None`` where only another interpreter is given."""
        with step("opening the deployed artifact", self.baseline_path):
            return self._placed(open_artifact(self.baseline_path, self.model(model))) if self.baseline_path else None

    @once
    def fp32(self, model: str, runtime: str) -> Artifact:
        """fp32 as an artifact of a runtime: what candidates of that runtime are timed against."""
        from qguard.judging.fp32 import fp32_artifact

        return self._placed(fp32_artifact(self, model, runtime))

    def _placed(self, artifact: Artifact) -> Artifact:
        """The same, with where the project's JavaScript is found."""
        return replace(artifact, javascript=self.config.javascript_settings)

    def encoder(self, precision: Precision, model: str) -> Encoder:
        """The candidate encoder, of float32 embeddings; see :meth:`qguard.artifacts.artifact.Artifact.runtime`."""
        return self.plain_encoder(precision.plain, model)

    @once
    def plain_encoder(self, precision: Precision, model: str) -> Encoder:
        """As :meth:`encoder`, of a precision with float32 vectors."""
        a, base = self.artifact(precision, model), self.model(model)
        runtime = a.runtime(precision.runtime)
        with step(f"opening {precision} in runtime {runtime!r}", a.file or a.folder):
            options: dict[str, Any] = {"endpoint": precision.server} if runtime == ENDPOINT else {}
            if RUNTIMES.find(runtime).whole:
                options["whole"] = self._whole(a, base)
            return self.opened(runtime, a, a.file, self.tokenizer(precision, model), base, precision.base, **options)

    def opened(
        self,
        runtime: str,
        artifact: Artifact,
        file: Path | None = None,
        tokenizer: TextTokenizer | None = None,
        base: Model | None = None,
        precision: str = "fp32",
        **options: Any,
    ) -> Encoder:
        """An encoder on an artifact's files, or with another file in the place of its own.

        Args:
            runtime: A name in :data:`qguard.encoders.runtimes.RUNTIMES`.
            artifact: Tokenizer, heads and what its file does not say.
            file: The ONNX or GGUF file.
            tokenizer: Where it is open already.
            base: The fp32 model, for a runtime without files.
            precision: See :func:`qguard.encoders.open_runtime`.
            options: Of the runtime's own.
        """
        around = self.config.device, tokenizer, base, artifact.feeding
        return open_encoder(
            runtime, artifact.folder, artifact.pipeline, precision, file, *around, javascript=artifact.javascript, **options
        )

    def _whole(self, artifact: Artifact, base: Model) -> Whole:
        """An artifact for a runtime that reads all of it."""
        places = (artifact.tokenizer_root, inside(artifact.folder, artifact.pipeline.transformer), base.root)
        configuration = next((p for p in places if (p / "config.json").is_file()), base.root)
        assert artifact.file is not None
        return Whole(
            artifact.file,
            configuration,
            artifact.tokenizer_root,
            artifact.pipeline,
            artifact.feeding,
        )

    @once
    def tokenizer(self, precision: Precision, model: str) -> TextTokenizer:
        """The artifact's own; that of the goldens where it has no files, or is one file without a tokenizer beside it."""
        a = self.artifact(precision, model)
        if a.tokenizer_root == self.model(model).root:
            return self.reference_tokenizer(model)
        return TextTokenizer.open(a.tokenizer_root, a.pipeline)

    @once
    def reference_tokenizer(self, model: str) -> TextTokenizer:
        """The tokenizer that gives the token ids of a model's goldens; see :attr:`qguard.goldens.Golden.tokenizer`."""
        from qguard.goldens.tokens import reference_tokenizer

        for suite in self.config.suites:
            try:
                return reference_tokenizer(self.model(model), self.golden(model, suite))
            except QguardError:
                continue
        return reference_tokenizer(self.model(model), None)

    def token_ids(self, target: Target) -> list[list[int]]:
        """The artifact's own token ids, proved equal to the golden's; without files those by the base model's tokenizer."""
        return self.plain_token_ids(target.plain)

    @once
    def plain_token_ids(self, target: Target) -> list[list[int]]:
        """As :meth:`token_ids`, of a precision with float32 vectors."""
        golden, suite = self.golden(target.model, target.suite), self.suite(target.suite, target.model)
        self.refuse_overlap(target.precision, target.model, target.suite)
        prove(self.artifact(target.precision, target.model), self.model(target.model), golden)
        ids = self.tokenizer(target.precision, target.model)(suite.texts, suite.roles)
        goldens.compare_tokens(golden, suite, ids, self.model(target.model))
        return ids

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
        return self.plain_embeddings(target.plain)

    @once
    def plain_embeddings(self, target: Target) -> Floats:
        """As :meth:`embeddings`, of a precision with float32 vectors."""
        ids = self.token_ids(target)  # first: what may not be judged is not built either
        encoder, artifact = self.encoder(target.precision, target.model), self.artifact(target.precision, target.model)
        with (
            step(f"encoding suite {target.suite!r} with {target.precision}", artifact.file or artifact.folder),
            self._of_one_model(target),
        ):
            return encoder.encode_rows(self.rows(target, encoder, ids))

    @contextmanager
    def _of_one_model(self, target: Target) -> Iterator[None]:
        """What is computed meanwhile is of one model; of a server nothing else proves it."""
        if target.precision.runtime != ENDPOINT:
            yield
            return
        from qguard.judging.endpoint import fingerprint, prove_still

        fingerprint(self, target)
        yield
        prove_still(self, target)

    def rows(self, target: Target, encoder: Encoder, ids: list[list[int]]) -> Sequence[Any]:
        """What an encoder is given of the suite: its token ids, or the texts where its runtime takes them."""
        if encoder.takes == TOKEN_IDS:
            return ids
        suite = self.suite(target.suite, target.model)
        return encoder.rows(suite.texts, suite.roles)

    @once
    def comparison(self, target: Target) -> Comparison:
        """Golden and candidate side by side, in float64; the candidate's vectors quantized if the precision says so."""
        return self.compared(target, self.embeddings(target))

    def compared(self, target: Target, embeddings: Floats) -> Comparison:
        """As :meth:`comparison`, of any float32 embeddings (texts, dim) of the suite."""
        golden = self.golden(target.model, target.suite)
        pipeline = self.model(target.model).pipeline
        similarity = similarity_of(pipeline).fitted(golden.vectors, pipeline.declared(), self._threshold(target.model))
        fp32, found_vectors = self.cut(target, golden.vectors), self.cut(target, embeddings)
        found = Comparison.of(self.suite(target.suite, target.model), fp32, found_vectors, similarity)
        if found.similarity.of_outputs:  # which are whole: another precision was refused
            return found.quantize(target.precision.vectors, self.ranges(target)) if target.precision.vectors != FLOAT else found
        if target.precision.dims and found.suite.corpus is None:
            found = replace(found, whole=golden.vectors.astype(np.float64))
        if found.suite.corpus is not None:
            return self._searched(target, found, embeddings)
        if target.precision.vectors == FLOAT:
            return found
        if _scaled(pipeline):
            found = replace(
                found, golden=unit(found.golden).astype(np.float64), candidate=unit(found.candidate).astype(np.float64)
            )
        return found.quantize(target.precision.vectors, self.ranges(target))

    def _searched(self, target: Target, found: Comparison, embeddings: Floats) -> Comparison:
        """A comparison of a large suite, with what its queries find in the whole corpus."""
        from qguard.metrics.neighbours import Neighbours

        suite, golden = found.suite, self.golden(target.model, target.suite).retrieved
        assert golden is not None  # its suite is this one, by hash
        if target.precision != target.precision.plain:
            raise MeasurementProblem(
                f"{target.precision}: vectors that are quantized or cut are not measured on suite {suite.name!r}, whose "
                f"documents are too many to be held; judge them on a smaller suite, and this one with {target.precision.plain}"
            )
        golden_rows = golden.rows.astype("int64"), golden.scores
        queries, documents = embeddings[list(suite.queries)], self.corpus_vectors(target)
        neighbours = Neighbours.of(suite, golden_rows, queries, documents, found.similarity, self.fleet)
        return replace(found, neighbours=neighbours)

    def corpus_vectors(self, target: Target) -> VectorFile:
        """The candidate's float32 vectors of a large suite's whole corpus, in the cache; encoded where they are not there yet."""
        return self.plain_corpus_vectors(target.plain)

    @once
    def plain_corpus_vectors(self, target: Target) -> VectorFile:
        """As :meth:`corpus_vectors`, of a precision with float32 vectors."""
        from qguard.goldens.corpus import compare_block
        from qguard.goldens.served import served_coder
        from qguard.goldens.vectors import candidate_coder, encode_corpus

        self.token_ids(target)  # what may not be judged is not encoded for hours
        golden, suite, model = self.golden(target.model, target.suite), self.suite(target.suite), self.model(target.model)
        assert golden.retrieved is not None
        assert suite.corpus is not None
        artifact = self.artifact(target.precision, target.model)

        def encoder() -> Encoder:
            return self.encoder(target.precision, target.model)

        similarity = similarity_of(model.pipeline)
        if target.precision.runtime == ENDPOINT:
            coder = served_coder(str(target.precision.plain), target.precision.server, encoder, model.pipeline, similarity)
        else:
            coder = candidate_coder(artifact, target.precision, self.config.device, encoder, similarity)
            if self.fleet is not None:
                from qguard.judging.nodes import candidate_elsewhere

                coder = replace(coder, elsewhere=candidate_elsewhere(self, target, self.fleet))

        def check(number: int, digest: str) -> None:
            compare_block(golden, suite, model, number, digest, coder)

        with self._of_one_model(target):
            return encode_corpus(suite.corpus, coder, golden.retrieved.block, check)[0]

    def cut(self, target: Target, vectors: Floats) -> Floats:
        """Vectors (n, dim) cut to the precision's dimensions, as a user of sentence-transformers cuts them.

        That is ``encode(truncate_dim=…)``, with ``normalize_embeddings=True`` where the model's own vectors have unit length.

        Raises:
            UsageProblem: for more dimensions than they have.
        """
        dims = target.precision.dims
        if not dims:
            return vectors
        _need_dims(target.precision, target.model, vectors.shape[1])
        return unit(vectors[:, :dims]) if self.model(target.model).pipeline.unit_length else vectors[:, :dims]

    def calibration(self, target: Target) -> Ranges | None:
        """The ranges of int8 and uint8 vectors, from fp32 embeddings of the target's or the configured suite.

        Raises:
            MeasurementProblem: for too few texts.
            GoldenProblem: when the configured suite has no current golden.
        """
        if target.precision.vectors not in SCALAR:
            return None
        return self.ranges_of(target.model, self.config.vectors.calibration or target.suite, target.precision.dims)

    @once
    def ranges_of(self, model: str, suite: str, dims: int = 0) -> Ranges:
        """The ranges of a model's fp32 vectors of a suite, cut to ``dims`` dimensions if any are named."""
        target = Target(Precision("fp32", "onnx", dims=dims), model, suite)
        vectors = self.cut(target, self.golden(model, suite).vectors)
        return Ranges.of(self.suite(suite, model), unit(vectors) if _scaled(self.model(model).pipeline) else vectors)

    def ranges(self, target: Target) -> Floats | None:
        """The numbers of :meth:`calibration`: least and greatest value of each dimension, float32 (2, dim)."""
        calibration = self.calibration(target)
        return None if calibration is None else calibration.ranges

    def gates(self, precision: Precision, model: str | None = None) -> list[Gate]:
        """The default gates of a precision with the project's own put over them.

        Args:
            precision: What is judged.
            model: Of which model; without, every gate that any model has, with the bounds of MiniLM.
        """
        if model is None:
            return gates_for(precision, self.config.gates)
        normalized, by_length = self.normalized(model), self.similarity(model).by_length
        standing = self.standing(model, precision.dims)
        return gates_for(
            precision, self.config.gates, normalized=normalized, by_length=by_length, standing=standing, kind=self.kind(model)
        )

    def normalized(self, model: str) -> bool:
        """Whether a model's vectors have unit length, as its golden says."""
        declared = self.declared(model)
        return bool(declared.get("normalize")) and declared.get("truncate_dim") is None

    def similarity(self, model: str) -> Similarity:
        """What a model ranks by, as its golden says."""
        found = similarity_for(self.kind(model), str(self.declared(model).get("similarity", COSINE.name)))
        return self._fitted(model) if self.kind(model) == CROSS_ENCODER else found

    @once
    def _fitted(self, model: str) -> Similarity:
        """That of a cross-encoder, by the scores of its first golden."""
        found = similarity_for(CROSS_ENCODER, "")
        for suite in self.config.suites:
            try:
                golden = goldens.read(goldens.golden_folder(self.config.golden_root, model, suite))
            except QguardError:
                continue
            return found.fitted(golden.vectors, self.declared(model), self._threshold(model))
        return found

    def _threshold(self, model: str) -> float | None:
        return self.config.models[model].threshold if model in self.config.models else None

    def kind(self, model: str) -> str:
        """What a model gives for a text, a name in :data:`qguard.kinds.KINDS`, as its golden says."""
        return str(self.declared(model).get("kind", DENSE))

    @once
    def standing(self, model: str, dims: int = 0) -> Standing | None:
        """How a model's golden of the built-in suite lies, which carries default gates to it; ``None`` where there is none.

        Args:
            model: Its name.
            dims: Of its vectors so many dimensions; 0 for all.
        """
        try:
            golden = goldens.read(goldens.golden_folder(self.config.golden_root, model, SUITE))
        except QguardError:
            return None
        if golden.kind != DENSE:
            return None
        fragility = float(golden.manifest.get(FRAGILE, {}).get("times", 1.0))
        return Standing.of(golden.vectors[:, : dims or None], self.similarity(model), fragility)

    @once
    def static(self, model: str) -> bool:
        """Whether a model is one embedding table, without a transformer."""
        return self.declared(model).get("first") == STATIC

    @once
    def declared(self, model: str) -> Mapping[str, Any]:
        """A model's pipeline, as its golden says: a verdict is verified without the model's files."""
        found = self.recorded(model)
        return self.model(model).pipeline.declared() if found is None else found

    @once
    def recorded(self, model: str) -> Mapping[str, Any] | None:
        """As :meth:`declared`; ``None`` without a golden that says it."""
        for suite in self.config.suites:
            try:
                golden = goldens.read(goldens.golden_folder(self.config.golden_root, model, suite))
            except QguardError:
                continue
            if isinstance(declared := golden.manifest.get("pipeline"), dict):
                return declared
        return None

    def device(self, target: Target) -> str:
        """Where the target is computed: the configured device if its runtime has that one, else the runtime's own."""
        runtime = self.artifact(target.precision, target.model).runtime(target.precision.runtime)
        return RUNTIMES[runtime].device(self.config.device)

    def families(self, target: Target) -> list[Family]:
        """The families that a target is judged in, in the order of the gate."""
        from qguard.judging.families import families_of

        return families_of(self, target)

    def checks(self, target: Target, family: str) -> list[Check]:
        """All checks of one metric family, a name in :data:`qguard.families.FAMILIES`."""
        from qguard.judging.families import checks

        return checks(self, target, family)


def _scaled(pipeline: Pipeline) -> bool:
    """Whether vectors are scaled to unit length before they are quantized: where the model leaves it to whoever ranks them."""
    return pipeline.similarity == COSINE.name and not pipeline.unit_length


def _need_dims(precision: Precision, model: str, width: int) -> None:
    if precision.dims > width:
        raise UsageProblem(f"{precision}: model {model!r} has {width} dimensions; expected 1 to {width}, found {precision.dims}")
