"""fp32 outputs by sentence-transformers, and the independent path that must agree before they are stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qguard.console.progress import progress
from qguard.errors import GoldenProblem, MeasurementProblem, ModelProblem, first_line
from qguard.kinds import CROSS_ENCODER, DENSE, KINDS, MULTI_VECTOR, SPARSE
from qguard.machine.quiet import quiet_transformers
from qguard.models.admission import refuse_unknown_type
from qguard.models.model import Model
from qguard.outputs import Collected, finite
from qguard.registry import function_of
from qguard.suites import Suite
from qguard.vectors.similarity import similarity_of

if TYPE_CHECKING:
    from qguard.encoders import Encoder
    from qguard.encoders.tokenizer import TextTokenizer

# The independent path differs from sentence-transformers only by rounding.
AGREEMENT = 1e-5
# fp32 of another runtime, version or CPU differs from a golden by some 1e-6; a hundred times that is no rounding.
DRIFT = 1e-4
NO_TOKEN = "it has no token in this model's tokenizer"
_CONFIRMED = {
    DENSE: "Transformers with the declared pooling",
    CROSS_ENCODER: "Transformers with token types of the tokenizer alone",
}
_OF_TABLE = "NumPy with the mean of the table's rows"


def paths(model: Model) -> dict[str, str]:
    """What records a golden of a model, and what confirms it."""
    confirmed = _OF_TABLE if model.static else _CONFIRMED.get(model.kind, _CONFIRMED[DENSE])
    return {"recorded": "sentence-transformers", "confirmed": confirmed}


def open_fp32(model: Model) -> Any:
    """The model in sentence-transformers, fp32 on the CPU.

    Raises:
        ModelProblem: for a type that Transformers does not know, or a folder that sentence-transformers cannot open.
    """
    if not model.static:
        refuse_unknown_type(model.root)
    quiet_transformers()
    import sentence_transformers

    kind: Any = getattr(sentence_transformers, KINDS[model.kind].model_type)
    try:
        if model.static and not (model.folder / "modules.json").exists():
            st = kind(modules=_of_model2vec(model), device="cpu")
        else:
            st = kind(
                str(model.folder), device="cpu", trust_remote_code=False, local_files_only=True,
                model_kwargs={"use_safetensors": True},
            )  # fmt: skip
    except Exception as e:  # it and Transformers raise many kinds for what they do not expect in a folder
        raise ModelProblem(
            f"sentence-transformers cannot open model {model.name!r}: {first_line(e)}; see: qguard models {model.ref}"
        ) from e
    st.float()
    if not model.static:
        st.max_seq_length = model.pipeline.max_seq_length  # its own may count positions that no text uses
    if hasattr(st, "default_prompt_name"):
        st.default_prompt_name = None  # every text gets the prompt of its role, which the pipeline knows
    return st


def _of_model2vec(model: Model) -> list[Any]:
    """The modules of a folder in the layout of model2vec, which sentence-transformers opens one by one alone."""
    from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding

    return [StaticEmbedding.load(str(model.folder), local_files_only=True), *([Normalize()] if model.pipeline.normalize else [])]


def encode_texts(st: Any, model: Model, role: str | None, texts: list[str]) -> Any:
    """What a model gives for n texts of the same role: float32 vectors (n, dim), or its kind's outputs; see qguard.outputs."""
    if model.kind != DENSE:
        return function_of(_ENCODED[model.kind])(st, model, role, texts)
    task = {"task": role} if model.pipeline.routed else {}
    prompt = model.pipeline.prefix(role) or None
    found: NDArray[np.float32] = st.encode(texts, prompt=prompt, show_progress_bar=False, convert_to_numpy=True, **task)
    return found


# how sentence-transformers is asked for the outputs of the other kinds
_ENCODED = {
    CROSS_ENCODER: "qguard.goldens.cross_encoder:encoded",
    SPARSE: "qguard.goldens.sparse:encoded",
    MULTI_VECTOR: "qguard.goldens.multi_vector:encoded",
}


def preprocess(st: Any, texts: list[str], batch: int = 256) -> list[list[int]]:
    """Token ids of n texts, padding taken off."""
    ids: list[list[int]] = []
    for start in range(0, len(texts), batch):
        features = st.preprocess(texts[start : start + batch])
        if "offsets" in features:  # of a static model: all texts in one row, without padding
            ends = [*features["offsets"].tolist()[1:], len(features["input_ids"])]
            flat = features["input_ids"].tolist()
            ids += [flat[a:b] for a, b in zip(features["offsets"].tolist(), ends, strict=True)]
            continue
        for row, mask in zip(features["input_ids"], features["attention_mask"], strict=True):
            ids.append(row[mask.bool()].tolist())
    return ids


class Outputs(NamedTuple):
    """fp32 outputs of a suite.

    Attributes:
        suite: The texts that they are of.
        vectors: float32 (texts, dim), or the outputs of another kind of model (:mod:`qguard.outputs`).
        token_ids: One list per text, special tokens included.
        left_out: Texts that are not among them, by their index in the whole suite, and why.
        tokenizer: See :attr:`qguard.goldens.stored.Golden.tokenizer`.
    """

    suite: Suite
    vectors: Any
    token_ids: list[list[int]]
    left_out: dict[int, str]
    tokenizer: bytes | None = None


def fp32_outputs(model: Model, whole: Suite) -> Outputs:
    """Vectors and token ids by sentence-transformers.

    Raises:
        GoldenProblem: see :func:`without_tokens`; also when the tokenizer alone gives other ids than sentence-transformers.
    """
    st = open_fp32(model)
    tokenizer, loaded = tokenizer_of(model)
    own = tokenizer(whole.texts, whole.roles)
    prefixes = [model.pipeline.prefix(role) for role in whole.roles]
    some = [i for i, ids in enumerate(own) if ids]
    given = [prefixes[i] + whole.texts[i] for i in some]
    if model.kind == MULTI_VECTOR:
        from qguard.goldens.multi_vector import preprocess as of_roles

        prepared = of_roles(st, given, [whole.roles[i] for i in some])
    elif model.kind == CROSS_ENCODER:
        from qguard.goldens.cross_encoder import preprocessed, refuse_other_types

        theirs = preprocessed(st, model, [whole.texts[i] for i in some])
        refuse_other_types(whole.without([i for i in range(len(own)) if not own[i]]), [own[i] for i in some], theirs)
        prepared = [row for row, _ in theirs]
    else:
        prepared = preprocess(st, given, 1)
    ids = dict(zip(some, prepared, strict=True))
    for i, row in ids.items():
        if row != list(own[i]):
            raise GoldenProblem(
                f"the independent tokenizer disagrees with sentence-transformers on text {i} ({whole.texts[i][:60]!r}): "
                f"{own[i][:8]}… against {row[:8]}…; nothing was written"
            )
    left_out = without_tokens(whole, own)
    suite = whole.without(left_out)
    told = model.pipeline.routed or model.kind == MULTI_VECTOR  # such a model is told the role itself
    alike = [(model.pipeline.prefix(role), role if told else None) for role in suite.roles]
    collected = Collected(len(suite.texts))
    with progress(f"{model.name}: {len(suite.texts)} {KINDS[model.kind].noun} of {suite.name} by sentence-transformers", None):
        for key in dict.fromkeys(alike):
            rows = [i for i, found in enumerate(alike) if found == key]
            collected.put(rows, encode_texts(st, model, suite.roles[rows[0]], [suite.texts[i] for i in rows]))
    return Outputs(suite, collected.whole(), [own[i] for i in some], left_out, loaded)


def tokenizer_of(model: Model) -> tuple[TextTokenizer, bytes | None]:
    """The tokenizer that gives a golden's token ids, and its ``tokenizer.json`` where that is not the model's own file."""
    from qguard.encoders.loaded import loaded_tokenizer
    from qguard.encoders.tokenizer import TextTokenizer

    loaded = loaded_tokenizer(model)
    if loaded is None:
        return TextTokenizer.open(model.root, model.pipeline), None
    return TextTokenizer.read(loaded, model.pipeline, "the tokenizer that sentence-transformers loads", model.root), loaded


def without_tokens(suite: Suite, ids: Sequence[Sequence[int]]) -> dict[int, str]:
    """The texts that a golden leaves out, by index, and why: those that the tokenizer has no token for.

    Args:
        suite: The texts.
        ids: Token ids of each.

    Raises:
        GoldenProblem: where nothing is left.
        MeasurementProblem: for such a text in a large suite, whose documents are not told apart.
    """
    out = {i: NO_TOKEN for i, row in enumerate(ids) if not row}
    if len(out) == len(suite.texts):
        raise GoldenProblem(f"no text of suite {suite.name!r} has a token in this model's tokenizer; nothing was written")
    if out and suite.corpus is not None:
        i = min(out)
        raise MeasurementProblem(f"large suite {suite.name!r}: {suite.texts[i][:60]!r}: {out[i]}; remove it from the suite")
    return out


def independent(model: Model) -> Encoder:
    """fp32 of a model's own files without sentence-transformers: what confirms a golden."""
    from qguard.encoders import Encoder, open_encoder
    from qguard.encoders.feeding import Feeding
    from qguard.encoders.pooling import Head
    from qguard.encoders.table import NumpyTable
    from qguard.encoders.tokenizer import TextTokenizer

    if model.onnx is not None:
        return open_encoder("onnx", model.folder, model.pipeline, "fp32", model.onnx, feeding=Feeding.of(model))
    if model.static:
        tokenizer = TextTokenizer.open(model.root, model.pipeline)
        return Encoder(tokenizer, NumpyTable(model.root), Head.open(model.folder, model.pipeline))
    return open_encoder("torch", model.folder, model.pipeline, "fp32")


def confirm(model: Model, suite: Suite, vectors: Any, token_ids: list[list[int]]) -> dict[str, Any]:
    """Plain Transformers with the declared pooling must agree before anything is written.

    Returns:
        Its vectors under the declared pooling, first, and of a dense model under others; see
        :func:`qguard.goldens.pooling.by_pooling`.

    Raises:
        GoldenProblem: when vectors differ by more than :data:`AGREEMENT`, or they are not finite.
    """
    from qguard.goldens.pooling import by_pooling

    if not finite(vectors).all():
        raise GoldenProblem("sentence-transformers returned NaN or infinite values in fp32; nothing was written")
    encoder = independent(model)
    rows = encoder.tokenizer.told(token_ids, suite.roles)
    pooled = by_pooling(encoder, rows) if model.kind == DENSE else {"as declared": encoder.encode_ids(rows)}
    error = similarity_of(model.pipeline).fitted(vectors).change(vectors, next(iter(pooled.values())))
    if not error.max() <= AGREEMENT:
        raise GoldenProblem(
            f"the independent path ({paths(model)['confirmed']}) disagrees with sentence-transformers: largest "
            f"difference {error.max():.2g} on {suite.texts[int(error.argmax())][:60]!r}, allowed {AGREEMENT}; nothing was written"
        )
    return pooled
