"""The pipeline a sentence-transformers folder declares: tokenizer limits, modules in their order, prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qguard.errors import ModelProblem
from qguard.files import inside, read_json, sha256_json
from qguard.models.modules import POOLING_MODES, SENTENCE, TOKENS, Dense, Module, Normalize, Pooling, read_module
from qguard.models.table import THEIRS, is_table, read_table

__all__ = ["POOLING_MODES", "ROLES", "Pipeline", "read_pipeline"]

STATIC = "StaticEmbedding"
UNLIMITED = 2**31 - 1  # tokens that a model reads which has no positions

# Names of prompts by role, as sentence-transformers' encode_query and encode_document look for them.
ROLES = {"query": ("query",), "document": ("document", "passage", "corpus")}

# Names of sentence-transformers; qguard.vectors.similarity computes them
SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")


@dataclass(frozen=True)
class Pipeline:
    """What happens around the transformer, as declared by the model's own files.

    Attributes:
        head: The modules behind the first one, in order.
        max_seq_length: Longest input in tokens, special tokens included; :data:`UNLIMITED` for a static model.
        do_lower_case: Whether the text is lower-cased before the tokenizer sees it.
        prompts: Named prefixes. Those named in :data:`ROLES` are put before queries and documents, that of
            ``default_prompt`` (or ``None``) before every other text.
        transformer: Folder of the first module, inside the model's.
        first: Type of the first module, a name in :data:`FIRST`.
        similarity: What the vectors are ranked by, of :data:`SIMILARITIES`. Of vectors of unit length, the inner product and the
            Euclidean distance rank as the cosine does, and are taken for it.
    """

    head: tuple[Module, ...] = (Pooling(),)
    max_seq_length: int = 512
    do_lower_case: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    transformer: str = ""
    first: str = "Transformer"
    similarity: str = "cosine"

    @property
    def unit_length(self) -> bool:
        """Whether every vector has length 1."""
        return self.normalize

    def prefix(self, role: str | None = None) -> str:
        """The text put before an input: the prompt of its role, else the default prompt, else nothing.

        Args:
            role: ``"query"``, ``"document"`` or ``None``.
        """
        for name in ROLES.get(role or "", ()):
            if name in self.prompts:
                return self.prompts[name]
        return self.prompts.get(self.default_prompt, "") if self.default_prompt else ""

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
        return [m for m in self.modules if m.weighted]

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
        return replace(self, head=tuple(replace(m, modes=modes) if isinstance(m, Pooling) else m for m in self.head))

    @property
    def include_prompt(self) -> bool:
        """Whether prompt tokens take part in every pooling."""
        return all(m.include_prompt for m in self.modules if isinstance(m, Pooling))

    @property
    def normalize(self) -> bool:
        """Whether the embedding is scaled to unit length at the end."""
        return bool(self.closing) and isinstance(self.closing[-1], Normalize)

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
        told = [*poolings, *(Dense(m.path, m.activation, m.bias) for m in self.dense), *self.closing]
        if len(poolings) != 1 or told != list(self.head) or any(m != Normalize(m.path) for m in self.closing):
            plain["modules"] = [m.declared() for m in self.head]
        if self.similarity != "cosine":
            plain["similarity"] = self.similarity
        return plain if self.first == "Transformer" else {**plain, "first": self.first}

    def sha256(self) -> str:
        """Hash of :meth:`declared`."""
        return sha256_json(self.declared())


def read_pipeline(folder: Path) -> Pipeline:
    """Read ``modules.json`` and the files that it names.

    A folder without ``modules.json`` is a plain Transformers model, which is mean-pooled, as by sentence-transformers; or a
    static model in the layout of model2vec, whose ``config.json`` says whether vectors are normalized.

    Raises:
        ModelProblem: for a module or setting that no runtime here reproduces; it is named, never ignored.
    """
    (kind, path), *rest = [(_kind(m), str(m.get("path", ""))) for m in _modules(folder)]
    head = [read_module(kind, folder, path) for kind, path in rest if kind != "Dropout"]  # the identity at inference
    if not (folder / "modules.json").exists() and kind != STATIC:
        head = [Pooling()]
    _check_order(FIRST[kind].gives, head)
    settings = {**FIRST[kind].read(inside(folder, path)), **_prompts(folder)}
    pipeline = Pipeline(tuple(head), transformer=path, first=kind, **settings)
    similarity = _similarity(folder)
    if pipeline.unit_length and similarity in ("dot", "euclidean"):
        return pipeline
    return replace(pipeline, similarity=similarity)


def _kind(module: Mapping[str, Any]) -> str:
    return str(module.get("type", "")).rsplit(".", 1)[-1]


def _check_order(given: str, head: list[Module]) -> None:
    """Every module finds what it reads, and there is a sentence embedding at the end."""
    there = {given}
    for module in head:
        if module.reads not in there:
            raise ModelProblem(
                f"module {type(module).__name__!r} in {module.path} reads {module.reads}, which no module before it gives"
            )
        there.add(module.writes)
    if SENTENCE not in there:
        raise ModelProblem("no module of modules.json gives a sentence embedding; expected a Pooling module")


def _similarity(folder: Path) -> str:
    found = read_optional(folder / "config_sentence_transformers.json").get("similarity_fn_name") or "cosine"
    if not isinstance(found, str) or found not in SIMILARITIES:
        raise ModelProblem(
            f"similarity_fn_name of config_sentence_transformers.json: expected one of {', '.join(SIMILARITIES)}, found {found!r}"
        )
    return found


def _prompts(folder: Path) -> dict[str, Any]:
    config = read_optional(folder / "config_sentence_transformers.json")
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


def transformer_path(folder: Path) -> str:
    """Where the transformer's files are, relative to ``folder``: ``""`` unless ``modules.json`` says otherwise."""
    return str(_modules(folder)[0].get("path", "")) if (folder / "modules.json").exists() else ""


def named_modules(folder: Path) -> set[str]:
    """The paths of the modules that ``modules.json`` names; none without that file."""
    return {str(m.get("path", "")) for m in _modules(folder)} if (folder / "modules.json").exists() else set()


def _modules(folder: Path) -> list[dict[str, Any]]:
    path = folder / "modules.json"
    if not path.exists():
        if is_table(folder, THEIRS):
            normalize = read_optional(folder / "config.json").get("normalize")
            return [{"type": STATIC, "path": ""}, *([{"type": "Normalize", "path": "1_Normalize"}] if normalize else [])]
        if not (folder / "config.json").exists():
            raise ModelProblem(f"{folder} is not a model folder: neither modules.json nor config.json is there")
        return [{"type": "Transformer", "path": ""}]
    import json

    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise ModelProblem(f"{path} cannot be read as JSON ({e})") from e
    if not isinstance(modules, list) or not all(isinstance(m, dict) for m in modules):
        raise ModelProblem(f"{path}: expected a list of modules")
    if not modules or _kind(modules[0]) not in FIRST:
        found = modules[0].get("type") if modules else "nothing"
        raise ModelProblem(
            f"{path}: the first module is {found!r}; only models that start with one of these are supported: {', '.join(FIRST)}"
        )
    return modules


def _lengths(root: Path) -> dict[str, Any]:
    if any(root.glob("*.safetensors")):
        read_json(root / "config.json", ModelProblem)  # without its architecture, torch cannot run these weights
    length, settings = declared_length(root), read_optional(root / "sentence_bert_config.json")
    if length is None:
        raise ModelProblem(f"{root} declares no maximum length; add max_seq_length to sentence_bert_config.json")
    return {"max_seq_length": length, "do_lower_case": bool(settings.get("do_lower_case", False))}


def _table(root: Path) -> dict[str, Any]:
    if any(root.glob("*.safetensors")) or any(root.glob("*.bin")):
        read_table(root)
    return {"max_seq_length": UNLIMITED}


@dataclass(frozen=True)
class First:
    """A kind of first module: what turns token ids into what the head reads.

    Attributes:
        gives: Name of the array that it gives, of :data:`qguard.models.modules.TOKENS` and ``SENTENCE``.
        read: Its folder → ``max_seq_length`` and ``do_lower_case`` of :class:`Pipeline`.
    """

    gives: str
    read: Callable[[Path], dict[str, Any]]


FIRST: dict[str, First] = {"Transformer": First(TOKENS, _lengths), STATIC: First(SENTENCE, _table)}


def declared_length(root: Path) -> int | None:
    """The longest input in tokens that a transformer folder declares, or ``None``."""
    limits = [read_optional(root / "sentence_bert_config.json").get("max_seq_length")]
    if limits[0] is None:
        limits = [
            read_optional(root / "tokenizer_config.json").get("model_max_length"),
            read_optional(root / "config.json").get("max_position_embeddings"),
        ]
    return min((int(n) for n in limits if isinstance(n, int | float) and 1 <= n < 10**6), default=None)


def read_optional(file: Path) -> dict[str, Any]:
    """The object of a JSON file, empty where there is no such file.

    Raises:
        ModelProblem: for a file that holds anything else.
    """
    return read_json(file, ModelProblem) if file.exists() else {}
