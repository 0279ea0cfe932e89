"""What a hunt knows: the corpus and its mutations, with both encodings, and the worst texts and pairs among them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from qguard.encoders import Floats
from qguard.errors import MeasurementProblem
from qguard.hunting.pairs import Move, most_moved, unit
from qguard.metrics import Rows
from qguard.vectors.cosine import of_units
from qguard.vectors.similarity import COSINE, DOT, Similarity

ELITE = 48  # worst texts, and worst pairs, that are mutated further
LINEAGE = 4  # of them descend from one text of the corpus, at most: else all would soon be one text's
PAIRS = 8 * ELITE  # that are remembered
ROOM = 24_000  # mutations that are kept to be paired with others

Encode = Callable[[Sequence[str]], tuple[Floats, Floats]]


@dataclass
class Pool:
    """Texts with the vectors of fp32 and of the candidate.

    Attributes:
        encode: Texts to (n, dim) of fp32 and of the candidate.
        texts: The corpus first.
        roots: The text of the corpus that each descends from, by index.
        made: By which mutations.
        cosines: Between both vectors of each text; see :meth:`qguard.vectors.similarity.Similarity.agreement`.
        pairs: The pairs that moved most, largest first.
        similarity: What the model ranks by.
        scale: That brings its scores to the scale of cosines: of fp32's vectors of the texts that come first.
    """

    encode: Encode
    similarity: Similarity = COSINE
    scale: float = 1.0
    texts: list[str] = field(default_factory=list)
    roots: list[int] = field(default_factory=list)
    made: list[tuple[str, ...]] = field(default_factory=list)
    cosines: Rows = field(default_factory=lambda: np.empty(0))
    pairs: list[Move] = field(default_factory=list)
    corpus: int = 0
    tried: int = 0
    _length: float = 1.0  # of a vector, where lengths count: the texts are told apart by digits
    _fp32: Floats | None = None
    _candidate: Floats | None = None
    _seen: set[str] = field(default_factory=set)
    _keys: set[bytes] = field(default_factory=set)

    def is_new(self, text: str) -> bool:
        """Whether a text was never tried, and says anything."""
        return bool(text.strip()) and text not in self._seen

    def add(
        self,
        texts: Sequence[str],
        roots: Sequence[int],
        made: Sequence[tuple[str, ...]],
        encoded: tuple[Floats, Floats] | None = None,
    ) -> None:
        """Encode new texts, and pair them with all others.

        Args:
            texts: Texts.
            roots: The text of the corpus that each descends from, by index.
            made: By which mutations.
            encoded: Their vectors, where they are encoded already.

        Raises:
            MeasurementProblem: for vectors that are not finite, or only zeros.
        """
        if not texts:
            return
        encoded = self.encode(texts) if encoded is None else encoded
        for name, vectors in zip(("fp32", "the candidate"), encoded, strict=True):
            bad = ~np.isfinite(vectors).all(1) | ~vectors.any(1)
            if bad.any():
                raise MeasurementProblem(f"{name} gives NaN, infinity or only zeros for {texts[int(bad.argmax())][:200]!r}")
        first = len(self.texts)
        if first == 0:
            self._length = float(np.sqrt(DOT.scale(encoded[0])))
        new = [unit(v) if self.similarity is COSINE else np.asarray(v / self._length, np.float32) for v in encoded]
        if first == 0:
            self.scale = self.similarity.scale(new[0])
        # a text that fp32 tells from no other, as a case that the tokenizer drops, is found already
        keys = [row.tobytes() for row in np.round(new[0], 4) + np.float32(0)]
        kept = [i for i, key in enumerate(keys) if self.corpus == 0 or (key not in self._keys and key not in keys[:i])]
        self._seen.update(texts)
        self.tried += len(texts)
        self._keys.update(keys)
        if not kept:
            return
        new = [v[kept] for v in new]
        cosines = of_units(*new) if self.similarity is COSINE else self.similarity.agreement(*new)
        if first == 0:
            self._fp32, self._candidate = new
        else:
            assert self._fp32 is not None
            assert self._candidate is not None
            self._fp32, self._candidate = np.concatenate([self._fp32, new[0]]), np.concatenate([self._candidate, new[1]])
        self.texts += [texts[i] for i in kept]
        self.roots += [roots[i] for i in kept]
        self.made += [made[i] for i in kept]
        self.cosines = np.concatenate([self.cosines, cosines])
        found = most_moved(self._fp32, self._candidate, PAIRS, first, self.similarity, self.scale)
        self.pairs = sorted([*self.pairs, *found], key=lambda m: (-m.size, m.a, m.b))
        self.pairs = self.worst_pairs(PAIRS)
        if len(self.texts) > self.corpus + ROOM and self.corpus:
            self._forget()

    def _forget(self) -> None:
        """Keep the corpus, the texts of the best pairs, and the worst half of the mutations."""
        assert self._fp32 is not None
        assert self._candidate is not None
        order = np.argsort(self.cosines[self.corpus :], kind="stable")[: ROOM // 2] + self.corpus
        kept = sorted({*range(self.corpus), *order.tolist(), *(i for m in self.pairs for i in (m.a, m.b))})
        place = {old: new for new, old in enumerate(kept)}
        self.texts, self.roots = [self.texts[i] for i in kept], [self.roots[i] for i in kept]
        self.made = [self.made[i] for i in kept]
        self.cosines, self._fp32, self._candidate = self.cosines[kept], self._fp32[kept], self._candidate[kept]
        self.pairs = [Move(place[m.a], place[m.b], m.fp32, m.candidate) for m in self.pairs]

    def worst_texts(self, most: int = ELITE) -> list[int]:
        """Texts of the lowest cosine, lowest first, few of one lineage."""
        order = np.argsort(self.cosines, kind="stable").tolist()
        return self._spread(order, lambda i: (self.roots[i],), most)

    def worst_pairs(self, most: int = ELITE) -> list[Move]:
        """Pairs that moved most, few of one pair of lineages."""
        chosen = self._spread(range(len(self.pairs)), lambda k: sorted(self.roots[i] for i in self._members(k)), most)
        return [self.pairs[k] for k in chosen]

    def _members(self, pair: int) -> tuple[int, int]:
        return self.pairs[pair].a, self.pairs[pair].b

    @staticmethod
    def _spread(order: Sequence[int], lineage: Callable[[int], Sequence[int]], most: int) -> list[int]:
        seen: dict[tuple[int, ...], int] = {}
        out = []
        for i in order:
            key = tuple(lineage(i))
            seen[key] = seen.get(key, 0) + 1
            if seen[key] <= LINEAGE:
                out.append(i)
            if len(out) == most:
                break
        return out
