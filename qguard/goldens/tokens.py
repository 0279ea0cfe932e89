"""What changed in token ids, in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from qguard.models.model import Model
from qguard.suites import Suite

if TYPE_CHECKING:
    from qguard.encoders.tokenizer import TextTokenizer
    from qguard.goldens.stored import Golden

Ids = Sequence[Sequence[int]]
_LISTED = 3


def reference_tokenizer(model: Model, golden: Golden | None) -> TextTokenizer:
    """The tokenizer that gives a golden's token ids: the one stored with it, else the model's own file."""
    from qguard.encoders.tokenizer import TextTokenizer

    if golden is None or golden.tokenizer is None:
        return TextTokenizer.open(model.root, model.pipeline)
    return TextTokenizer.read(golden.tokenizer, model.pipeline, str(golden.manifest["tokenizer_file"]), model.root)


def live_token_ids(model: Model, suite: Suite, golden: Golden) -> list[list[int]]:
    """Token ids of the suite's texts by the golden's tokenizer or the model's own, as the installed version reads it."""
    return reference_tokenizer(model, golden)(suite.texts, suite.roles)


def differing(old: Ids, new: Ids) -> list[int]:
    """Texts whose token ids differ, by index; both lists hold the same texts."""
    return [i for i, (a, b) in enumerate(zip(old, new, strict=True)) if list(a) != list(b)]


def token_change(old: Ids, new: Ids, model: Model) -> str:
    """How token ids changed; empty where they did not.

    Args:
        old: Token ids of each text.
        new: Those of the same texts today.
        model: Whose vocabulary names them.
    """
    texts = differing(old, new)
    if not texts:
        return ""
    head = f"token ids of {len(texts)} of {len(old)} texts change"
    longer = [i for i in texts if len(old[i]) != len(new[i])]
    if longer:
        i = longer[0]
        return f"{head}, in {len(longer)} their number too (text {i}: {len(old[i])} → {len(new[i])} tokens)"
    swaps = sorted({(a, b) for i in texts for a, b in zip(old[i], new[i], strict=True) if a != b})
    name, special = _vocabulary(model)
    listed = ", ".join(f"{name(a)} ({a}) → {name(b)} ({b})" for a, b in swaps[:_LISTED])
    if len(swaps) == 1:
        return f"{head}: one {'special ' if set(swaps[0]) & special else ''}token, {listed}"
    return f"{head}: {len(swaps)} tokens, {listed}{' …' if len(swaps) > _LISTED else ''}"


def _vocabulary(model: Model) -> tuple[Callable[[int], str], set[int]]:
    """Names of token ids, and which of them are special."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model.root / "tokenizer.json"))
    special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    return (lambda i: tokenizer.id_to_token(i) or "not in the vocabulary"), special
