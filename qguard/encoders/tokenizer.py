"""Text to token ids, by the Rust tokenizer alone: no transformers import."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qguard.errors import ModelProblem
from qguard.models.pipeline import Pipeline


class TextTokenizer:
    """Token ids of texts as the pipeline declares: prompt, lower-casing, special tokens, truncation; never padding."""

    def __init__(self, tokenizer: Any, pipeline: Pipeline, pad_id: int) -> None:
        if pipeline.do_lower_case:
            _lower_case(tokenizer)
        if not pipeline.static:  # whose tokenizer sentence-transformers takes as it is, without special tokens
            tokenizer.enable_truncation(pipeline.max_seq_length)
        tokenizer.no_padding()
        self._tokenizer, self._pipeline, self.pad_id = tokenizer, pipeline, pad_id

    @classmethod
    def open(cls, root: Path, pipeline: Pipeline) -> TextTokenizer:
        """Read ``root/tokenizer.json``.

        Raises:
            ModelProblem: when it is missing or damaged.
        """
        from tokenizers import Tokenizer

        path = root / "tokenizer.json"
        if not path.exists():
            raise ModelProblem(f"{root} has no tokenizer.json")
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as e:  # the binding raises bare Exception
            raise ModelProblem(f"{path} is damaged or made for another tokenizers version: {e}") from e
        pad = tokenizer.padding["pad_id"] if tokenizer.padding else tokenizer.token_to_id("[PAD]")
        return cls(tokenizer, pipeline, pad if pad is not None else tokenizer.token_to_id("<pad>") or 0)

    @property
    def unknown_id(self) -> int | None:
        """The id that stands for what the vocabulary has not; ``None`` for a vocabulary that has everything, as of bytes."""
        found = (self._tokenizer.token_to_id(name) for name in ("[UNK]", "<unk>"))
        return next((i for i in found if i is not None), None)

    def __call__(self, texts: Sequence[str], roles: Sequence[str | None] | None = None) -> list[list[int]]:
        """Token ids of each text, special tokens included, at most ``max_seq_length`` of them.

        Args:
            texts: n texts.
            roles: For each text ``"query"``, ``"document"`` or ``None``; decides its prompt.
        """
        prefix = self._pipeline.prefix
        # outer whitespace stays: some tokenizers have tokens for it, and sentence-transformers keeps it
        prepared = [prefix(role) + t for t, role in zip(texts, roles or [None] * len(texts), strict=True)]
        return [e.ids for e in self._tokenizer.encode_batch(prepared, add_special_tokens=not self._pipeline.static)]


def _lower_case(tokenizer: Any) -> None:
    """Lower-case first of all, as sentence-transformers has the tokenizer do it; names of special tokens in a text stay."""
    from tokenizers.normalizers import Lowercase, Sequence

    found: Any = tokenizer.normalizer
    several = isinstance(found, Sequence)
    parts = list(found) if several else [found] if found is not None else []
    if not any(isinstance(part, Lowercase) for part in parts):
        tokenizer.normalizer = Sequence([Lowercase(), *parts])
