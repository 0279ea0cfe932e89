"""Transformers.js: its own tokenizer, ONNX Runtime, pooling and normalization, in Node.js and in browsers."""

from __future__ import annotations

import tempfile
import weakref
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qguard.boundary import step
from qguard.encoders.interface import Interface
from qguard.encoders.onnx import EXACT, exact_products
from qguard.encoders.ports import INPUT_IDS, MASK, TYPES, of_graph, role_of
from qguard.encoders.whole import Whole
from qguard.errors import ArtifactProblem, MeasurementProblem
from qguard.files import sha256_file
from qguard.javascript import layout
from qguard.javascript.browser import BrowserWorker, browser
from qguard.javascript.packages import NODE_MODULES, Packages
from qguard.javascript.settings import JavaScript
from qguard.javascript.worker import NodeWorker, RefusedByWorker, Worker
from qguard.kinds import DENSE
from qguard.machine.cpu import saturates
from qguard.models.modules import Pooling
from qguard.onnx.read import external_files, read_graph

NAME, WEB = "@huggingface/transformers", "onnxruntime-web"
MODEL = "model"  # the folder, below which Transformers.js finds no other
# pooling of sentence-transformers → of the pipeline "feature-extraction"
POOLINGS = {"mean": "mean", "cls": "cls", "lasttoken": "last_token"}
# the outputs that this pipeline reads, the first one that a file has
READS = ("last_hidden_state", "logits", "token_embeddings")
_FEEDS = (INPUT_IDS, MASK, TYPES)
_BESIDE = "judge the file with the runtime onnx, and write that part in JavaScript with tests of your own"


class TransformersRuntime(ABC):
    """A model that Transformers.js has loaded.

    Args:
        source: The ONNX file.
        precision: Not needed: the file says what it computes in.
        threads: Of ONNX Runtime; ``None`` for its default.
        whole: Everything around the file.
        javascript: Where Node.js, the packages and the browser are.

    Attributes:
        versions: Library → version, as they say themselves.

    Raises:
        MeasurementProblem: where JavaScript or a package is absent, and for what Transformers.js does not compute.
        ArtifactProblem: when it loads another file than the one that is judged.
    """

    def __init__(self, source: Path, precision: str, threads: int | None, whole: Whole, javascript: JavaScript) -> None:
        self._how = how(whole) | {"close": javascript.close}
        self._exact = exact_products(source)
        external = external_files(source)
        name, dtype = layout.named(source.name)
        options: dict[str, Any] = {"dtype": dtype, "model_file_name": name}
        if external:
            options["use_external_data_format"] = len(external)
        self._folder = tempfile.TemporaryDirectory(prefix="qguard-javascript-")
        folder = Path(self._folder.name, MODEL)
        with step("laying out the model for Transformers.js", source):
            layout.lay_out(folder, source, external, whole.configuration, whole.tokenizer)
        self._worker: Worker = self._started(javascript, folder)
        weakref.finalize(self, self._worker.close)
        try:
            found = self._opened(folder, options, threads)
            self._prove(found, source, dtype)
        except BaseException:
            self.close()
            raise
        self.longest: int | None = found["longest"] if isinstance(found["longest"], int) else None
        self.versions: dict[str, str] = {**found["versions"], **self._own_versions()}

    @abstractmethod
    def _started(self, settings: JavaScript, folder: Path) -> Worker:
        """A worker that can open what lies in ``folder``, and nothing else."""

    @abstractmethod
    def _opened(self, folder: Path, options: dict[str, Any], threads: int | None) -> dict[str, Any]:
        """What the worker says of the model that it opened: ``dtype``, ``sessions``, ``longest``, ``versions``, and ``loaded``,
        a list of ``name`` and ``sha256`` of what was read.
        """

    @abstractmethod
    def _own_versions(self) -> dict[str, str]:
        """Of what runs JavaScript."""

    def _prove(self, found: dict[str, Any], source: Path, dtype: str) -> None:
        """Transformers.js made one session, of this very file: by name and by the hash of what was read."""
        loaded = [(one["name"], one["sha256"]) for one in found["loaded"] if one["name"].endswith(".onnx")]
        if loaded != [(source.name, sha256_file(source))] or found["sessions"] != ["model"] or found["dtype"] != dtype:
            names = ", ".join(name for name, _ in loaded) or "nothing"
            raise ArtifactProblem(
                f"Transformers.js was asked for {source.name} (dtype {dtype}) and loaded {names} (dtype {found['dtype']}, "
                f"sessions {', '.join(found['sessions'])}): what would be measured is not what is judged"
            )

    def close(self) -> None:
        """End the worker."""
        self._worker.close()
        self._folder.cleanup()

    def __call__(self, texts: Sequence[str], roles: Sequence[str | None]) -> Any:
        """See :class:`qguard.encoders.TextRuntime`."""
        return self._worker.ask("embed", texts=list(texts)).arrays["vectors"]

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids that each text is embedded by, special tokens included."""
        return self._worker.token_ids(texts)

    def times(self, texts: Sequence[str], runs: int, discard: int = 0, *, alone: bool = False) -> Any:
        """Milliseconds of each run on one batch, measured in JavaScript: float64 (runs,).

        Args:
            texts: The batch.
            runs: That are timed.
            discard: Runs before these.
            alone: The model on token ids that are there; else everything from text to vector.
        """
        return self._worker.ask("time", texts=list(texts), runs=runs, discard=discard, alone=alone).arrays["took"]


class NodeRuntime(TransformersRuntime):
    """Transformers.js in Node.js, with onnxruntime-node on the CPU."""

    def _started(self, settings: JavaScript, folder: Path) -> Worker:
        return NodeWorker("transformers.mjs", settings.modules, settings.node, settings.timeout, [NAME])

    def _opened(self, folder: Path, options: dict[str, Any], threads: int | None) -> dict[str, Any]:
        own: dict[str, Any] = {} if threads is None else {"intraOpNumThreads": threads, "interOpNumThreads": 1}
        if self._exact and saturates():
            section, _, name = EXACT.partition(".")
            own["extra"] = {section: {name: "1"}}
        if own:
            options = {**options, "session_options": own}
        return self._worker.ask("open", folder=str(folder), options=options, how=self._how).values

    def _own_versions(self) -> dict[str, str]:
        return {"Node.js": self._worker.versions["node"]}


class BrowserRuntime(TransformersRuntime):
    """Transformers.js in a page of a headless Chromium, with onnxruntime-web on WebAssembly."""

    def _started(self, settings: JavaScript, folder: Path) -> Worker:
        browser(settings.browser)
        files = {f"{MODEL}/{p.relative_to(folder).as_posix()}": p for p in folder.rglob("*") if p.is_file()}
        return BrowserWorker(files | web_files(settings.modules), settings.browser, settings.timeout)

    def _opened(self, folder: Path, options: dict[str, Any], threads: int | None) -> dict[str, Any]:
        assert isinstance(self._worker, BrowserWorker)
        site, place = self._worker.site, f"{MODEL}/{layout.SUBFOLDER}/"
        try:
            found = self._worker.ask("open", model=MODEL, options=options, how=self._how, threads=threads).values
        except RefusedByWorker as e:
            asked = ", ".join(path.removeprefix(place) for path in site.refused if path.startswith(place))
            raise MeasurementProblem(f"{e}{f' (it asked for {asked})' if asked else ''}") from e
        loaded = [
            {"name": path.removeprefix(place), "sha256": sha} for path, sha in site.served.items() if path.startswith(place)
        ]
        return {**found, "loaded": loaded}

    def _own_versions(self) -> dict[str, str]:
        return {"browser": self._worker.versions["browser"]}


def web_files(modules: Path) -> dict[str, Path]:
    """What a page imports of Transformers.js: path below the site → file.

    Args:
        modules: The folder ``node_modules``.

    Raises:
        MeasurementProblem: for a package that is not installed.
    """
    packages = Packages(modules)
    packages.need(NAME)
    nested = modules / NAME / NODE_MODULES / WEB
    if not nested.is_dir():
        packages.need(WEB)
    dist = (nested if nested.is_dir() else modules / WEB) / "dist"
    found = {f"npm/{p.name}": p for p in dist.glob("ort-wasm*") if p.suffix in (".mjs", ".wasm")}
    return found | {"npm/transformers.js": modules / NAME / "dist" / "transformers.min.js"}


def how(whole: Whole) -> dict[str, Any]:
    """What a user of Transformers.js writes for a model: pooling and normalization, or the output that holds finished vectors.

    Raises:
        MeasurementProblem: naming what Transformers.js has not.
    """
    pipeline, graph = whole.pipeline, read_graph(whole.file).graph
    if pipeline.kind != DENSE or pipeline.static:
        what = "a static model" if pipeline.static else f"a model of kind {pipeline.kind}"
        raise MeasurementProblem(
            f"Transformers.js is judged by its pipeline feature-extraction, which does not embed with {what}; {_BESIDE}"
        )
    if pipeline.by_role:
        raise MeasurementProblem(
            f"the pipeline of Transformers.js treats queries and documents alike, and this model does not; {_BESIDE}"
        )
    inputs, outputs = of_graph(graph.input), of_graph(graph.output)
    interface = Interface(inputs, outputs, whole.file, whole.feeding)
    if foreign := [p.name for p in inputs if role_of(p.name) not in _FEEDS]:
        raise MeasurementProblem(
            f"{whole.file.name} takes {', '.join(foreign)}, which Transformers.js does not feed; export it with input_ids, "
            "attention_mask and token_type_ids alone"
        )
    port = interface.output.port
    given = {"normalize": pipeline.normalize, **({"dims": pipeline.truncate_dim} if pipeline.truncate_dim else {})}
    if interface.output.finished or port.rank == 2:
        return {**given, "output": port.name}
    read = next((name for name in READS if name in {p.name for p in outputs}), None)
    if read != port.name:
        raise MeasurementProblem(
            f"the embeddings of {whole.file.name} are its output {port.name}, and Transformers.js reads "
            f"{read or 'none of its outputs'}; export it with the output last_hidden_state"
        )
    return {**given, "pooling": _pooling(whole)}


def _pooling(whole: Whole) -> str:
    pipeline = whole.pipeline
    others = [type(m).__name__ for m in pipeline.head if not isinstance(m, Pooling) and m not in pipeline.closing]
    if others:
        raise MeasurementProblem(
            f"the model has {', '.join(others)} behind its network, which Transformers.js does not compute; export the file with "
            f"it inside (output sentence_embedding), or {_BESIDE}"
        )
    if len(pipeline.pooling) != 1 or pipeline.pooling[0] not in POOLINGS:
        raise MeasurementProblem(
            f"the model pools by {'+'.join(pipeline.pooling) or 'nothing'}, and Transformers.js by {', '.join(POOLINGS)} alone; "
            f"export the file with the pooling inside (output sentence_embedding), or {_BESIDE}"
        )
    return POOLINGS[pipeline.pooling[0]]
