"""Recording a golden: fp32 outputs, confirmed by an independent path, compared with the old ones and stored."""

from __future__ import annotations

import datetime
import hashlib
import os
import platform
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from qguard.boundary import step
from qguard.encoders.tokenizer import types_of
from qguard.errors import GoldenProblem
from qguard.goldens.consent import check_named, refuse_unnamed
from qguard.goldens.fragile import rounded_apart
from qguard.goldens.from_server import Recorded, Server, client_of, outputs_of
from qguard.goldens.identity import identity
from qguard.goldens.marked import KEY
from qguard.goldens.pooling import by_pooling, contradiction, left_behind
from qguard.goldens.reference import Outputs, confirm, fp32_outputs, without_tokens
from qguard.goldens.reference import paths as sources
from qguard.goldens.retrieved import Retrieved
from qguard.goldens.review import Review, first_review, review
from qguard.goldens.stored import MANIFEST, SCHEMA, golden_folder, locked, public_ref, read, store, tokenizer_facts
from qguard.goldens.summary import summary
from qguard.goldens.vectors import Afar, Coder
from qguard.kinds import CROSS_ENCODER, DENSE, KINDS
from qguard.machine.versions import installed
from qguard.models.location import is_local
from qguard.models.model import Model
from qguard.outputs import arrays_of
from qguard.suites import BUILTIN, Suite
from qguard.vectors.finished import refuse_several
from qguard.vectors.similarity import COSINE, DOT, Similarity, similarity_of

TOP_K = 10
SEVERAL = 16  # texts on which the outputs of a file are compared


def record(
    model: Model,
    suite: Suite,
    root: Path,
    reason: str,
    *,
    accept_change: Collection[str] = (),
    dry_run: bool = False,
    show: Callable[[Review], None] = lambda _: None,
    server: Server | None = None,
    afar: Afar | None = None,
) -> Review:
    """Record fp32 outputs by sentence-transformers, have plain Transformers confirm them, and store them atomically.

    A model that comes as ONNX alone is recorded and confirmed by :func:`qguard.encoders.reference.reference`.
    A golden that already applies and whose outputs are reproduced byte for byte is left as it is, date included.

    Args:
        model: The fp32 model.
        suite: The texts.
        root: The golden folder of the project.
        reason: Why; kept in the manifest for reviewers.
        accept_change: The parts whose change is intended; see :mod:`qguard.goldens.consent`.
        dry_run: Store nothing; a reason is not needed then.
        show: Is given the review before anything is stored or refused.
        server: Whose outputs are recorded instead; the manifest names it.
        afar: Other machines that encode and search the corpus of a large suite.

    Returns:
        What moved.

    Raises:
        UsageProblem: for a part that does not exist.
        GoldenProblem: when the independent path disagrees, something changed that was not named, or the folder cannot be
            written; the old golden then stays as it is.
    """
    if not reason.strip() and not dry_run:
        raise GoldenProblem('a golden needs a reason for its reviewers: --reason "…" (pytest: --golden-reason)')
    check_named(accept_change)
    with step(f"recording fp32 of model {model.name!r} on suite {suite.name!r}", model.onnx or model.folder):
        (judged, vectors, token_ids, left_out, tokenizer), paths, pooled, served = _outputs(model, suite, server)
    similarity = similarity_of(model.pipeline).fitted(vectors)
    fragile = {}
    # default gates follow no other golden
    here = server is None or server.confirm  # else the model may not run here
    if here and suite.name in BUILTIN and model.onnx is None and not model.static and model.kind == DENSE:
        fragile = rounded_apart(model, token_ids, judged.roles, vectors)
    by_labels = contradiction(judged, pooled, similarity) if pooled else ""
    doubts = "; ".join(filter(None, (by_labels, _lost(model))))
    retrieved = coder = None
    if suite.corpus is not None and model.kind != DENSE:
        raise GoldenProblem(
            f"suite {suite.name!r} is large, and the whole of a large suite is searched for one vector a text alone; model "
            f"{model.name!r} gives {KINDS[model.kind].gives}. Judge it on fewer documents"
        )
    if suite.corpus is not None:
        from qguard.goldens.corpus import fp32_coder, retrieve

        coder = fp32_coder(model) if served is None else _coder(model, served)
        retrieved = retrieve(model, suite, vectors, coder, afar)
    # of unit vectors the inner product is the cosine
    ranked = DOT if similarity is COSINE and model.pipeline.unit_length else similarity
    data = _pack(vectors, token_ids, judged, retrieved, ranked)
    if model.kind == CROSS_ENCODER:
        from qguard.goldens.cross_encoder import summary as summary_of_scores

        assert model.pipeline.scoring is not None
        text = summary_of_scores(model.name, judged, vectors, token_ids, model.pipeline.scoring)
    else:
        text = summary(model.name, judged, vectors, token_ids, retrieved, similarity)
    own = ("onnx", "onnxruntime") if model.onnx else ("sentence-transformers", "transformers", "torch", "onnxruntime")
    libraries = own if served is None else ()
    manifest = {
        "schema": SCHEMA,
        "model": {
            "name": model.name, "ref": public_ref(model.ref), "revision": model.revision,
            **({"folder": True} if is_local(model.ref) else {}),
        },
        "suite": {
            "name": suite.name, "texts": len(suite.texts), **(retrieved.facts if retrieved else {}),
            **({"first_stage": dict(suite.first_stage)} if suite.first_stage else {}),
        },
        "hashes": identity(model, suite),
        "pipeline": model.pipeline.declared(),
        "data_sha256": hashlib.sha256(data).hexdigest(),
        "summary_sha256": hashlib.sha256(text).hexdigest(),
        **tokenizer_facts(tokenizer),
        "dim": int(vectors.shape[1]),
        "paths": paths,
        "versions": installed("qguard", *libraries, "tokenizers", "numpy"),
        "host": {"machine": platform.machine(), "system": platform.system(), "python": platform.python_version()},
        **({"left_out": list(left_out.items())} if left_out else {}),
        **({KEY: served.facts} if served else {}),
        **fragile,
        **({"accepted_changes": sorted(set(accept_change))} if accept_change else {}),
        "reason": reason.strip(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }  # fmt: skip
    folder = golden_folder(root, model.name, suite.name)

    def reviewed() -> Review:
        found = _review(folder, model, judged, vectors, token_ids, manifest, retrieved)
        found = replace(found, left_out=tuple(f"{suite.texts[i][:60]!r}: {why}" for i, why in left_out.items()))
        show(found)
        # what was doubted and accepted once is not asked again while it stays as it is
        open_doubts = doubts if found.new or {"pipeline", "weights"} & set(found.parts) else ""
        refuse_unnamed(found, open_doubts, accept_change, model.name, suite.name)
        return found

    if dry_run:
        return reviewed()
    try:
        with locked(folder):
            found = reviewed()
            if found.changed:
                folder.mkdir(parents=True, exist_ok=True)
                store(folder, data, manifest, text, tokenizer)
    except OSError as e:
        raise GoldenProblem(
            f"cannot write the golden folder {root.name}/{model.name}/{suite.name}: {e.strerror or e}; "
            "the old golden is untouched"
        ) from e
    if retrieved is not None and coder is not None:
        from qguard.goldens.corpus import forget_fp32

        forget_fp32(suite, coder)
    return found


def _outputs(
    model: Model, suite: Suite, server: Server | None
) -> tuple[Outputs, dict[str, str], dict[str, Any], Recorded | None]:
    """Confirmed outputs, the two paths that agree, the vectors by pooling as evidence, and what a server gave."""
    if server is not None:
        served = outputs_of(model, suite, server)
        return served.outputs, served.paths, {}, served
    if model.onnx is None:
        found = fp32_outputs(model, suite)
        return found, sources(model), confirm(model, found.suite, found.vectors, found.token_ids), None
    from qguard.encoders import open_encoder
    from qguard.encoders.feeding import Feeding
    from qguard.encoders.reference import reference

    encoder = open_encoder("onnx", model.folder, model.pipeline, "fp32", model.onnx, feeding=Feeding.of(model))
    ids = encoder.tokenizer(suite.texts, suite.roles)
    left_out = without_tokens(suite, ids)
    judged = suite.without(left_out)
    some = [row for row in ids if len(row)][:SEVERAL]
    refuse_several(encoder, some, [list(range(len(some)))], model.onnx.name)
    vectors, token_ids, paths = reference(model, judged)
    pooled = by_pooling(encoder, token_ids) if model.kind == DENSE else {}
    return Outputs(judged, vectors, token_ids, left_out), paths, pooled, None


def _coder(model: Model, served: Recorded) -> Coder:
    from qguard.goldens.served import served_coder

    server = client_of(served.encoder).endpoint
    return served_coder("fp32", server, lambda: served.encoder, model.pipeline, similarity_of(model.pipeline))


def _lost(model: Model) -> str:
    left = left_behind(model.folder)
    if not left:
        return ""
    return (
        f"{', '.join(left)} {'is' if len(left) == 1 else 'are'} in the model's folder, but modules.json is gone or does not name "
        f"{'it' if len(left) == 1 else 'them'}: what {'it declares' if len(left) == 1 else 'they declare'} is not applied"
    )


def _review(
    folder: Path,
    model: Model,
    suite: Suite,
    vectors: Any,
    ids: list[list[int]],
    manifest: dict[str, Any],
    retrieved: Retrieved | None,
) -> Review:
    name = f"{model.name}/{suite.name}"
    if not (folder / MANIFEST).exists():
        return first_review(name, len(vectors))
    try:
        old = read(folder)
    except GoldenProblem as e:
        return first_review(name, len(vectors), str(e))
    return review(name, old, model, suite, vectors, ids, manifest, retrieved)


def _pack(
    vectors: Any,
    token_ids: list[list[int]],
    suite: Suite,
    retrieved: Retrieved | None = None,
    similarity: Similarity = DOT,
) -> bytes:
    from safetensors.numpy import save

    from qguard.metrics.ranking import top_k

    arrays: dict[str, Any] = {
        **arrays_of(vectors),
        "token_ids": np.concatenate([np.asarray(i, np.int32) for i in token_ids]),
        "token_offsets": np.cumsum([0, *map(len, token_ids)]).astype(np.int64),
    }
    if any(types_of(row) is not None for row in token_ids):
        arrays["token_types"] = np.concatenate([np.asarray(types_of(row) or [0] * len(row), np.int8) for row in token_ids])
    if retrieved is not None:
        arrays |= retrieved.arrays
    elif suite.queries and suite.documents:
        v = similarity.prepared(vectors)
        order, scores = top_k(v[list(suite.queries)], v[list(suite.documents)], TOP_K, similarity=similarity)
        arrays["topk_ids"], arrays["topk_scores"] = order.astype(np.int32), scores.astype(np.float32)
    return bytes(save(arrays))


def refuse_in_ci(allowed: bool) -> None:
    """Goldens are recorded by people; under ``CI`` only on explicit request.

    Raises:
        GoldenProblem: under ``CI`` without the flag.
    """
    if os.environ.get("CI") and not allowed:
        raise GoldenProblem("golden updates are refused where CI is set; pass --golden-update-in-ci if that is intended")
