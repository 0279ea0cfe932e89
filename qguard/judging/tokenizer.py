"""Whether a runtime reads texts as the tokens of the golden.

The vectors of one that takes texts are those of its own token ids. One that takes token ids is given the golden's, and whoever
gives it texts gets what its own tokenizer makes of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from qguard.encoders import TextEncoder
from qguard.encoders.runtimes import TOKEN_IDS
from qguard.errors import MeasurementProblem
from qguard.goldens.tokens import differing
from qguard.judging.once import once
from qguard.judging.readings import Readers
from qguard.judging.session import Session, Target
from qguard.metrics import Measured
from qguard.metrics.bounds import Bound

MISMATCHES, ALIKE = "tokenizer.mismatches", "tokenizer.alike"
# one text that is read differently is a bug of what is judged; of what is not, one in a hundred is told and let pass
BOUNDS = {MISMATCHES: Bound("<=", 0), ALIKE: Bound(">=", 0.99)}
_SHOWN = 5


@once
def told_ids(session: Session, target: Target) -> list[list[int]]:
    """The token ids of the suite's texts as the runtime tells them.

    Raises:
        MeasurementProblem: where it tells none.
    """
    encoder, suite = session.encoder(target.precision, target.model), session.suite(target.suite, target.model)
    if not isinstance(encoder, TextEncoder):
        raise MeasurementProblem(f"{target.precision} takes token ids, and has no tokenizer of its own")
    return encoder.token_ids(suite.texts, suite.roles)


def of_target(session: Session, target: Target) -> list[Measured]:
    """``tokenizer.mismatches``: texts whose token ids are not the golden's, the first ones in words.

    Of a runtime that takes token ids ``tokenizer.alike``.
    """
    if session.encoder(target.precision, target.model).takes == TOKEN_IDS:
        return [_alike(session, target.plain)]
    suite, golden = session.suite(target.suite, target.model), session.golden(target.model, target.suite).token_ids
    told = told_ids(session, target.plain)
    wrong = differing(golden, told)
    shown = [_words(suite.texts[i], golden[i], told[i]) for i in wrong[:_SHOWN]]
    if hint := _cut(golden, told, wrong):
        shown.insert(0, hint)
    return [Measured(MISMATCHES, None, float(len(wrong)), len(golden), False, tuple(shown), BOUNDS[MISMATCHES], noun="texts")]


@once
def _alike(session: Session, target: Target) -> Measured:
    """The share of texts that the runtime's own tokenizer reads as the golden does, up to the golden's length."""
    suite, golden = session.suite(target.suite, target.model), session.golden(target.model, target.suite).token_ids
    encoder, prefix = session.encoder(target.precision, target.model), session.model(target.model).pipeline.prefix
    texts = [prefix(role) + text for text, role in zip(suite.texts, suite.roles, strict=True)]
    found = encoder.runtime.token_ids(texts)  # type: ignore[attr-defined]
    readers, longest = Readers(encoder.tokenizer.plain), session.model(target.model).pipeline.max_seq_length
    wrong = [i for i in range(len(texts)) if not readers.alike(golden[i], found[i], longest)]
    shown = [f"{readers.cause(texts[i], found[i]) or 'its cause is not known'}  {suite.texts[i][:50]!r}" for i in wrong]
    counts = Counter(line.partition("  ")[0] for line in shown)
    words = [f"{n} texts: {cause}" for cause, n in counts.most_common()]
    words += shown[:_SHOWN]
    if wrong:
        words.append("send token ids to the server, or give it texts that it reads as the model does")
    return Measured(ALIKE, None, 1 - len(wrong) / len(texts), len(texts), True, tuple(words), BOUNDS[ALIKE], noun="texts")


def _words(text: str, golden: Sequence[int], told: Sequence[int]) -> str:
    at = next((k for k, (a, b) in enumerate(zip(golden, told, strict=False)) if a != b), min(len(golden), len(told)))
    found, wanted = list(told[at : at + 4]), list(golden[at : at + 4])
    return f"{len(told)} tokens, the golden {len(golden)}; from position {at} {found}, the golden {wanted}  {text[:50]!r}"


def _cut(golden: Sequence[Sequence[int]], told: Sequence[Sequence[int]], wrong: Sequence[int]) -> str:
    """Why long texts are cut otherwise, where nothing else differs; empty where something else does."""
    if not wrong or any(list(told[i][: len(golden[i]) - 1]) != list(golden[i][:-1]) for i in wrong):
        return ""
    longest, ends = max(len(told[i]) for i in wrong), {len(golden[i]) for i in wrong}
    if all(len(told[i]) == len(golden[i]) for i in wrong):
        return (
            f"all of them are texts of more than {longest} tokens, whose closing token the runtime cuts off with the rest. "
            "Put it back, as docs/javascript.md shows, and say so: close = true in [tool.qguard.javascript]"
        )
    if len(ends) == 1:
        return (
            f"all of them are long: the runtime cuts texts at {longest} tokens or more, the model at {ends.pop()}; state "
            "model_max_length in tokenizer_config.json"
        )
    return ""
