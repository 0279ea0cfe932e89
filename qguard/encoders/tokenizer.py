"""Text to token ids, by the Rust tokenizer alone: no transformers import."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from qguard.encoders.feeding import RIGHT, declared_side
from qguard.errors import ModelProblem, first_line
from qguard.models.pipeline import Pipeline, read_optional, tokenizer_file


class Tokens(list[int]):
    """Token ids of one text, and what its head may have to know.

    Attributes:
        role: ``"query"``, ``"document"`` or ``None``.
        prompt: Tokens at the start that belong to its prompt, where the pooling leaves these out; else 0.
    """

    __slots__ = ("prompt", "role")

    def __init__(self, ids: Iterable[int], role: str | None = None, prompt: int = 0) -> None:
        super().__init__(ids)
        self.role, self.prompt = role, prompt


class TextTokenizer:
    """Token ids of texts as the pipeline declares: prompt, lower-casing, special tokens, truncation; never padding.

    Attributes:
        pad_id: The token id that fills short rows of a batch.
        side: The side that it does so on, ``right`` or ``left``.
        said: The file that declares the side; empty for the default.
    """

    def __init__(self, tokenizer: Any, pipeline: Pipeline, pad_id: int, side: str = RIGHT, said: str = "") -> None:
        if pipeline.do_lower_case:
            _lower_case(tokenizer)
        if not pipeline.static:  # whose tokenizer sentence-transformers takes as it is, without special tokens
            tokenizer.enable_truncation(pipeline.max_seq_length, direction=pipeline.truncation_side)
        tokenizer.no_padding()
        self._tokenizer, self._pipeline = tokenizer, pipeline
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
        token = config.get("pad_token")
        token = token.get("content") if isinstance(token, dict) else token
        named = tokenizer.token_to_id(token) if isinstance(token, str) else None
        found = (named, own.get("pad_id"), tokenizer.token_to_id("[PAD]"), tokenizer.token_to_id("<pad>"), 0)
        sides = (("tokenizer_config.json", declared_side(config)), ("tokenizer.json", own.get("direction")), ("", RIGHT))
        said, side = next((file, side) for file, side in sides if side)
        return cls(tokenizer, pipeline, next(i for i in found if i is not None), side, said)

    @property
    def unknown_id(self) -> int | None:
        """The id that stands for what the vocabulary has not; ``None`` for a vocabulary that has everything, as of bytes."""
        found = (self._tokenizer.token_to_id(name) for name in ("[UNK]", "<unk>"))
        return next((i for i in found if i is not None), None)

    def __call__(self, texts: Sequence[str], roles: Sequence[str | None] | None = None) -> list[list[int]]:
        """Token ids of each text as :class:`Tokens`, special tokens included, at most ``max_seq_length`` of them.

        Args:
            texts: n texts.
            roles: For each text ``"query"``, ``"document"`` or ``None``; decides its prompt.
        """
        prefix, roles = self._pipeline.prefix, roles or [None] * len(texts)
        # outer whitespace stays: some tokenizers have tokens for it, and sentence-transformers keeps it
        prepared = [prefix(role) + t for t, role in zip(texts, roles, strict=True)]
        found = self._tokenizer.encode_batch(prepared, add_special_tokens=not self._pipeline.static)
        return self.told([e.ids for e in found], roles)

    def told(self, ids: Sequence[Sequence[int]], roles: Sequence[str | None]) -> list[list[int]]:
        """Token ids that are known already, as :class:`Tokens` with the role of each text."""
        if self._pipeline.include_prompt:
            return [Tokens(row, role) for row, role in zip(ids, roles, strict=True)]
        return [Tokens(row, role, self._length(self._pipeline.prefix(role))) for row, role in zip(ids, roles, strict=True)]

    def _length(self, prompt: str) -> int:
        """Tokens of a prompt, as sentence-transformers counts them: those of the prompt alone, less a special one at the end."""
        if prompt not in self._prompts:
            ids = self._tokenizer.encode(prompt).ids
            special = {i for i, token in self._tokenizer.get_added_tokens_decoder().items() if token.special}
            self._prompts[prompt] = len(ids) - (bool(ids) and ids[-1] in special)
        return self._prompts[prompt]


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
