"""The harness: from configuration to checks. The pytest plugin and the command line both call it, so they agree."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qguard import golden as goldens
from qguard.artifact import Artifact, open_artifact
from qguard.config import Config
from qguard.encoders import Encoder, Floats, open_encoder
from qguard.errors import UsageProblem
from qguard.gates import Check, gates_for, judge
from qguard.golden import Golden
from qguard.metrics import Comparison, measure
from qguard.models import Model, installed, resolve
from qguard.precisions import Precision
from qguard.suites import Suite, load_suite


@dataclass(frozen=True, order=True)
class Target:
    """What one gate test judges: a precision of a model on a suite."""

    precision: Precision
    model: str
    suite: str

    def __str__(self) -> str:
        return f"{self.precision}-{self.model}-{self.suite}"


@dataclass
class Harness:
    """Caches what several checks share: each model is hashed, each artifact built and each suite encoded once.

    Attributes:
        config: The configuration, already narrowed to the selected models and suites.
        artifact_path: ``--artifact``; ``None`` to quantize here.
    """

    config: Config
    artifact_path: Path | None = None
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
        if self.artifact_path is not None and len(precisions) * len(self.config.models) > 1:
            raise UsageProblem("--artifact judges one artifact: give one --precision and one --qguard-model")
        return [Target(p, m, s) for p in precisions for m in self.config.models for s in self.config.suites]

    def model(self, name: str) -> Model:
        """The resolved fp32 model."""

        def make() -> Model:
            chosen = self.config.models[name]
            return resolve(name, self.config.model_ref(name), chosen.revision, chosen.settings)

        return self._once(("model", name), make)  # type: ignore[no-any-return]

    def suite(self, name: str) -> Suite:
        """The suite by name."""
        return self._once(("suite", name), lambda: load_suite(name, self.config.suite_paths))  # type: ignore[no-any-return]

    def golden(self, model: str, suite: str) -> Golden:
        """The golden, read and proved current."""

        def read() -> Golden:
            golden = goldens.read(goldens.golden_folder(self.config.golden_root, model, suite))
            goldens.check(golden, self.model(model), self.suite(suite))
            return golden

        return self._once(("golden", model, suite), read)  # type: ignore[no-any-return]

    def artifact(self, precision: Precision, model: str) -> Artifact:
        """The given artifact, or the one that is built (once, cached) for this precision."""
        path, base = self.artifact_path, self.model(model)
        return self._once(  # type: ignore[no-any-return]
            ("artifact", precision, model), lambda: open_artifact(path, base) if path else precision.build(base)
        )

    def encoder(self, precision: Precision, model: str) -> Encoder:
        """The candidate encoder; an ONNX file runs in ONNX Runtime, safetensors in torch."""

        def make() -> Encoder:
            a = self.artifact(precision, model)
            return open_encoder("onnx" if a.file else "torch", a.folder, a.pipeline, precision.name, a.file)

        return self._once(("encoder", precision, model), make)  # type: ignore[no-any-return]

    def token_ids(self, target: Target) -> list[list[int]]:
        """The artifact's own token ids, proved equal to the golden's."""

        def make() -> list[list[int]]:
            golden, suite = self.golden(target.model, target.suite), self.suite(target.suite)
            a = self.artifact(target.precision, target.model)
            from qguard.encoders.tokenizer import TextTokenizer

            ids = TextTokenizer.open(a.folder / a.pipeline.transformer, a.pipeline)(suite.texts, suite.roles)
            goldens.compare_tokens(golden, suite, ids)
            return ids

        return self._once(("tokens", target), make)  # type: ignore[no-any-return]

    def embeddings(self, target: Target) -> Floats:
        """The candidate's embeddings (texts, dim) of the suite."""
        return self._once(  # type: ignore[no-any-return]
            ("embeddings", target), lambda: self.encoder(target.precision, target.model).encode_ids(self.token_ids(target))
        )

    def comparison(self, target: Target) -> Comparison:
        """Golden and candidate side by side, in float64."""

        def make() -> Comparison:
            golden = self.golden(target.model, target.suite)
            return Comparison.of(self.suite(target.suite), golden.vectors, self.embeddings(target))

        return self._once(("comparison", target), make)  # type: ignore[no-any-return]

    def _gates(self, precision: Precision) -> Any:
        own = {**self.config.gates.get(precision.name, {}), **self.config.gates.get(str(precision), {})}
        return gates_for(precision.name, own)

    def checks(self, target: Target, family: str) -> list[Check]:
        """All checks of one metric family (``embedding``, ``similarity``, ``ranking`` or ``artifact``)."""
        if family == "artifact":
            from qguard.metrics.artifact import measure_artifact

            artifact = self.artifact(target.precision, target.model)
            measured = measure_artifact(artifact, self.model(target.model), target.precision.name)
        else:
            measured = measure(self.comparison(target), family)
        return judge(measured, self._gates(target.precision), target.suite)

    def facts(self, target: Target) -> dict[str, Any]:
        """What the report says about an artifact besides its checks."""
        artifact = self.artifact(target.precision, target.model)
        return {"artifact": {"sha256": artifact.sha256, "bytes": artifact.bytes}, "changed": self.changed(target)}

    def changed(self, target: Target) -> list[str]:
        """Versions that differ from those the golden was recorded with."""
        then = self.golden(target.model, target.suite).manifest.get("versions", {})
        now = installed(*then)
        return [f"{k} {then[k]} → {now[k]}" for k in then if then[k] != now[k]]
