"""The examination: every step of a diagnosis over one target, in the order in which a person would look."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from qguard.artifacts.artifact import Artifact
from qguard.console.progress import progress
from qguard.diagnosis import Diagnosis, stages
from qguard.diagnosis.activations import PADDING, LayerError, Runner, behind, layer_errors
from qguard.diagnosis.exclusion import Exclusion, LayerExchange, Unit, costs, fewest
from qguard.diagnosis.sites import ATTENTION, NORM, AlignedTensor, Net, align
from qguard.diagnosis.stages import Seen, Stage
from qguard.diagnosis.verdict import conclude, damaged, obstacle, ranked
from qguard.encoders import Encoder, Floats, padded
from qguard.encoders.feeds import Feeds
from qguard.encoders.onnx import OnnxRuntime, exact_products
from qguard.encoders.pooling import Head
from qguard.encoders.ports import of_graph
from qguard.encoders.tokenizer import TextTokenizer
from qguard.errors import ArtifactProblem, QguardError
from qguard.families import measure, sampled
from qguard.gates.check import Check, judge
from qguard.judging import cause as drift
from qguard.judging.rounding import Findings, findings
from qguard.judging.session import Session, Target
from qguard.judging.surroundings import difference
from qguard.metrics import Comparison
from qguard.metrics.ranking import K, top_k
from qguard.models.admission import positions
from qguard.onnx.read import read_graph
from qguard.vectors.cosine import of_units, unit
from qguard.vectors.similarity import similarity_of

SEEN = 16  # texts whose hidden states are compared stage by stage
BATCH = 8


@dataclass(frozen=True)
class Examination:
    """One target under examination.

    Attributes:
        session: Holds model, golden and artifact.
        target: Precision, model and suite.
        texts: How many texts layers and costs are measured on, at least 2.
        keep: Called with the artifact and the file in which the layers that were chosen are in fp32, while that file is there.
    """

    session: Session
    target: Target
    texts: int
    keep: Callable[[Artifact, Path], None] | None = None

    @cached_property
    def artifact(self) -> Artifact:
        """What is diagnosed.

        Raises:
            ArtifactProblem: for an artifact that is no ONNX file.
        """
        found = self.session.artifact(self.target.precision, self.target.model)
        if found.onnx is None:
            runs = found.runtime(self.target.precision.runtime)
            raise ArtifactProblem(f"diagnose opens ONNX files; this artifact holds {found.kind}, which {runs} runs")
        return found

    @property
    def file(self) -> Path:
        """The artifact's ONNX file."""
        assert self.artifact.file is not None
        return self.artifact.file

    @cached_property
    def own_ids(self) -> list[list[int]]:
        """Token ids of the suite by the artifact's own tokenizer."""
        suite = self.session.suite(self.target.suite, self.target.model)
        return self.session.tokenizer(self.target.precision, self.target.model)(suite.texts, suite.roles)

    @cached_property
    def ids(self) -> list[list[int]]:
        """Token ids of the suite as fp32 had them."""
        golden = self.session.golden(self.target.model, self.target.suite)
        suite, base = self.session.suite(self.target.suite, self.target.model), self.session.model(self.target.model)
        return TextTokenizer.open(base.root, base.pipeline).told(golden.token_ids, suite.roles)

    @cached_property
    def filling(self) -> tuple[int, str]:
        """What fills short rows, and on which side."""
        own = TextTokenizer.open(self.artifact.tokenizer_root, self.artifact.pipeline)
        return own.pad_id, own.side

    @cached_property
    def room(self) -> int | None:
        """Tokens that the model has positions for, or the file is made for, padding included."""
        rows = [positions(self.session.model(self.target.model))]
        rows.append(Feeds(of_graph(self._inputs), self.file, self.artifact.feeding).length)
        return min((n for n in rows if n is not None), default=None)

    @property
    def _inputs(self) -> list[Any]:
        graph = read_graph(self.file).graph
        stored = {t.name for t in graph.initializer}
        return [i for i in graph.input if i.name not in stored]

    @cached_property
    def nets(self) -> tuple[Net, Net, list[AlignedTensor]]:
        """fp32 export and artifact with fused operators taken apart, and what both compute."""
        fp32 = self.session.fp32(self.target.model, "onnx")
        assert fp32.file is not None
        mine, theirs = Net.read(fp32.file, fp32.feeding), Net.read(self.file, self.artifact.feeding)
        return mine, theirs, align(mine, theirs)

    def run(self, *, layers_only: bool = False) -> Diagnosis:
        """All of it; ``layers_only`` leaves out the gates of the whole suite and the exclusion of layers."""
        golden = self.session.golden(self.target.model, self.target.suite)
        notes: list[str] = []
        checks: list[Check] = []
        rows = np.linspace(0, len(self.ids) - 1, min(self.texts, len(self.ids))).astype(int).tolist()
        suite = self.session.suite(self.target.suite, self.target.model)
        far: drift.Facts | None = None
        try:
            encoder = self.session.encoder(self.target.precision, self.target.model)
            if layers_only:
                left_out = set(range(len(self.ids))) - set(rows)
                vectors = encoder.encode_ids([self.own_ids[i] for i in rows])
                compared = Comparison.of(suite.without(left_out), golden.vectors[rows], vectors)
            else:
                with progress("judging the suite", 1) as advance:
                    vectors = encoder.encode_ids(self.own_ids)
                    advance()
                compared = Comparison.of(suite, golden.vectors, vectors)
                rows = drift.sample(compared, self.texts)
            far = drift.too_far(compared, self.target.precision)
            checks = [] if layers_only else self.accuracy(vectors)
        except QguardError as e:
            notes.append(f"the suite could not be judged: {e}")
        layers: list[LayerError] = []
        try:
            layers = self.layers([self.ids[i] for i in rows])
        except ArtifactProblem as e:
            notes.append(str(e))
        found = self.stages([self.ids[i] for i in rows], layers)
        failed = [c for c in checks if c.outcome == "fail"]
        others = () if layers_only else self.others(self.session, self.target)
        wrong = [s for s in found if s.fault]
        exclusion, proof = None, self.proof(rows) if (failed or far) and not wrong else None
        # a damaged layer is found by leaving it in fp32; what no layer shows is not
        elsewhere = proof is not None and proof.elsewhere and not damaged(layers, self.target.precision.recipe)
        if failed and not wrong and not far and not elsewhere:
            try:
                exclusion = self.exclude(rows)
            except ArtifactProblem as e:
                notes.append(f"no layer could be excluded: {e}")
        failing = (*(f"{c.label} {c.judged:.4f}, gate {c.bound}" for c in failed), *others)
        recipe = self.target.precision.recipe
        worst = tuple(ranked(layers, recipe))
        conclusion, fault = conclude(
            found, worst, failing, exclusion, recipe, self.artifact, judged=bool(checks), far=far, proof=proof
        )
        names = str(self.target.precision), self.target.model, self.target.suite
        return Diagnosis(*names, len(rows), failing, tuple(found), worst, exclusion, tuple(notes), conclusion, fault)

    def proof(self, rows: Sequence[int]) -> Findings | None:
        """Whether rounding is what the artifact loses; ``None`` where its vectors cannot be compared."""
        try:
            return findings(self.session, self.target, tuple(rows))
        except QguardError:  # said by the stage that is wrong
            return None

    def accuracy(self, vectors: Floats) -> list[Check]:
        """All checks of accuracy on the whole suite."""
        compared = self.session.compared(self.target, vectors)
        families = sampled(self.session.suite(self.target.suite))
        gates = self.session.gates(self.target.precision, self.target.model)
        measured = [m for f in families for m in measure(compared, f)]
        if all(g.on == "value" for g in gates):  # no gate asks for an interval
            measured = [replace(m, uncertainty=None) for m in measured]
        return judge(measured, gates, self.target.suite)

    def others(self, session: Session, target: Target) -> tuple[str, ...]:
        """Gates on the file, on invariance and the like that do not hold, with what stands behind them."""
        found: list[str] = []
        for family in (f.name for f in session.families(target) if not f.sampled and not {"generated", "process"} & set(f.needs)):
            try:
                found += [obstacle(c) for c in session.checks(target, family) if c.outcome == "fail"]
            except QguardError as e:
                found.append(f"{family}: {e}")
        return tuple(dict.fromkeys(found))

    def layers(self, ids: Sequence[Sequence[int]]) -> list[LayerError]:
        """The error of every layer, in the order of the graph."""
        if self.session.model(self.target.model).static:
            raise ArtifactProblem("a static model has no layers to compare: it is one embedding table, whose rows are averaged")
        fp32, candidate, sites = self.nets
        with progress("errors of layers", -(-len(ids) // BATCH)) as advance:
            pad_id, side = self.filling
            return layer_errors(fp32, candidate, sites, ids, pad_id, exact_products(self.file), advance, self.room, side)

    def stages(self, ids: Sequence[Sequence[int]], layers: Sequence[LayerError]) -> list[Stage]:
        """Every stage of the pipeline."""
        model, artifact = self.session.model(self.target.model), self.artifact
        golden = self.session.golden(self.target.model, self.target.suite)
        differs = difference(artifact, model, golden)
        found = [stages.tokens(self.ids, self.own_ids, model, differs), stages.tables(artifact, model)]
        pad_id, side = self.filling
        feeding = replace(artifact.feeding, pad_id=pad_id, side=side)
        runtime = OnnxRuntime(self.file, feeding=feeding)
        fp32 = self.session.fp32(self.target.model, "onnx")
        assert fp32.file is not None
        reference = OnnxRuntime(fp32.file, feeding=fp32.feeding)
        inside = self._hidden(runtime)
        seen = []
        ids = list(ids)[:: max(1, len(ids) // SEEN)][:SEEN]
        for start in range(0, len(ids), BATCH):
            rows = ids[start : start + BATCH]
            batch = behind(rows, pad_id, PADDING, self.room, side)
            out = runtime(*batch)
            states = out if out.ndim == 3 else inside(*batch) if inside else None
            if states is None:
                why = "the file gives finished vectors, and its hidden states could not be found in it"
                return [*found, *stages.declared(model.pipeline, artifact.pipeline), Stage(stages.HIDDEN, False, why)]
            seen.append(Seen(batch[1], reference(*batch), states, out, out.ndim == 2, rows))
        room = self.room
        longest = None if room is None else max(room - 2 * PADDING, room // 2)  # the rest is for padding
        some = [row for row in ids if longest is None or len(row) <= longest] or [row[:longest] for row in ids]
        short = [padded([row], pad_id, 0, side) for row in some[: stages.FIRST]]
        long = [behind([row], pad_id, 2 * PADDING, room, side) for row in some[: stages.FIRST]]
        alone, filled = ([self._states(runtime, inside, b) for b in batches] for batches in (short, long))
        cores = [x.own for x in layers if x.kind == ATTENTION]
        found.append(stages.padding(alone, filled, cores))
        return [*found, stages.hidden(seen), *stages.after(seen, model, artifact)]

    def _states(self, runtime: OnnxRuntime, inside: Any, batch: Any) -> Any:
        out = runtime(*batch)
        return (out if out.ndim == 3 else inside(*batch))[batch[1].astype(bool)]

    def _hidden(self, runtime: OnnxRuntime) -> Any:
        """A function that gives the hidden states of a file whose output is finished vectors; ``None`` if they are not found."""
        try:
            _, candidate, sites = self.nets
        except ArtifactProblem:
            return None
        last = [s.candidate for s in sites if s.kind == NORM][-1:]
        if not last:
            return None
        runner = Runner(candidate, last, exact=exact_products(self.file))
        return lambda ids, mask: np.asarray(runner(ids, mask)[last[0]], np.float32)

    def exclude(self, rows: Sequence[int]) -> Exclusion:
        """Leave layers in fp32: each alone on the texts ``rows``, then more and more of the dearest on the whole suite.

        Raises:
            ArtifactProblem: when layers cannot be exchanged.
        """
        fp32 = self.session.fp32(self.target.model, "onnx")
        assert fp32.file is not None
        exchange = LayerExchange(fp32.file, self.file)
        score = self.scorer(rows)
        with tempfile.TemporaryDirectory() as work:
            folder = Path(work)
            with progress("leaving layers in fp32", len(exchange.units)) as advance:
                found = costs(exchange, score, folder, advance)

            def holds(units: Sequence[Unit]) -> bool:
                file = exchange.without(units, folder / "model.onnx")
                checks = self.accuracy(self._encoder(file).encode_ids(self.ids))
                advance()
                return all(c.outcome != "fail" for c in checks)

            with progress("how many are enough", int(np.ceil(np.log2(len(found)))) + 2) as advance:
                chosen = fewest([c.unit for c in found], holds)
            if not chosen:
                return Exclusion(tuple(found))
            mended = replace(self.artifact, file=exchange.without(chosen, folder / "model.onnx"))
            if self.keep is not None and mended.file is not None:
                self.keep(self.artifact, mended.file)
            size = (self.artifact.bytes, mended.bytes, fp32.bytes)
            left = self.others(Session(self.session.config, mended.file), self.target)
            return Exclusion(tuple(found), chosen, True, left, size, self._speed(fp32, mended))

    def scorer(self, rows: Sequence[int]) -> Callable[[Path], tuple[float, float]]:
        """What gives, of a file, mean cosine and overlap@10 on these texts."""
        golden = self.session.golden(self.target.model, self.target.suite).vectors
        similarity = similarity_of(self.session.model(self.target.model).pipeline)
        fp32_vectors = golden[list(rows)]

        def nearest(vectors: Any, k: int) -> Any:
            prepared = similarity.prepared(vectors)
            return top_k(prepared, prepared, k, exclude_self=True, similarity=similarity)[0]

        near = nearest(fp32_vectors, min(K, len(rows) - 1))

        def score(file: Path) -> tuple[float, float]:
            found = self._encoder(file).encode_ids([self.ids[i] for i in rows])
            now = nearest(found, near.shape[1])
            kept = float((near[:, :, None] == now[:, None, :]).any(2).mean())
            return float(of_units(unit(fp32_vectors), unit(found)).mean()), kept

        return score

    def _encoder(self, file: Path) -> Encoder:
        model = self.session.model(self.target.model)
        tokenizer = TextTokenizer.open(model.root, model.pipeline)
        runtime = OnnxRuntime(file, feeding=self.artifact.feeding.padded_by(tokenizer))
        return Encoder(tokenizer, runtime, Head.open(model.folder, model.pipeline))

    def _speed(self, fp32: Artifact, mended: Artifact) -> tuple[float, float]:
        """fp32's time over the artifact's, before and after, at 64 tokens: medians of runs in turn."""
        from qguard.judging.compare import BUCKETS, time_ratio
        from qguard.latency.check import spec_of
        from qguard.precisions import Precision

        threads, bucket = self.session.config.latency.threads, BUCKETS[0]
        batch = bucket.fill(self.ids)
        base = spec_of(fp32, Precision("fp32", "onnx"), threads)
        before, after = (spec_of(a, self.target.precision, threads) for a in (self.artifact, mended))
        return time_ratio(base, before, batch, bucket.tokens), time_ratio(base, after, batch, bucket.tokens)
