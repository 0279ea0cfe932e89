"""The hunt on the real model: what it finds is no better than the corpus, repeats, and is a suite."""

from __future__ import annotations

import json
from random import Random

import numpy as np
import pytest

from qguard import cli
from qguard.config import load_config
from qguard.errors import MeasurementProblem
from qguard.hunting.hunt import encoder_of, hunt
from qguard.hunting.pairs import unit
from qguard.hunting.suite import write_suite
from qguard.judging.session import Session
from qguard.precisions import parse_precision
from qguard.suites.reader import read_suite
from qguard.suites.source import Source
from qguard.texts.mutations import LONGEST, MUTATIONS, mutate


@pytest.fixture(scope="module")
def project(small) -> Session:
    return Session(load_config(small))


@pytest.fixture(scope="module")
def encode(project, int8):
    return encoder_of(project, parse_precision("int8"), "minilm")


@pytest.fixture(scope="module")
def corpus(project) -> tuple[str, ...]:
    return project.suite("own").texts[:30]


@pytest.fixture(scope="module")
def hunted(encode, corpus):
    return hunt(encode, [*corpus, corpus[0], " "], 60, seed=5, generations=2, keep=8)


def test_the_plain_worst_are_those_of_all_texts_and_all_pairs(hunted, encode, corpus):
    before, after = (unit(v).astype(np.float64) for v in encode(corpus))
    cosines = (before * after).sum(1)
    moved = np.abs(after @ after.T - before @ before.T)
    assert hunted.corpus == 30
    assert hunted.plain_text.text == corpus[int(cosines.argmin())]
    assert hunted.plain_text.cosine == pytest.approx(cosines.min(), abs=1e-6)
    assert hunted.plain_pair.moved == pytest.approx(moved.max(), abs=1e-6)
    assert {hunted.plain_pair.text_a, hunted.plain_pair.text_b} <= set(corpus)


def test_mutations_are_worse_than_the_corpus(hunted):
    assert hunted.tried == 2 * 96
    assert hunted.texts[0].cosine < hunted.plain_text.cosine
    assert hunted.pairs[0].moved > hunted.plain_pair.moved
    assert hunted.texts[0].made
    assert [t.cosine for t in hunted.texts] == sorted(t.cosine for t in hunted.texts)
    assert all(name in MUTATIONS for t in hunted.texts for name in t.made)


def test_what_is_found_is_what_the_encoders_give(hunted, encode):
    worst = hunted.texts[0]
    before, after = (unit(v).astype(np.float64)[0] for v in encode([worst.text]))
    assert before @ after == pytest.approx(worst.cosine, abs=1e-4)


def test_equal_seeds_find_the_same(hunted, encode, corpus):
    again = hunt(encode, corpus, 60, seed=5, generations=2, keep=8)
    assert (again.texts, again.pairs, again.tried) == (hunted.texts, hunted.pairs, hunted.tried)


def test_what_is_written_is_a_suite(hunted, tmp_path):
    write_suite(tmp_path / "hard", hunted)
    suite = read_suite("hard", Source(str(tmp_path / "hard")))
    assert set(suite.slices) == {"hard"}
    assert {t.text for t in hunted.texts} <= set(suite.texts)
    assert [(suite.texts[p.a], suite.texts[p.b]) for p in suite.pairs] == [(p.text_a, p.text_b) for p in hunted.pairs]
    assert not suite.labelled


def test_a_corpus_of_one_text_is_refused(encode):
    with pytest.raises(MeasurementProblem, match="at least two texts, found 1"):
        hunt(encode, ["one", "one", ""], 1)


def test_the_command_shows_plain_against_found_and_how_to_gate_it(small, int8, corpus, tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("\n".join(corpus[:6]) + "\n")
    args = ["--config", str(small), "--precision", "int8", "--corpus", str(tmp_path / "texts.txt"), "--minutes", "0.001"]
    assert cli.main(["hunt", *args, "--out", str(tmp_path / "hard"), "--json", str(tmp_path / "h.json"), "--keep", "3"]) == 0
    out = capsys.readouterr().out
    assert "lowest cosine to fp32\n  plain  0.99" in out
    assert "[tool.qguard.suite.hard]" in out
    facts = json.loads((tmp_path / "h.json").read_text())
    assert (facts["schema"], facts["corpus"], facts["generations"], len(facts["texts"])) == (1, 6, 1, 3)


def test_a_pool_that_is_full_keeps_the_corpus_and_the_worst(monkeypatch):
    def by_letters(texts):
        fp32 = np.asarray([[1 + t.count(c) for c in "aeiost "] for t in texts], np.float32)
        return fp32, fp32 + np.asarray([[len(t) % 3, 0, 0, 0, 0, 0, 0] for t in texts], np.float32)

    monkeypatch.setattr("qguard.hunting.pool.ROOM", 60)
    found = hunt(by_letters, ["a first text", "and a second one", "another, the third"], 60, generations=4, keep=6)
    for p in found.pairs:
        before, after = (unit(v).astype(np.float64) for v in by_letters([p.text_a, p.text_b]))
        assert (before[0] @ before[1], after[0] @ after[1]) == pytest.approx((p.fp32, p.candidate), abs=1e-6)
    for t in found.texts:
        before, after = (unit(v).astype(np.float64)[0] for v in by_letters([t.text]))
        assert before @ after == pytest.approx(t.cosine, abs=1e-6)
    assert found.texts[0].cosine <= found.plain_text.cosine


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--precision", "int8", "--corpus", "nowhere.jsonl"], "no file or folder at nowhere.jsonl"),
        (["--precision", "int8,fp32", "--corpus", "core"], "one precision of one model"),
        (["--precision", "fp32+binary", "--corpus", "core"], "hunt with --precision fp32"),
        (["--precision", "int8", "--corpus", "core", "--minutes", "0"], "expected --minutes above 0"),
    ],
)
def test_mistakes_are_told_in_a_sentence(small, capsys, args, words):
    assert cli.main(["hunt", "--config", str(small), *args]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_mutation_gives_text_of_any_text(name):
    rng = Random(name)
    changed = 0
    for text in ["", "a", "  ", "Trains left at 9:40, 3 of them late.", "Straße 🙂 чай", "\u0301\n"]:
        for _ in range(20):
            made = MUTATIONS[name](rng, text, "words of another text")
            made.encode()
            changed += made != text
            assert len(mutate(rng, text * 400, text)[0]) <= LONGEST
    assert changed
