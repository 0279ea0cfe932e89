"""Which tokens of a text count where texts are scored by their tokens' vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qguard.errors import ModelProblem
from qguard.files import inside, read_json
from qguard.models.modules.base import MASK, ROWS, TOKENS, Features, Module, Weights

QUERY, DOCUMENT = "query", "document"


@dataclass(frozen=True)
class MultiVectorMask(Module):
    """Sets the mask to the tokens that count.

    Of a query all tokens count, those that it was filled up with too. Of other texts those that are not skipped, and of a model
    that keeps some ids alone, these.

    Attributes:
        skipped: Tokens that do not count, as the vocabulary writes them; others than the vocabulary's are without effect.
        skipped_of: The roles of the texts in which they do not; a text without a role is taken for a document.
        kept: Token ids that alone count, but of queries; empty for all.
    """

    skipped: tuple[str, ...] = ()
    skipped_of: tuple[str, ...] = (DOCUMENT,)
    kept: tuple[int, ...] = ()

    @classmethod
    def read(cls, folder: Path, path: str) -> MultiVectorMask:
        """See :meth:`Module.read`."""
        file = inside(folder, path) / "config.json"
        config = read_json(file, ModelProblem) if file.exists() else {}
        words, tasks, kept = (config.get(key) for key in ("skiplist_words", "skiplist_tasks", "keep_only_token_ids"))
        tasks = [tasks] if isinstance(tasks, str) else [DOCUMENT] if tasks is None else tasks
        for name, value, kind in (
            ("skiplist_words", words, str),
            ("skiplist_tasks", tasks, str),
            ("keep_only_token_ids", kept, int),
        ):
            if value is not None and not (isinstance(value, list) and all(isinstance(v, kind) for v in value)):
                raise ModelProblem(f"{path}/config.json: expected {name} to be a list of {kind.__name__}, found {value!r}")
        return cls(path, tuple(words or ()), tuple(tasks), tuple(kept or ()))

    @property
    def reads(self) -> str:
        """See :class:`Module`."""
        return TOKENS

    @property
    def writes(self) -> str:
        """See :class:`Module`."""
        return TOKENS

    def counted(self, ids: Sequence[int], role: str | None, id_of: Callable[[str], int | None]) -> list[bool]:
        """Whether each token of a text counts.

        Args:
            ids: Of its tokens.
            role: ``"query"``, ``"document"`` or ``None``.
            id_of: The vocabulary's id of a token, ``None`` for one that it has not.
        """
        skipped = {id_of(word) for word in self.skipped} if (role or DOCUMENT) in self.skipped_of else set()
        kept = set(self.kept) if role != QUERY else set()
        return [i not in skipped and (not kept or i in kept) for i in ids]

    def __call__(self, features: Features, weights: Weights) -> None:
        """See :meth:`Module.__call__`; the rows say which of their tokens count, and begin at the first that is attended to."""
        import numpy as np

        mask: Any = np.zeros_like(features[MASK])
        for k, row in enumerate(features[ROWS]):
            start = int(np.argmax(features[MASK][k] != 0))
            mask[k, start : start + len(row)] = row.counted
        features[MASK] = mask
