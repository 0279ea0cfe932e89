"""A session on other machines: the files that it needs, how it is opened there, and the tasks that it does."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qguard import goldens
from qguard.artifacts.artifact import data_files, open_artifact
from qguard.artifacts.candidates import place as placed
from qguard.config import Config, load_config
from qguard.encoders import Floats
from qguard.encoders.runtimes import ENDPOINT
from qguard.errors import UsageProblem
from qguard.fleet import Fleet, Item, Part, Place, Shared
from qguard.goldens.corpus import fp32_coder
from qguard.goldens.vectors import Afar, Coder, Elsewhere, as_kept, digest_of
from qguard.judging.session import Session, Target
from qguard.machine.cpu import cores
from qguard.models.location import locate
from qguard.models.model import Model, resolve
from qguard.precisions import Precision, parse_precision
from qguard.vectors.similarity import similarity_of

if TYPE_CHECKING:
    from qguard.artifacts.artifact import Artifact

SECONDS = 0.5  # that a task should take at least: shorter ones are several blocks
MOST = 16  # blocks of one task
_SMALL = (".json", ".txt", ".model")  # files beside weights


def shared(
    session: Session, suites: Iterable[str], /, precision: Precision | None = None, more: Sequence[Part] = (), **given: Any
) -> Shared:
    """What a session on another machine needs: configuration, models, goldens, suites, and an artifact where one is named.

    Args:
        session: This machine's.
        suites: Those that are read there.
        precision: Whose artifact is sent; the artifact of every configured model.
        more: Further files.
        given: More that its tasks are told, as JSON.

    Raises:
        QguardError: when a model or an artifact cannot be read here.
        UsageProblem: for a server, or a suite of the hub: another machine would ask for them itself.
    """
    config, chosen = session.config, list(suites)
    if precision is not None and precision.runtime == ENDPOINT:
        raise UsageProblem(
            f"--ray: {precision} is what a server answers, and one server is asked by one machine; leave --ray out"
        )
    parts, where = list[Part](), dict[str, Any]()
    if config.file is not None:
        parts.append(Part.of("config", config.file.parent, [config.file]))
    stages = [s.candidates for n in chosen if (s := config.suite.get(n)) is not None and s.candidates]
    for name in dict.fromkeys([*config.models, *stages]):
        part, entry = _model_part(session, name)
        parts.append(part)
        where[part.name] = entry
        if precision is not None and name in config.models:
            part, entry = artifact_part(session.artifact(precision, name), session.artifact_path, f"artifact:{name}")
            parts.append(part)
            where[part.name] = entry
    root = config.golden_root
    files = [p for name in config.configured for p in (root / name).rglob("*") if p.is_file() and not p.name.startswith(".")]
    parts.append(Part.of("golden", root, files))
    for name in chosen:
        if (source := config.suite_sources.get(name)) is None:
            continue
        if source.hub:
            raise UsageProblem(f"--ray: suite {name!r} is on the hub ({source.path}); download it, and give its folder as path")
        parts.append(Part.of_path(f"suite:{name}", Path(source.path)))
        where[f"suite:{name}"] = Path(source.path).name if Path(source.path).is_file() else ""
    for name, table in config.precision.items():
        if table.calibration and table.calibration not in config.known_suites:
            path = config.folder / table.calibration
            parts.append(Part.of_path(f"calibration:{name}", path))
            where[f"calibration:{name}"] = path.name if path.is_file() else ""
    told = {
        "config": config.file.name if config.file else "",
        "models": {n: [config.configured[n].ref, config.configured[n].revision] for n in config.models},
        "stages": {n: [config.configured[n].ref, config.configured[n].revision] for n in stages},
        "suites": chosen,
        "device": config.device,
        "precision": str(precision.plain) if precision else "",
        "given": session.artifact_path is not None,
        "entries": where,
        "threads": cores(),
        **given,
    }
    return Shared(told, (*parts, *more))


def _model_part(session: Session, name: str) -> tuple[Part, str]:
    """The files of a model, and which of them its reference names, where it names a file."""
    model, config = session.model(name), session.config
    chosen = config.configured[name]
    was = goldens.was_folder(config.golden_root, name, chosen.ref)
    place = locate(name, config.model_ref(name), chosen.revision, was_folder=was)
    folder = place.parent if place.is_file() else place
    own = [p for p in model.weight_files if model.onnx is not None and p.is_relative_to(folder)]
    beside = folder.glob("*") if place.is_file() else folder.rglob("*")
    kinds = _SMALL if place.is_file() else (*_SMALL, ".safetensors")
    files = [p for p in beside if p.is_file() and p.suffix in kinds]
    return Part.of(f"model:{name}", folder, [*files, *own]), place.name if place.is_file() else ""


def artifact_part(artifact: Artifact, given: Path | None, name: str) -> tuple[Part, str]:
    """The files of an artifact, and what opens them there.

    Args:
        artifact: What is sent.
        given: Where a user has it; ``None`` for one that was built.
        name: What tasks call it.

    Raises:
        ArtifactProblem: where it has no files.
    """
    artifact.need_files()
    path = placed(given)[0] if given is not None else artifact.folder
    folder = path.parent if path.is_file() else path
    weights = data_files(artifact.file) if artifact.file else artifact.weight_files
    beside = folder.glob("*") if path.is_file() else folder.rglob("*")
    kinds = _SMALL if path.is_file() else (*_SMALL, ".safetensors")
    files = [p for p in beside if p.is_file() and p.suffix in kinds]
    entry = artifact.file.relative_to(folder).as_posix() if artifact.file else ""
    opens = entry if path.is_file() or not entry else f"#{entry}"
    return Part.of(name, folder, [*files, *(w for w in weights if w.is_relative_to(folder))]), opens


@lru_cache(2)
def session_of(place: Place) -> Session:
    """The session of a task, on the machine that does it; one for all tasks of a process."""
    given, paths = place.given, place.paths
    config = load_config(paths["config"] / given["config"]) if given["config"] else Config()
    models = [name if name in config.models else ref for name, (ref, _) in given["models"].items()]
    config = config.select(models, given["suites"])
    session = Session(_located(config, place))
    for name, (_, revision) in {**given["stages"], **given["models"]}.items():
        path = paths[f"model:{name}"] / given["entries"][f"model:{name}"]
        found = resolve(name, str(path), None, session.config.model_settings(name))
        Session.model.put(session, replace(found, ref=session.config.model_ref(name), revision=revision), name)
    if given["precision"]:
        precision = parse_precision(given["precision"], config.own_precisions)
        for name in given["models"]:
            part = f"artifact:{name}"
            found_here = opened_artifact(session, part, given["entries"][part], precision.runtime, name, place)
            Session.plain_artifact.put(session, found_here, precision.plain, name)
    return session


def _located(config: Config, place: Place) -> Config:
    """The configuration with the paths of this machine."""
    update: dict[str, Any] = {"device": place.given["device"]}
    if config.golden_root != place.paths["golden"]:
        update["golden"] = str(place.paths["golden"])
    for kind, key in (("suite", "path"), ("precision", "calibration")):
        prefix = "calibration:" if kind == "precision" else "suite:"
        tables = dict(getattr(config, kind))
        for name, path in place.paths.items():
            if name.startswith(prefix) and (own := name.removeprefix(prefix)) in tables:
                here = str(path / place.given["entries"][name])
                tables[own] = tables[own].model_copy(update={key: here})
        update[kind] = tables
    return config.model_copy(update=update)


def opened_artifact(session: Session, part: str, entry: str, runtime: str, model: str, place: Place) -> Artifact:
    """An artifact that was sent; see :func:`artifact_part`."""
    path = Path(f"{place.paths[part]}{entry}") if entry.startswith("#") else place.paths[part] / entry
    if place.given["given"] and part.startswith("artifact:"):
        session.artifact_path = path
    return session._placed(open_artifact(path, session.model(model), runtime))


def candidate_elsewhere(session: Session, target: Target, fleet: Fleet) -> Elsewhere:
    """Encodes blocks of a large suite's documents with the candidate, on a fleet."""

    def encode(blocks: Iterator[list[str]]) -> Iterator[tuple[str, Floats]]:
        one = _of_model(session, target.model)
        # the suite's documents are sent, block by block, and its golden was proved here
        given = shared(one, (), target.precision.plain, model=target.model, suite=target.suite, suites=[target.suite])
        return _in_tasks(fleet, "qguard.judging.nodes:encode_candidate", given, blocks)

    return encode


def _of_model(session: Session, model: str) -> Session:
    """The same session of one model, with what it has read."""
    config = session.config
    one = replace(session, config=config.model_copy(update={"models": {model: config.configured[model]}}))
    Session.model.share(session, one)
    Session.plain_artifact.share(session, one)
    return one


def afar(session: Session, model: str, fleet: Fleet) -> Afar:
    """Encodes blocks of a large suite's documents in fp32, as goldens are recorded, on a fleet."""

    def encode(blocks: Iterator[list[str]]) -> Iterator[tuple[str, Floats]]:
        given = shared(_of_model(session, model), (), model=model, suites=list(session.config.suites))
        return _in_tasks(fleet, "qguard.judging.nodes:encode_fp32", given, blocks)

    return Afar(encode, fleet)


def _in_tasks(fleet: Fleet, task: str, given: Shared, blocks: Iterator[list[str]]) -> Iterator[tuple[str, Floats]]:
    """Tokens and vectors of each block, in their order; short blocks share a task."""
    each = 1

    def items() -> Iterator[Item]:
        some: list[list[str]] = []
        for texts in blocks:
            some.append(texts)
            if len(some) >= each:
                yield Item(data=json.dumps(some).encode())
                some = []
        if some:
            yield Item(data=json.dumps(some).encode())

    for found, data in fleet.map(task, given, items()):
        seconds = found["seconds"] / max(1, len(found["rows"]))
        each = max(1, min(MOST, round(SECONDS / max(seconds, 1e-3))))
        start, dim = 0, found["dim"]
        for rows, tokens in zip(found["rows"], found["tokens"], strict=True):
            end = start + rows * dim * 4
            yield tokens, np.frombuffer(data[start:end], np.float32).reshape(rows, dim)
            start = end


def encode_candidate(place: Place, given: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    """Vectors of blocks of documents by an artifact; a task of :mod:`qguard.fleet`."""
    return _encoded(_candidate_coder(place), data)


def encode_fp32(place: Place, given: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    """Vectors of blocks of documents in fp32; a task of :mod:`qguard.fleet`."""
    return _encoded(_fp32_coder(place), data)


def _encoded(coder: Coder, data: bytes) -> tuple[dict[str, Any], bytes]:
    start, out, tokens, rows, dim = time.perf_counter(), [], [], [], 0
    for texts in json.loads(data):
        ids = coder.tokenize(texts)
        vectors = np.ascontiguousarray(as_kept(coder.encode(texts, ids), coder.similarity), np.float32)
        tokens.append(digest_of(ids))
        rows.append(len(vectors))
        dim = vectors.shape[1]
        out.append(vectors.tobytes())
    return {"tokens": tokens, "rows": rows, "dim": dim, "seconds": time.perf_counter() - start}, b"".join(out)


@lru_cache(2)
def _candidate_coder(place: Place) -> Coder:
    session, model, suite = session_of(place), place.given["model"], place.given["suite"]
    torch_threads(place.given["threads"], place.given["precision"])
    golden = goldens.read(goldens.golden_folder(session.config.golden_root, model, suite))
    Session.golden.put(session, golden, model, suite)
    encoder = session.encoder(parse_precision(place.given["precision"], session.config.own_precisions), model)

    def tokenize(texts: list[str]) -> list[list[int]]:
        return encoder.tokenizer(texts, ["document"] * len(texts))

    return Coder("", {}, tokenize, lambda _, ids: encoder.encode_ids(ids), similarity_of(session.model(model).pipeline))


@lru_cache(2)
def _fp32_coder(place: Place) -> Coder:
    model: Model = session_of(place).model(place.given["model"])
    torch_threads(place.given["threads"], "" if model.onnx else "@torch")
    return fp32_coder(model)


def torch_threads(threads: int, precision: str) -> None:
    """As many threads as on the machine that asks: how torch parts its sums depends on them."""
    if "@torch" in precision:
        import torch

        torch.set_num_threads(threads)
