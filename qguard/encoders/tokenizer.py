"""Text to token ids, by the Rust tokenizer alone: no transformers import."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from qguard.encoders.feeding import RIGHT, declared_side
from qguard.errors import ModelProblem, first_line
from qguard.kinds import CROSS_ENCODER
from qguard.models.modules.masking import MultiVectorMask
from qguard.models.pipeline import Late, Pipeline, read_optional, tokenizer_file
from qguard.suites.paired import TextPair

MASKS = ("[MASK]", "<mask>")  # what fills queries up where the tokenizer's files name no token for it


class Tokens(list[int]):
    """Token ids of one text, and what its head may have to know.

    Attributes:
        role: ``"query"``, ``"document"`` or ``None``.
        prompt: Tokens at the start that belong to its prompt, where the pooling leaves these out; else 0.
        attended: Tokens at the start that the network attends to: all, but those that a query is filled up with.
        counted: Whether each token counts in scores by tokens; empty for a model that does not score so.
        types: Of a pair of texts, to which of both each token belongs (``token_type_ids``), where the model reads that.
    """

    __slots__ = ("attended", "counted", "prompt", "role", "types")

    def __init__(
        self,
        ids: Iterable[int],
        role: str | None = None,
        prompt: int = 0,
        attended: int | None = None,
        counted: Sequence[bool] = (),
        types: Sequence[int] | None = None,
    ) -> None:
        super().__init__(ids)
        self.role, self.prompt, self.counted, self.types = role, prompt, counted, types
        self.attended = len(self) if attended is None else attended

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (list(self), self.role, self.prompt, self.attended, self.counted, self.types)


def types_of(row: Sequence[int]) -> list[int] | None:
    """The token type ids of a row; ``None`` where the model reads none."""
    types = getattr(row, "types", None)
    return None if types is None else list(types)


def shortened(row: Sequence[int], length: int) -> Sequence[int]:
    """A row cut to so many tokens, of which the last stays the last."""
    if len(row) <= length:
        return row
    types = types_of(row)
    ids = [*row[: length - 1], row[-1]]
    return ids if types is None else Tokens(ids, types=[*types[: length - 1], types[-1]])


class TextTokenizer:
    """Token ids of texts as the pipeline declares: prompt, lower-casing, special tokens, truncation; never padding.

    Attributes:
        pad_id: The token id that fills short rows of a batch.
        side: The side that it does so on, ``right`` or ``left``.
        said: The file that declares the side; empty for the default.
    """

    def __init__(
        self, tokenizer: Any, pipeline: Pipeline, pad_id: int, side: str = RIGHT, said: str = "", masks: Sequence[str] = MASKS
    ) -> None:
        if pipeline.do_lower_case:
            _lower_case(tokenizer)
        if not pipeline.static:  # whose tokenizer sentence-transformers takes as it is, without special tokens
            tokenizer.enable_truncation(pipeline.max_seq_length, direction=pipeline.truncation_side)
        tokenizer.no_padding()
        self._tokenizer, self._pipeline, self._masks = tokenizer, pipeline, masks
        self.pad_id, self.side, self.said = pad_id, side, said
        self._prompts: dict[str, int] = {"": 0}  # tokens of each prompt

    @classmethod
    def open(cls, root: Path, pipeline: Pipeline) -> TextTokenizer:
        """Read ``root/tokenizer.json``, and how ``tokenizer_config.json`` beside it pads.

        Raises:
            ModelProblem: when it is missing or damaged.
        """
        return cls._of(cls.tokenizer(root), pipeline, root)

    @staticmethod
    def tokenizer(root: Path) -> Any:
        """``root/tokenizer.json`` as it is.

        Raises:
            ModelProblem: when it is missing or damaged.
        """
        path = tokenizer_file(root)
        return parsed(path.read_bytes(), str(path))

    @classmethod
    def read(cls, content: bytes, pipeline: Pipeline, where: str, root: Path) -> TextTokenizer:
        """The tokenizer that the content of a ``tokenizer.json`` describes.

        Args:
            content: Of the file.
            pipeline: Whose prompts, lengths and lower-casing it follows.
            where: The file, for messages.
            root: The folder whose ``tokenizer_config.json`` says how it pads.

        Raises:
            ModelProblem: when it is damaged.
        """
        return cls._of(parsed(content, where), pipeline, root)

    @classmethod
    def _of(cls, tokenizer: Any, pipeline: Pipeline, root: Path) -> TextTokenizer:
        """As Transformers reads it: what ``tokenizer_config.json`` says of padding wins over ``tokenizer.json``."""
        config, own = read_optional(root / "tokenizer_config.json"), tokenizer.padding or {}
        token = _name(config.get("pad_token"))
        named = tokenizer.token_to_id(token) if token else None
        found = (named, own.get("pad_id"), tokenizer.token_to_id("[PAD]"), tokenizer.token_to_id("<pad>"), 0)
        sides = (("tokenizer_config.json", declared_side(config)), ("tokenizer.json", own.get("direction")), ("", RIGHT))
        said, side = next((file, side) for file, side in sides if side)
        masks = [t for key in ("mask_token", "eos_token") if (t := _name(config.get(key)))]
        return cls(tokenizer, pipeline, next(i for i in found if i is not None), side, said, masks or MASKS)

    def following(self, pipeline: Pipeline) -> TextTokenizer:
        """A tokenizer of the same vocabulary that follows another pipeline's prompts and lengths."""
        from tokenizers import Tokenizer

        copy = Tokenizer.from_str(self._tokenizer.to_str())
        return TextTokenizer(copy, pipeline, self.pad_id, self.side, self.said, self._masks)

    @property
    def plain(self) -> Any:
        """The tokenizer of the tokenizers library, as it lies beneath."""
        return self._tokenizer

    @property
    def unknown_id(self) -> int | None:
        """The id that stands for what the vocabulary has not; ``None`` for a vocabulary that has everything, as of bytes."""
        found = (self._tokenizer.token_to_id(name) for name in ("[UNK]", "<unk>"))
        return next((i for i in found if i is not None), None)

    def __call__(self, texts: Sequence[str], roles: Sequence[str | None] | None = None) -> list[list[int]]:
        """Token ids of each text as :class:`Tokens`, special tokens included, at most ``max_seq_length`` of them.

        Args:
            texts: n texts; of a cross-encoder pairs (:class:`qguard.suites.paired.TextPair`), any other text in two halves.
            roles: For each text ``"query"``, ``"document"`` or ``None``; decides its prompt.
        """
        prefix, roles = self._pipeline.prefix, roles or [None] * len(texts)
        if self._pipeline.kind == CROSS_ENCODER:
            pairs = [TextPair.of(t).prefixed(prefix(role)) for t, role in zip(texts, roles, strict=True)]
            read = self._tokenizer.encode_batch([(pair.first, pair.second) for pair in pairs])
            typed = self._pipeline.scoring is not None and self._pipeline.scoring.typed
            return [Tokens(e.ids, role, types=e.type_ids if typed else None) for e, role in zip(read, roles, strict=True)]
        # outer whitespace stays: some tokenizers have tokens for it, and sentence-transformers keeps it
        prepared = [prefix(role) + t for t, role in zip(texts, roles, strict=True)]
        if self._pipeline.late is not None:
            return self.told(self._filled(prepared, roles, self._pipeline.late), roles)
        found = self._tokenizer.encode_batch(prepared, add_special_tokens=not self._pipeline.static)
        return self.told([e.ids for e in found], roles)

    def _filled(self, prepared: Sequence[str], roles: Sequence[str | None], late: Late) -> list[list[int]]:
        """Token ids, each text cut to its role's length, and queries filled up."""
        longest, found = self._pipeline.max_seq_length, [list[int]()] * len(prepared)
        for role in set(roles):
            rows = [i for i, other in enumerate(roles) if other == role]
            self._tokenizer.enable_truncation(late.limit(role, longest), direction=self._pipeline.truncation_side)
            for i, encoded in zip(rows, self._tokenizer.encode_batch([prepared[i] for i in rows]), strict=True):
                missing = late.filled(role) - len(encoded.ids)
                found[i] = [*encoded.ids, *([self.filling] * missing if missing > 0 else ())]
        self._tokenizer.enable_truncation(longest, direction=self._pipeline.truncation_side)
        return found

    @cached_property
    def filling(self) -> int:
        """The id of the token that queries are filled up with.

        Raises:
            ModelProblem: where the vocabulary has none.
        """
        late = self._pipeline.late
        names = [late.token] if late is not None and late.token else self._masks
        found: Iterator[int | None] = (self._tokenizer.token_to_id(name) for name in names)
        id_ = next((i for i in found if i is not None), None)
        if id_ is None:
            raise ModelProblem(
                f"queries are filled up with {' or '.join(names)}, and the tokenizer has no such token; name one that it has: "
                "token in query_expansion of sentence_bert_config.json"
            )
        return id_

    def told(self, ids: Sequence[Sequence[int]], roles: Sequence[str | None]) -> list[list[int]]:
        """Token ids that are known already, as :class:`Tokens` with the role of each text."""
        if self._pipeline.late is not None:
            return [self._late(row, role, self._pipeline.late) for row, role in zip(ids, roles, strict=True)]
        if self._pipeline.include_prompt:
            return [Tokens(row, role, types=types_of(row)) for row, role in zip(ids, roles, strict=True)]
        return [Tokens(row, role, self._length(self._pipeline.prefix(role))) for row, role in zip(ids, roles, strict=True)]

    def _trailing(self, ids: Sequence[int]) -> int:
        """How many tokens at the end of a text are those that fill queries up."""
        return next((k for k, i in enumerate(reversed(ids)) if i != self.filling), len(ids))

    @cached_property
    def _closing(self) -> int:
        """How many such tokens a text ends with that is not filled up: where the tokenizer closes texts with them."""
        return self._trailing(self._tokenizer.encode("").ids)

    def _late(self, ids: Sequence[int], role: str | None, late: Late) -> Tokens:
        attended = len(ids)
        if late.filled(role) and not late.attend:
            attended = min(attended - self._trailing(ids) + self._closing, attended)
        masks = [m for m in self._pipeline.head if isinstance(m, MultiVectorMask)]
        every = [m.counted(ids, role, self._tokenizer.token_to_id) for m in masks]
        counted = [all(of) for of in zip(*every, strict=True)] if every else [True] * len(ids)
        return Tokens(ids, role, 0, attended, counted)

    def _length(self, prompt: str) -> int:
        """Tokens of a prompt, as sentence-transformers counts them: those of the prompt alone, less a special one at the end."""
        if prompt not in self._prompts:
            ids = self._tokenizer.encode(prompt).ids
            special = {i for i, token in self._tokenizer.get_added_tokens_decoder().items() if token.special}
            self._prompts[prompt] = len(ids) - (bool(ids) and ids[-1] in special)
        return self._prompts[prompt]


def _name(token: Any) -> str:
    """Of a special token as ``tokenizer_config.json`` has it; empty where it has none."""
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else ""


def parsed(content: bytes, where: str) -> Any:
    """The tokenizer of the tokenizers library that the content of a ``tokenizer.json`` describes.

    Raises:
        ModelProblem: when it is damaged.
    """
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_buffer(content)
    except Exception as e:  # the binding raises bare Exception
        raise ModelProblem(f"{where} is damaged or made for another tokenizers version ({first_line(e)}); copy it again") from e


def _lower_case(tokenizer: Any) -> None:
    """Lower-case first of all, as sentence-transformers has the tokenizer do it; names of special tokens in a text stay."""
    from tokenizers.normalizers import Lowercase, Sequence

    found: Any = tokenizer.normalizer
    several = isinstance(found, Sequence)
    parts = list(found) if several else [found] if found is not None else []
    if not any(isinstance(part, Lowercase) for part in parts):
        tokenizer.normalizer = Sequence([Lowercase(), *parts])
