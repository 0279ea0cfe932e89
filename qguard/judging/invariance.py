"""Does a text's vector depend on the batch that it is computed in?

Padding, the order of a batch and the other texts in it must not matter. They do where activation ranges are taken over a
whole batch, as in ONNX Runtime's dynamic int8: there the effect is bounded and stated, since it cannot be zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qguard.encoders import Encoder
from qguard.encoders.runtimes import TEXTS
from qguard.encoders.tokenizer import shortened
from qguard.errors import MeasurementProblem
from qguard.judging.once import once
from qguard.judging.session import Session, Target
from qguard.metrics import Items, Measured, Rows, reduced
from qguard.metrics.invariance import METRICS
from qguard.outputs import empty, finite, split
from qguard.suites import Suite
from qguard.vectors.similarity import COSINE, Similarity

GROUPS = 8  # lengths, and texts of each: 64 texts in mixed batches of 8
SHORTEST, LONGEST = 4, 32  # tokens: a text has at least two words; longer ones are cut, to keep the check at half a second
PADDING = 16  # tokens of padding that a text alone gets beyond its own, where the model has positions for them
_COLUMNS = ("batch", "order", "padding", "equal_length")


def sample(suite: Suite, ids: Sequence[Sequence[int]], longest: int = LONGEST) -> tuple[list[int], list[Sequence[int]]]:
    """Texts spread over lengths and slices, in groups of :data:`GROUPS` neighbors in length, cut to equal length.

    Args:
        suite: For the slices.
        ids: Token ids of its texts, special tokens included.
        longest: Tokens beyond which a text is cut.

    Returns:
        Indices into the suite, group by group, and their token ids; each group's have one length. A suite of fewer texts
        gives fewer groups. Texts below :data:`SHORTEST` tokens are left out, unless there are no two others.
    """
    order = sorted(range(len(ids)), key=lambda i: (len(ids[i]), i))
    long = [i for i in order if len(ids[i]) >= SHORTEST]
    order = long if len(long) > 1 else order
    texts, rows = [], []
    for part in np.array_split(np.asarray(order), min(GROUPS, -(-len(order) // GROUPS))):
        # the longer half of a part loses little when it is cut; one text of each slice before a second of any
        half = part[len(part) // 2 :]
        seen: dict[str | None, int] = {}
        turn = {}
        for i in map(int, half if len(half) >= GROUPS else part):
            turn[i] = seen[suite.slices[i]] = seen.get(suite.slices[i], -1) + 1
        chosen = sorted(sorted(turn, key=lambda i: (turn[i], i))[:GROUPS], key=lambda i: (len(ids[i]), i))
        length = min(len(ids[chosen[0]]), longest)
        texts += chosen
        rows += [shortened(ids[i], length) for i in chosen]
    return texts, rows


def items(encoder: Encoder, suite: Suite, ids: Sequence[Sequence[int]], similarity: Similarity = COSINE) -> Items:
    """Per text four cosines in [-1, 1] between two encodings of the same token ids.

    Where the model ranks by a similarity in which lengths count, the cosines fall as lengths differ too; see
    :meth:`qguard.vectors.similarity.Similarity.agreement`.

    ``batch``: alone against in a batch of eight lengths. ``order``: that batch against the same one reversed, with its
    first text in it twice. ``padding``: alone against alone with :data:`PADDING` tokens of padding; a model with few positions
    gets fewer, at least one. ``equal_length``: in a batch of its own length against in the mixed one.

    Of a runtime that takes texts the first two alone, of whole texts: only token ids can be cut to a length, and padded.

    Raises:
        MeasurementProblem: for fewer than two texts, or vectors that are not finite.
    """
    if len(ids) < 2:
        raise MeasurementProblem(f"invariance needs at least two texts, found {len(ids)}")
    most = LONGEST + PADDING if encoder.takes == TEXTS else encoder.head.pipeline.max_seq_length
    longest = min(LONGEST, max(SHORTEST, most - PADDING), most - 1)  # padding needs positions too
    texts, cut = sample(suite, ids, longest)
    n = len(cut)
    if encoder.takes == TEXTS:
        rows = encoder.rows([suite.texts[i] for i in texts], [suite.roles[i] for i in texts])
        lengths = [len(ids[i]) for i in texts]
    else:
        rows, lengths = cut, [len(row) for row in cut]
        if encoder.head.pipeline.by_role:
            rows = encoder.tokenizer.told(cut, [suite.roles[i] for i in texts])
    groups = -(-n // GROUPS)
    mixed = [list(range(start, n, groups)) for start in range(groups)] if groups > 1 else [list(range(n))]
    equal: dict[int, list[int]] = {}
    for i, length in enumerate(lengths):
        equal.setdefault(length, []).append(i)
    alone = [[i] for i in range(n)]
    arrangements = [mixed, alone, [b[::-1] for b in mixed]]
    if encoder.takes != TEXTS:
        arrangements.append(list(equal.values()))
    end = n * len(arrangements)
    # in one call, so that no core waits for the last batch of each
    batches = [[i + k * n for i in batch] for k, own in enumerate(arrangements) for batch in own]
    turned = [b for b in batches if 2 * n <= b[0] < 3 * n]
    twice = [b[0] - 2 * n for b in turned]
    for k, batch in enumerate(turned):
        batch.insert(1, end + k)  # its first text again, in front of others: one that is computed once moves them
    found = encoder.encode_batches([*([*rows] * len(arrangements)), *(rows[i] for i in twice)], batches)
    in_mixed, by_itself, in_turned, *in_equal = split(found[:end], len(arrangements))
    pairs = [(by_itself, in_mixed), (in_mixed, in_turned)]
    if in_equal:
        padded = encoder.encode_batches(rows, alone, min(PADDING, most - longest))
        pairs += [(by_itself, padded), (in_mixed, in_equal[0])]
    cosines = np.stack([_cosine(a, b, similarity) for a, b in pairs], axis=1)
    cosines[twice, 1] = np.minimum(cosines[twice, 1], _cosine(in_mixed[twice], found[end:], similarity))

    def label(i: int) -> str:
        words = "  ".join(f"{name} {value:.4f}" for name, value in zip(_COLUMNS, cosines[i], strict=False))
        return f"{words}  {lengths[i]} tokens  {suite.texts[texts[i]][:50]!r}"

    return Items(cosines, (None,) * n, label)


def _cosine(a: Any, b: Any, similarity: Similarity = COSINE) -> Rows:
    """Of each row; a zero vector is refused, although it has a cosine: no encoder gives one."""
    if any(not finite(v).all() or (similarity.refuses_zeros and empty(v).any()) for v in (a, b)):
        raise MeasurementProblem("a batch gave a vector that is NaN, infinite or zero")
    return similarity.agreement(a, b)


def measure_invariance(
    encoder: Encoder, suite: Suite, ids: Sequence[Sequence[int]], similarity: Similarity = COSINE
) -> list[Measured]:
    """All invariance metrics of one encoder, over a sample of the suite's texts whose size is each value's ``items``."""
    found = items(encoder, suite, ids, similarity)
    return reduced(found, METRICS[: 2 * found.rows.shape[1]], suite)  # two of each column


@once
def values(session: Session, target: Target) -> list[Measured]:
    """The values of the family ``invariance`` of a target with float32 vectors."""
    encoder = session.encoder(target.precision, target.model)
    suite, similarity = session.suite(target.suite, target.model), session.similarity(target.model)
    return measure_invariance(encoder, suite, session.token_ids(target), similarity)


def of_target(session: Session, target: Target) -> list[Measured]:
    """As :func:`values`, of any target: the same for every kind of stored vectors."""
    return values(session, target.plain)
