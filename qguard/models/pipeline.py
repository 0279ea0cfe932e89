"""The pipeline a sentence-transformers folder declares: tokenizer limits, modules in their order, prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from qguard.errors import ModelProblem
from qguard.files import inside, read_json, sha256_json
from qguard.kinds import CROSS_ENCODER, DENSE, MULTI_VECTOR, SPARSE
from qguard.models.kind import ROUTERS, read_kind
from qguard.models.modules import (
    POOLING_MODES,
    SENTENCE,
    TOKENS,
    Dense,
    Module,
    Normalize,
    Pooling,
    Router,
    read_modules,
    refusal,
)
from qguard.models.modules.router import Routes
from qguard.models.table import THEIRS, is_table, read_table
from qguard.registry import function_of

__all__ = ["POOLING_MODES", "ROLES", "Pipeline", "read_pipeline"]

STATIC = "StaticEmbedding"
ST_CONFIG = "config_sentence_transformers.json"
UNLIMITED = 2**31 - 1  # tokens that a model reads which has no positions

# Names of prompts by role, as sentence-transformers' encode_query and encode_document look for them.
ROLES = {"query": ("query",), "document": ("document", "passage", "corpus")}

# Names of sentence-transformers; qguard.vectors.similarity computes them
SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")


@dataclass(frozen=True)
class Late:
    """How long the texts of a multi-vector model are, which are scored by their tokens, and what queries are filled up with.

    Attributes:
        query_length: Longest query in tokens, ``None`` for the model's own length.
        document_length: The same of a document.
        strategy: Of the filling: ``fixed`` cuts and fills every query to ``length``, ``min`` fills shorter ones alone; empty for
            none.
        length: Tokens of a query that is filled up.
        token: What it is filled with; empty for the tokenizer's mask token.
        attend: Whether the network attends to these tokens. They are scored in any case.
    """

    query_length: int | None = None
    document_length: int | None = None
    strategy: str = ""
    length: int = 0
    token: str = ""
    attend: bool = False

    def limit(self, role: str | None, longest: int) -> int:
        """Tokens beyond which a text is cut.

        Args:
            role: ``"query"``, ``"document"`` or ``None``.
            longest: Of a text without a length of its own.
        """
        if role == "query" and self.strategy == "fixed":
            return self.length
        own = {"query": self.query_length, "document": self.document_length}.get(role or "")
        return longest if own is None else max(own, self.filled(role))

    def filled(self, role: str | None) -> int:
        """Tokens that a text has at least; 0 for one that is not filled up."""
        return self.length if role == "query" and self.strategy else 0


@dataclass(frozen=True)
class Scoring:
    """How a cross-encoder scores.

    Attributes:
        activation: What sentence-transformers applies to logits, a class of ``torch.nn``; see
            :data:`qguard.models.modules.activations.COMPUTED`.
        labels: Names of the labels, in the order of the network's outputs.
        typed: Whether the network reads to which text of a pair each token belongs (``token_type_ids``).
    """

    activation: str
    labels: tuple[str, ...]
    typed: bool = False

    def declared(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"activation": self.activation, "labels": list(self.labels), "token_types": self.typed}


@dataclass(frozen=True)
class Pipeline:
    """What happens around the transformer, as declared by the model's own files.

    Attributes:
        head: The modules behind the first one, in order.
        max_seq_length: Longest input in tokens, special tokens included; :data:`UNLIMITED` for a static model.
        do_lower_case: Whether the text is lower-cased before the tokenizer sees it.
        truncation_side: Where a text that is too long is cut: ``right``, or ``left`` where its start is dropped.
        prompts: Named prefixes. Those named in :data:`ROLES` are put before queries and documents, that of
            ``default_prompt`` (or ``None``) before every other text.
        transformer: Folder of the first module, inside the model's.
        first: Type of the first module, a name in :data:`FIRST`.
        similarity: What the vectors are ranked by, of :data:`SIMILARITIES`. Of vectors of unit length, the inner product and the
            Euclidean distance rank as the cosine does, and are taken for it.
        truncate_dim: The values of a vector that are kept, behind all modules; a vector that was normalized is then shorter than
            1. ``None`` for all.
        kind: What it gives for a text, of :data:`qguard.kinds.KINDS`.
        late: Of a multi-vector model, what its queries and documents have of their own.
        scoring: Of a cross-encoder, how it scores; else ``None``.
    """

    head: tuple[Module, ...] = (Pooling(),)
    max_seq_length: int = 512
    do_lower_case: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    transformer: str = ""
    first: str = "Transformer"
    similarity: str = "cosine"
    truncate_dim: int | None = None
    truncation_side: str = "right"
    kind: str = DENSE
    late: Late | None = None
    scoring: Scoring | None = None

    @property
    def longest(self) -> int:
        """The longest text of any role, in tokens."""
        own = [self.late.limit(role, self.max_seq_length) for role in ROLES] if self.late else []
        return max([self.max_seq_length, *own])

    @property
    def unit_length(self) -> bool:
        """Whether every vector has length 1."""
        return self.normalize and self.truncate_dim is None

    def prefix(self, role: str | None = None) -> str:
        """The text put before an input: the prompt of its role, else the default prompt, else nothing.

        Args:
            role: ``"query"``, ``"document"`` or ``None``.
        """
        return self.prompts.get(self.prompt_name(role), "")

    def prompt_name(self, role: str | None = None) -> str:
        """The name of the prompt of :meth:`prefix`; empty for none."""
        named = next((name for name in ROLES.get(role or "", ()) if name in self.prompts), self.default_prompt or "")
        return named if named in self.prompts else ""

    @property
    def modules(self) -> Iterator[Module]:
        """Every module of the head, those inside another one by themselves."""
        return (part for module in self.head for part in module.parts)

    @property
    def static(self) -> bool:
        """Whether it is one embedding table, without a transformer; see :mod:`qguard.models.table`."""
        return self.first == STATIC

    @property
    def finishing(self) -> tuple[Module, ...]:
        """The modules that are applied to what a runtime gives as sentence embeddings."""
        return self.head if FIRST[self.first].gives == SENTENCE else self.closing

    @property
    def weighted(self) -> list[Module]:
        """The modules of the head that have weights."""
        return [m for m in self.modules if m.tensors]

    @property
    def closing(self) -> tuple[Module, ...]:
        """The last modules, as far as they can be applied to a finished sentence embedding too."""
        n = len(self.head)
        while n and self.head[n - 1].closes and self.head[n - 1].reads == SENTENCE:
            n -= 1
        return self.head[n:]

    @property
    def pooling(self) -> tuple[str, ...]:
        """The modes of the pooling, concatenated in this order; none where nothing is pooled, or not every text alike."""
        modes = {m.modes for m in self.modules if isinstance(m, Pooling)}
        return modes.pop() if len(modes) == 1 else ()

    def pooled_by(self, modes: tuple[str, ...]) -> Pipeline:
        """The same with another pooling."""

        def changed(modules: tuple[Module, ...]) -> tuple[Module, ...]:
            return tuple(change(m) for m in modules)

        def change(module: Module) -> Module:
            if isinstance(module, Router):
                return replace(module, routes=tuple((route, changed(modules)) for route, modules in module.routes))
            return replace(module, modes=modes) if isinstance(module, Pooling) else module

        return replace(self, head=changed(self.head))

    @property
    def include_prompt(self) -> bool:
        """Whether prompt tokens take part in every pooling."""
        return all(m.include_prompt for m in self.modules if isinstance(m, Pooling))

    @property
    def by_role(self) -> bool:
        """Whether the head must know a text's role: for its route, or for the prompt that it leaves out."""
        prompts = not self.include_prompt and any(self.prefix(role) for role in (None, *ROLES))
        return prompts or self.routed or self.late is not None

    @property
    def routed(self) -> bool:
        """Whether queries and documents take different modules."""
        return any(isinstance(m, Router) for m in self.head)

    @property
    def normalize(self) -> bool:
        """Whether the embedding is scaled to unit length at the end."""
        return bool(self.closing) and isinstance(self.closing[-1], Normalize)

    @property
    def normalizes_tokens(self) -> bool:
        """Whether the vectors of a multi-vector model's tokens are scaled to unit length."""
        return self.late is not None and any(isinstance(m, Normalize) for m in self.head)

    @property
    def dense(self) -> tuple[Dense, ...]:
        """The linear layers."""
        return tuple(m for m in self.modules if isinstance(m, Dense))

    def declared(self) -> dict[str, Any]:
        """Every setting that changes an embedding, or what it is ranked by, as JSON has it.

        Goldens hold its hash. So what a pipeline of pooling, dense layers and normalization gives stays as it is; what is not
        told by that form comes beside it.
        """
        poolings = [m for m in self.head if isinstance(m, Pooling)]
        plain = {
            "pooling": list(self.pooling),
            "normalize": self.normalize,
            "dense": [{"path": m.path, "activation": m.activation, "bias": m.bias} for m in self.dense],
            "max_seq_length": self.max_seq_length,
            "do_lower_case": self.do_lower_case,
            "prompts": dict(self.prompts),
            "default_prompt": self.default_prompt,
            "include_prompt": self.include_prompt,
            "transformer": self.transformer,
        }
        told = [*poolings, *(Dense(m.path, activation=m.activation, bias=m.bias) for m in self.dense), *self.closing]
        if len(poolings) != 1 or told != list(self.head) or any(m != Normalize(m.path) for m in self.closing):
            plain["modules"] = [m.declared() for m in self.head]
        if self.similarity != "cosine":
            plain["similarity"] = self.similarity
        if self.truncate_dim is not None:
            plain["truncate_dim"] = self.truncate_dim
        if self.truncation_side != "right":
            plain["truncation_side"] = self.truncation_side
        if self.kind != DENSE:
            plain["kind"] = self.kind
        if self.late is not None:
            plain["late"] = asdict(self.late)
        if self.scoring is not None:
            plain["scoring"] = self.scoring.declared()
        return plain if self.first == "Transformer" else {**plain, "first": self.first}

    def sha256(self) -> str:
        """Hash of :meth:`declared`."""
        return sha256_json(self.declared())


# what reads the folders of the other kinds
_READERS = {
    CROSS_ENCODER: "qguard.models.cross_encoder:read",
    SPARSE: "qguard.models.sparse:read",
    MULTI_VECTOR: "qguard.models.multi_vector:read",
}


def read_pipeline(folder: Path, stated: str | None = None) -> Pipeline:
    """Read ``modules.json`` and the files that it names.

    A folder without ``modules.json`` is a plain Transformers model, which is mean-pooled, as by sentence-transformers; or a
    static model in the layout of model2vec, whose ``config.json`` says whether vectors are normalized.

    Args:
        folder: The model's.
        stated: The kind that the project states; see :func:`qguard.models.kind.read_kind`.

    Raises:
        ModelProblem: for a module or setting that no runtime here reproduces; it is named, never ignored.
    """
    of = read_kind(folder, stated)
    if of in _READERS:
        found: Pipeline = function_of(_READERS[of])(folder)
        return replace(found, kind=of)
    kind, path, head = split(folder)
    if kind not in FIRST:
        raise ModelProblem(refusal(kind, path))
    there = frozenset([FIRST[kind].gives])
    for module in head:
        there = module.after(there)
    if SENTENCE not in there:
        raise ModelProblem("no module of modules.json gives a sentence embedding; expected a Pooling module")
    settings = {**FIRST[kind].read(inside(folder, path)), **declared_prompts(folder), "truncate_dim": _truncation(folder)}
    pipeline = Pipeline(head, transformer=path, first=kind, **settings)
    similarity = _similarity(folder)
    if pipeline.unit_length and similarity in ("dot", "euclidean"):
        return pipeline
    return replace(pipeline, similarity=similarity)


def split(folder: Path) -> tuple[str, str, tuple[Module, ...]]:
    """The first module's kind and folder, and the modules behind it."""
    (kind, path), *rest = declared_modules(folder)
    if not (folder / "modules.json").exists() and kind != STATIC:
        return kind, path, (Pooling(),)
    if kind not in ROUTERS:
        return kind, path, read_modules(folder, rest)
    declared = Routes.read(folder, path)
    kind, first = _shared(folder, declared)
    router = Router.of(folder, path, declared, 1)
    head = router.routes[0][1] if len(router.routes) == 1 else (router,)
    return kind, first, (*head, *read_modules(folder, rest))


def _shared(folder: Path, declared: Routes) -> tuple[str, str]:
    """The one first module of all routes.

    Raises:
        ModelProblem: where there are several.
    """
    firsts = {modules[0]: route for route, modules in declared.modules.items()}
    if len(firsts) > 1:
        found = " and ".join(f"{path} for {route!r}" for (_, path), route in firsts.items())
        one = next(iter(firsts.values()))
        raise ModelProblem(
            f"the Router sends texts to different first modules ({found}), and qguard judges models with one. Make each route a "
            "model of its own: python -c \"from sentence_transformers import SentenceTransformer as S; m = S('FOLDER'); "
            f"S(modules=[*m[0].sub_modules['{one}'], *list(m)[1:]], prompts=m.prompts).save('COPY')\""
        )
    return next(iter(firsts))


def _similarity(folder: Path) -> str:
    found = read_optional(folder / ST_CONFIG).get("similarity_fn_name") or "cosine"
    if not isinstance(found, str) or found not in SIMILARITIES:
        raise ModelProblem(
            f"similarity_fn_name of config_sentence_transformers.json: expected one of {', '.join(SIMILARITIES)}, found {found!r}"
        )
    return found


def _truncation(folder: Path) -> int | None:
    found = read_optional(folder / ST_CONFIG).get("truncate_dim")
    if found is not None and (not isinstance(found, int) or isinstance(found, bool) or found < 1):
        raise ModelProblem(f"truncate_dim of config_sentence_transformers.json: expected a number from 1 on, found {found!r}")
    return found


def declared_prompts(folder: Path) -> dict[str, Any]:
    """``prompts`` and ``default_prompt`` of a :class:`Pipeline` as a folder declares them.

    Raises:
        ModelProblem: for anything but names and texts, or a default that is none of them.
    """
    config = read_optional(folder / ST_CONFIG)
    prompts, default = config.get("prompts") or {}, config.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(p, str) for p in prompts.values()):
        raise ModelProblem(f"prompts of config_sentence_transformers.json: expected names and texts, found {prompts!r}")
    try:
        "".join([*prompts, *prompts.values()]).encode()
    except UnicodeEncodeError as e:
        raise ModelProblem("a prompt holds a lone surrogate, which no tokenizer accepts") from e
    if not isinstance(default, str | None):
        raise ModelProblem(f"default_prompt_name of config_sentence_transformers.json: expected a name, found {default!r}")
    if default and default not in prompts:
        raise ModelProblem(f"default_prompt_name {default!r} is not one of the declared prompts {sorted(prompts)}")
    return {"prompts": dict(sorted(prompts.items())), "default_prompt": default}


def prompts_of_roles(folder: Path) -> dict[str, Any]:
    """As :func:`declared_prompts`, of a sparse or multi-vector model: sentence-transformers gives it an empty prompt for a role
    where none is declared, so that the default prompt never takes its place.
    """
    found = declared_prompts(folder)
    return {**found, "prompts": dict(sorted((dict.fromkeys(ROLES, "") | found["prompts"]).items()))}


def transformer_path(folder: Path) -> str:
    """Where the transformer's files are, relative to ``folder``: ``""`` unless ``modules.json`` says otherwise."""
    if not (folder / "modules.json").exists():
        return ""
    kind, path = declared_modules(folder)[0]
    return _shared(folder, Routes.read(folder, path))[1] if kind in ROUTERS else path


def named_modules(folder: Path) -> set[str]:
    """The paths of the modules that ``modules.json`` names; none without that file."""
    return {path for _, path in declared_modules(folder)} if (folder / "modules.json").exists() else set()


def declared_modules(folder: Path) -> list[tuple[str, str]]:
    """Of each module the last part of its type, and its folder."""
    path = folder / "modules.json"
    if not path.exists():
        if is_table(folder, THEIRS):
            normalize = read_optional(folder / "config.json").get("normalize")
            return [(STATIC, ""), *([("Normalize", "1_Normalize")] if normalize else [])]
        if not (folder / "config.json").exists():
            raise ModelProblem(f"{folder} is not a model folder: neither modules.json nor config.json is there")
        return [("Transformer", "")]
    import json

    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise ModelProblem(f"{path} cannot be read as JSON ({e})") from e
    if not isinstance(modules, list) or not all(isinstance(m, dict) for m in modules):
        raise ModelProblem(f"{path}: expected a list of modules")
    found = [(str(m.get("type", "")).rpartition(".")[2], str(m.get("path") or "")) for m in modules]
    if not found:
        raise ModelProblem(f"{path} names no module; expected a Transformer first")
    return found


def lengths(root: Path, gives: Mapping[str, Any] | None = None, of_text: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """``max_seq_length``, ``do_lower_case`` and ``truncation_side`` of a :class:`Pipeline`, as a transformer's folder says.

    Args:
        root: The transformer's folder.
        gives: Settings that say what it gives, where that is something else than the last hidden states.
        of_text: ``modality_config`` of texts, likewise.

    Raises:
        ModelProblem: where no length is declared, or a setting says something else.
    """
    if any(root.glob("*.safetensors")):
        read_json(root / "config.json", ModelProblem)  # without its architecture, torch cannot run these weights
    length, settings = declared_length(root), transformer_settings(root)
    if length is None:
        raise ModelProblem(f"{root} declares no maximum length; add max_seq_length to sentence_bert_config.json")
    _check_settings(root, settings, {**_PLAIN, **(gives or {})}, of_text or _OF_TEXT)
    return {
        "max_seq_length": length,
        "do_lower_case": bool(settings.get("do_lower_case", False)),
        "truncation_side": _truncation_side(root),
    }


def _truncation_side(root: Path) -> str:
    """What Transformers makes of a folder: ``tokenizer_config.json`` first, then ``tokenizer.json``."""
    found = read_optional(root / "tokenizer_config.json").get("truncation_side")
    if found is None:
        written = read_optional(root / "tokenizer.json").get("truncation")
        found = str(written.get("direction", "right")).lower() if isinstance(written, dict) else "right"
    if found not in ("left", "right"):
        raise ModelProblem(f"truncation_side of the tokenizer in {root.name}: expected left or right, found {found!r}")
    return str(found)


def _table(root: Path) -> dict[str, Any]:
    if any(root.glob("*.safetensors")) or any(root.glob("*.bin")):
        read_table(root)
    return {"max_seq_length": UNLIMITED}


# how releases 1 and 2 named the settings of a Transformer, after its class
_SETTINGS = tuple(
    f"sentence_{kind}_config.json" for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# what a Transformer of release 6 declares of texts, where it says anything: the last hidden states of the plain network
_PLAIN = {
    "transformer_task": "feature-extraction",
    "module_output_name": TOKENS,
    "query_length": None,
    "document_length": None,
    "query_expansion": None,
}
_OF_TEXT = {"method": "forward", "method_output_name": "last_hidden_state"}
_PADDING = {"padding", "padding_side", "pad_to_multiple_of"}  # masked, so without effect


def transformer_settings(root: Path) -> dict[str, Any]:
    """What sentence-transformers itself keeps beside a transformer; empty where there is nothing."""
    return next((read_optional(root / name) for name in _SETTINGS if (root / name).exists()), {})


def _check_settings(root: Path, settings: Mapping[str, Any], gives: Mapping[str, Any], of_text: Mapping[str, Any]) -> None:
    """A Transformer gives what it should of texts, such as their last hidden states, whatever their role.

    Raises:
        ModelProblem: naming the setting that says otherwise.
    """
    said = {key: settings[key] for key, plain in gives.items() if settings.get(key) not in (None, plain)}
    modalities = settings.get("modality_config")
    if modalities is not None and (not isinstance(modalities, dict) or modalities.get("text") != of_text):
        said["modality_config"] = modalities
    processing = settings.get("processing_kwargs") or {}
    kinds = [processing.get(kind) or {} for kind in ("common", "text")] if isinstance(processing, dict) else [processing]
    if any(not isinstance(kind, dict) or set(kind) - _PADDING for kind in kinds):
        said["processing_kwargs"] = processing
    if said:
        found = ", ".join(f"{key} = {value!r}" for key, value in said.items())
        what, head = ("logits", "SpladePooling") if of_text != _OF_TEXT else ("last hidden states", "Pooling")
        scores = gives["module_output_name"] == "scores"
        wanted = "whose Transformer is a plain classifier" if scores else f"with a plain Transformer and a {head}"
        raise ModelProblem(
            f"the Transformer in {root.name} is declared to give something else than the {what} of its texts "
            f"({found[:300]}), which is not reproduced; give a model {wanted}"
        )


@dataclass(frozen=True)
class First:
    """A kind of first module: what turns token ids into what the head reads.

    Attributes:
        gives: Name of the array that it gives, of :data:`qguard.models.modules.TOKENS` and ``SENTENCE``.
        read: Its folder → ``max_seq_length`` and ``do_lower_case`` of :class:`Pipeline`.
    """

    gives: str
    read: Callable[[Path], dict[str, Any]]


FIRST: dict[str, First] = {"Transformer": First(TOKENS, lengths), STATIC: First(SENTENCE, _table)}


# these count positions from the padding token's id on, so that the first rows of their table are not used
SHIFTED = (
    "roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "data2vec-text", "roberta-prelayernorm", "xmod", "ibert",
    "longformer", "luke",
)  # fmt: skip


def first_position(config: Mapping[str, Any]) -> int:
    """The position of a text's first token, by ``config.json``: 0, or for RoBERTa and its kin the padding token's id + 1."""
    if str(config.get("model_type", "")) not in SHIFTED:
        return 0
    padding = config.get("pad_token_id")
    # 1 is the id of the padding token where these types state none
    return (padding if isinstance(padding, int) else 1) + 1


def declared_length(root: Path) -> int | None:
    """The longest input in tokens that a transformer folder declares, or ``None``.

    Without a length of its own, it is what both the tokenizer and the positions allow.
    """
    stated = _numbers(transformer_settings(root).get("max_seq_length"))
    return min(stated or _allowed(root, first_position(read_optional(root / "config.json"))), default=None)


def overstated(root: Path) -> bool:
    """Whether sentence-transformers takes longer texts than the model has positions for: with no length stated, it counts the
    rows of the table that no text uses.
    """
    return declared_length(root) != min(
        _numbers(transformer_settings(root).get("max_seq_length")) or _allowed(root), default=None
    )


def _allowed(root: Path, unused: int = 0) -> list[int]:
    rows = _numbers(read_optional(root / "config.json").get("max_position_embeddings"))
    return _numbers(read_optional(root / "tokenizer_config.json").get("model_max_length"), *(n - unused for n in rows))


def _numbers(*found: Any) -> list[int]:
    return [int(n) for n in found if isinstance(n, int | float) and 1 <= n < 10**6]


def tokenizer_file(root: Path) -> Path:
    """``tokenizer.json`` of a transformer folder.

    Raises:
        ModelProblem: when it is missing.
    """
    path = root / "tokenizer.json"
    if not path.exists():
        raise ModelProblem(
            f"{root} has no tokenizer.json; make one with AutoTokenizer.from_pretrained(folder).save_pretrained(folder) and "
            "run again"
        )
    return path


def read_optional(file: Path) -> dict[str, Any]:
    """The object of a JSON file, empty where there is no such file.

    Raises:
        ModelProblem: for a file that holds anything else.
    """
    return read_json(file, ModelProblem) if file.exists() else {}
