"""What each library that reads a folder's tokenizer files makes of them, and where two folders differ.

``tokenizers``, and the servers in Rust, take ``tokenizer.json`` as it is, its truncation and padding included. Transformers, and
sentence-transformers through it, let ``tokenizer_config.json`` decide casing, accents, sides and lengths. Transformers.js takes
its length and sides from there as well. Nothing here imports Transformers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from qguard.encoders.probes import PROBES
from qguard.encoders.tokenizer import parsed
from qguard.errors import ModelProblem
from qguard.models.pipeline import read_optional, tokenizer_file

FILE, CONFIG = "tokenizer.json", "tokenizer_config.json"
AS_IS, PYTHON, SCRIPT = "tokenizers", "Transformers and sentence-transformers", "Transformers.js"
STORED = f"{AS_IS} and {SCRIPT}"
# classes of Transformers without settings of their own: tokenizer.json decides
_GENERIC = ("", "PreTrainedTokenizer", "TokenizersBackend")
# classes of Transformers that are BERT's tokenizer under the name of another network
_BERT = (
    "BertTokenizer",
    "DistilBertTokenizer",
    "ElectraTokenizer",
    "MobileBertTokenizer",
    "ConvBertTokenizer",
    "LayoutLMTokenizer",
)
# of BertNormalizer: the key of tokenizer_config.json that decides each of its settings, and Transformers' default
_NORMALIZER = {
    "lowercase": ("do_lower_case", True),
    "strip_accents": ("strip_accents", None),
    "handle_chinese_chars": ("tokenize_chinese_chars", True),
}
# other keys that decide token ids; each class has its own default, so only what both files state is compared
_DECIDING = (
    "add_prefix_space", "add_bos_token", "add_eos_token", "legacy", "remove_space", "keep_accents", "split_special_tokens",
    "do_lowercase_and_remove_accent", "unk_token", "cls_token", "sep_token", "bos_token", "eos_token",
)  # fmt: skip
_OF_SCRIPT = ("add_bos_token", "add_eos_token", "legacy", "remove_space", "do_lowercase_and_remove_accent")
_PARTS = ("normalizer", "pre_tokenizer", "post_processor", "added_tokens", "model")
_SHOWN = 3


@dataclass(frozen=True)
class Difference:
    """One setting that makes a consumer tokenize otherwise.

    Attributes:
        file: Where it stands.
        setting: Its name there.
        found: Its value, in words.
        wanted: The model's, in words.
        readers: The libraries that obey it.
        effect: What becomes of texts there, in words.
    """

    file: str
    setting: str
    found: str
    wanted: str
    readers: str
    effect: str

    def __str__(self) -> str:
        return f"{self.setting} in {self.file} is {self.found}, the model's {self.wanted}; in {self.readers}, {self.effect}"


@dataclass(frozen=True)
class TokenizerFiles:
    """The tokenizer files of one transformer folder.

    Attributes:
        content: Of ``tokenizer.json``.
        config: What ``tokenizer_config.json`` states, and ``special_tokens_map.json`` where that does not; ``None`` without
            the first.
        where: The file, for messages.
    """

    content: bytes
    config: Mapping[str, Any] | None
    where: str = FILE

    @classmethod
    def read(cls, root: Path) -> TokenizerFiles:
        """The files of a folder.

        Raises:
            ModelProblem: when ``tokenizer.json`` is missing, or another file is no JSON object.
        """
        path = tokenizer_file(root)
        config = {**read_optional(root / "special_tokens_map.json"), **read_optional(root / CONFIG)}
        return cls(path.read_bytes(), config if (root / CONFIG).exists() else None, str(path))

    @cached_property
    def stored(self) -> dict[str, Any]:
        """``tokenizer.json``.

        Raises:
            ModelProblem: when it is no JSON object.
        """
        try:
            found = json.loads(self.content)
        except (ValueError, RecursionError) as e:
            raise ModelProblem(f"{self.where} cannot be read as JSON ({e})") from e
        if not isinstance(found, dict):
            raise ModelProblem(f"{self.where}: expected an object, found {type(found).__name__}")
        return found

    @property
    def truncation(self) -> Mapping[str, Any]:
        """The truncation that ``tokenizer.json`` has in it; empty for none."""
        return self.stored.get("truncation") or {}

    @property
    def padding(self) -> Mapping[str, Any]:
        """The padding that ``tokenizer.json`` has in it; empty for none."""
        return self.stored.get("padding") or {}

    @property
    def fixed(self) -> int | None:
        """The length to which ``tokenizer.json`` pads every text."""
        strategy = self.padding.get("strategy")
        return strategy.get("Fixed") if isinstance(strategy, dict) else None

    def stated(self, key: str) -> Any:
        """A value of ``tokenizer_config.json``, the text of a token; ``None`` where it states none."""
        found = (self.config or {}).get(key)
        return found.get("content") if isinstance(found, dict) else found

    @property
    def added(self) -> set[str]:
        """The tokens of ``added_tokens_decoder``."""
        found = (self.config or {}).get("added_tokens_decoder")
        tokens = found.values() if isinstance(found, dict) else ()
        return {str(t.get("content")) if isinstance(t, dict) else str(t) for t in tokens}

    @property
    def kind(self) -> str:
        """The class that Transformers gives it, less ``Fast``; empty where nothing but ``tokenizer.json`` decides."""
        name = str(self.stated("tokenizer_class") or "").removesuffix("Fast")
        return "" if name in _GENERIC else "BertTokenizer" if name in _BERT else name

    def side(self, of: str) -> str:
        """``left`` or ``right`` as Transformers takes it.

        Args:
            of: ``truncation`` or ``padding``.
        """
        return str(self.stated(f"{of}_side") or self.baked(of) or "right").lower()

    def baked(self, of: str) -> str | None:
        """The side that ``tokenizer.json`` names; ``None`` where it neither truncates nor pads."""
        found = self.truncation if of == "truncation" else self.padding
        return str(found.get("direction") or "right").lower() if found else None

    @cached_property
    def as_is(self) -> Any:
        """The tokenizer of ``tokenizer.json``, without truncation and padding."""
        return _bare(self.content, self.where)

    @cached_property
    def as_loaded(self) -> Any:
        """The tokenizer that Transformers makes of both files, without truncation and padding."""
        parts = [n for n in _normalizers(self.stored) if n.get("type") == "BertNormalizer"]
        decided = self.normalizer if self.kind and parts else {}
        if all(part.get(name) == value for part in parts for name, value in decided.items()):
            return self.as_is
        value = json.loads(self.content)
        for part in _normalizers(value):
            if part.get("type") == "BertNormalizer":
                part.update(decided)
        return _bare(json.dumps(value).encode(), self.where)

    @property
    def normalizer(self) -> dict[str, Any]:
        """What Transformers makes of BertNormalizer's settings."""
        config = self.config or {}
        return {name: config.get(key, default) for name, (key, default) in _NORMALIZER.items()}


def differences(
    model: TokenizerFiles, artifact: TokenizerFiles, length: int, *, exact: bool = False, other: bytes | None = None
) -> Iterator[Difference]:
    """What makes a consumer of the artifact tokenize otherwise than one of the model.

    Args:
        model: Its files.
        artifact: The artifact's.
        length: Tokens that the model takes.
        exact: The truncation of ``tokenizer.json`` is the model's own, as of a static model.
        other: Another ``tokenizer.json`` that is right: what sentence-transformers makes of the model's files.

    Raises:
        ModelProblem: for damaged files.
    """
    if (model.content, model.config) == (artifact.content, artifact.config):
        return
    yield from _lengths(model, artifact, length, exact=exact)
    yield from _sides(model, artifact)
    if artifact.content not in (model.content, other):
        right = [model.as_is, *([] if other is None else [_bare(other, FILE)])]
        if not any(decides(artifact.as_is) == decides(tokenizer) for tokenizer in right):
            yield from _stored(model, artifact)
    if artifact.config is not None:
        yield from _configured(model, artifact)


def _lengths(model: TokenizerFiles, artifact: TokenizerFiles, length: int, *, exact: bool) -> Iterator[Difference]:
    own, found = model.truncation.get("max_length"), artifact.truncation.get("max_length")
    if (exact and own != found) or _short(found, own, length):
        yield Difference(FILE, "truncation.max_length", _said(found), _said(own), AS_IS, _cut(found, length))
    own, found = model.stated("model_max_length"), artifact.stated("model_max_length")
    if _short(found, own, length):
        yield Difference(CONFIG, "model_max_length", _said(found), _said(own), f"Transformers and {SCRIPT}", _cut(found, length))
    if artifact.fixed is not None and artifact.fixed != model.fixed:
        wanted, effect = _fixed(model), f"every text is padded to {artifact.fixed} tokens"
        yield Difference(FILE, "padding.strategy", f"Fixed to {artifact.fixed}", wanted, AS_IS, effect)


def _short(found: Any, own: Any, length: int) -> bool:
    """Whether a length cuts texts that the model, or its own file, does not."""
    least = min([length, *(n for n in (own,) if isinstance(n, int | float))])
    return isinstance(found, int | float) and found < least


def _cut(found: Any, length: int) -> str:
    taken = f", and the model takes {length}" if length < 10**6 else ""
    return f"texts are cut to {found} tokens{taken}" if found is not None else "texts are never cut"


def _fixed(files: TokenizerFiles) -> str:
    return f"Fixed to {files.fixed}" if files.fixed is not None else "not fixed"


def _sides(model: TokenizerFiles, artifact: TokenizerFiles) -> Iterator[Difference]:
    for of in ("truncation", "padding"):
        wanted, found = model.side(of), artifact.baked(of)
        if found not in (None, wanted, model.baked(of)):
            yield Difference(FILE, f"{of}.direction", str(found), wanted, AS_IS, _moved(of, str(found)))
        elif artifact.config is not None and artifact.side(of) != wanted:
            stated, side = artifact.stated(f"{of}_side"), artifact.side(of)
            yield Difference(CONFIG, f"{of}_side", _said(stated), wanted, PYTHON, _moved(of, side))


def _moved(of: str, side: str) -> str:
    if of == "padding":
        return f"texts are padded on the {side}, which moves their positions"
    return f"the {'start' if side == 'left' else 'end'} of long texts is dropped"


def _stored(model: TokenizerFiles, artifact: TokenizerFiles) -> Iterator[Difference]:
    """What ``tokenizer.json`` says otherwise: words of the vocabulary by name, any other part by a text that shows it."""
    mine, theirs = _vocabulary(model.stored), _vocabulary(artifact.stored)
    moved = sorted(t for t in mine.keys() | theirs.keys() if mine.get(t) != theirs.get(t))
    if moved:
        named = ", ".join(repr(t) for t in moved[:_SHOWN]) + (" …" if len(moved) > _SHOWN else "")
        found, wanted = (
            ", ".join(_said(theirs.get(t)) for t in moved[:_SHOWN]),
            ", ".join(_said(mine.get(t)) for t in moved[:_SHOWN]),
        )
        effect = f"{len(moved)} of {len(mine)} words of the vocabulary have other ids"
        yield Difference(FILE, f"model.vocab of {named}", found, wanted, STORED, effect)
        return
    if shown := _shown(model.as_is, artifact.as_is, _words_of(model, artifact)):
        other = [p for p in _PARTS if model.stored.get(p) != artifact.stored.get(p)]
        setting, found, wanted = _part(model.stored, artifact.stored, other)
        yield Difference(FILE, setting, found, wanted, STORED, shown)


def _part(mine: Mapping[str, Any], theirs: Mapping[str, Any], parts: Sequence[str]) -> tuple[str, str, str]:
    """The one setting that differs, with its values; else the parts that do."""
    for part in parts[:1]:
        a, b = mine.get(part), theirs.get(part)
        if isinstance(a, dict) and isinstance(b, dict) and a.get("type") == b.get("type"):
            keys = [k for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k)]
            if len(keys) == 1 and not isinstance(a.get(keys[0]), dict | list) and not isinstance(b.get(keys[0]), dict | list):
                return f"{part}.{keys[0]}", _said(b.get(keys[0])), _said(a.get(keys[0]))
    return ", ".join(parts) or "something", "another", "its own"


def _configured(model: TokenizerFiles, artifact: TokenizerFiles) -> Iterator[Difference]:
    """What ``tokenizer_config.json`` says otherwise."""
    if artifact.kind and model.kind and artifact.kind != model.kind:
        effect = "the tokenizer of another network is built"
        yield Difference(CONFIG, "tokenizer_class", artifact.kind, model.kind, PYTHON, effect)
    names = _DECIDING if artifact.kind or model.kind else _OF_SCRIPT
    for name in names:
        a, b = model.stated(name), artifact.stated(name)
        if a is not None and b is not None and a != b:
            readers = f"{PYTHON.replace(' and', ',')} and {SCRIPT}" if name in _OF_SCRIPT else PYTHON
            yield Difference(CONFIG, name, _said(b), _said(a), readers, "token ids may differ")
    if added := _added(artifact, model):
        named = ", ".join(map(repr, added[:_SHOWN])) + (" …" if len(added) > _SHOWN else "")
        yield Difference(CONFIG, "added_tokens_decoder", f"with {named}", "without", PYTHON, "these are tokens of their own")
    if model.as_loaded is model.as_is and artifact.as_loaded is artifact.as_is:
        return
    if shown := _shown(model.as_loaded, artifact.as_loaded, ()):
        changed = [name for name, value in artifact.normalizer.items() if model.normalizer[name] != value]
        keys = [_NORMALIZER[name][0] for name in changed] or ["tokenizer_class"]
        found, wanted = (", ".join(_said(f.stated(key)) for key in keys) for f in (artifact, model))
        yield Difference(CONFIG, ", ".join(keys), found, wanted, PYTHON, shown)


def _added(artifact: TokenizerFiles, model: TokenizerFiles) -> list[str]:
    """Tokens that Transformers adds to those of ``tokenizer.json``, and does not for the model."""
    stored = {str(t["content"]) for t in artifact.stored.get("added_tokens") or () if isinstance(t, dict)}
    return sorted(artifact.added - model.added - stored)


def _shown(model: Any, artifact: Any, words: Sequence[str]) -> str:
    """A text of :data:`PROBES`, or of further ones, that the two tokenize otherwise, in words; empty for none."""
    texts = [*PROBES, *words]
    a, b = ([e.ids for e in tokenizer.encode_batch(texts)] for tokenizer in (model, artifact))
    wrong = [i for i in range(len(texts)) if a[i] != b[i]]
    if not wrong:
        return ""
    i = wrong[0]
    return f"{texts[i]!r} becomes {_tokens(artifact, b[i])} instead of {_tokens(model, a[i])}"


def _tokens(tokenizer: Any, ids: Sequence[int]) -> str:
    shown = " ".join(str(tokenizer.id_to_token(i)) for i in ids[:8])
    return f"'{shown}{' …' if len(ids) > 8 else ''}'"


def _words_of(*files: TokenizerFiles) -> list[str]:
    """Texts with the added tokens of either side, which are found in a text before all else."""
    found = {str(t["content"]) for f in files for t in f.stored.get("added_tokens") or () if isinstance(t, dict)}
    return [text for word in sorted(found) for text in (word, f"a{word}b", f"a {word} b")]


def decides(tokenizer: Any) -> Any:
    """What decides token ids of one text, comparable: neither decoder, padding and pairs nor how a setting is spelled."""
    value = json.loads(tokenizer.to_str())
    with_frame, bare = (tokenizer.encode("a", add_special_tokens=on).ids for on in (True, False))
    added = {t["content"]: {k: v for k, v in t.items() if k not in ("content", "special")} for t in value["added_tokens"]}
    model = {k: v for k, v in value["model"].items() if v not in (None, "")}
    return with_frame, bare, added, model, value["normalizer"], value["pre_tokenizer"]


def _bare(content: bytes, where: str) -> Any:
    found = parsed(content, where)
    found.no_truncation()
    found.no_padding()
    return found


def _normalizers(value: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    top = value.get("normalizer") or {}
    yield from (n for n in [top, *top.get("normalizers", ())] if n)


def _vocabulary(value: Mapping[str, Any]) -> dict[str, Any]:
    found = (value.get("model") or {}).get("vocab") or {}
    if isinstance(found, dict):
        return found
    return {str(token): (i, score) for i, (token, score) in enumerate(found)}


def _said(value: Any) -> str:
    return "not set" if value is None else json.dumps(value, ensure_ascii=False) if isinstance(value, bool | str) else str(value)
