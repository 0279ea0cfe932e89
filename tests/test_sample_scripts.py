"""Scripts of texts, held to the Unicode property; lengths; what looks like personal data, and what does not."""

from __future__ import annotations

import json
import sys
import unicodedata

import pytest

from qguard.errors import UsageProblem
from qguard.sampling.allocation import FLOOR, allocate
from qguard.sampling.lengths import length_of, words
from qguard.sampling.personal import CARD, EMAIL, IBAN, IP, LOGIN, NATIONAL, PHONE, SECRET, personal
from qguard.sampling.scripts import MIXED, NONE, _script, script_of
from tests.conftest import DATA

# property → letters that a name tells otherwise, at most: forms of letters such as ordinal indicators, and marks that are common
TOLD_OTHERWISE = {
    "Latin": 180, "Greek": 8, "Cyrillic": 3, "Georgian": 1, "Han": 2, "Common": 16, "Hebrew": 0, "Arabic": 0, "Thai": 0,
    "Devanagari": 0, "Bengali": 0, "Tamil": 0, "Telugu": 0, "Armenian": 0, "Hangul": 0, "Hiragana": 0, "Katakana": 0,
    "Ethiopic": 0, "Khmer": 0, "Lao": 0, "Myanmar": 0, "Sinhala": 0, "Tibetan": 0, "Mongolian": 0,
}  # fmt: skip


def test_the_script_of_every_letter_is_that_of_unicode():
    regex = pytest.importorskip("regex")
    forms = {name: regex.compile(rf"\p{{Script={name}}}") for name in TOLD_OTHERWISE}
    letters = [c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c).startswith("L")]
    everything = "".join(letters)
    for name, form in forms.items():
        found = form.findall(everything)
        told = [c for c in found if _script(c) != name and not (name == "Common" and not _script(c))]
        assert len(told) <= TOLD_OTHERWISE[name], (name, "".join(told)[:40])
        assert len(found) > 30 or name == "Common"


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Trains left at 9:40.", "Latin"), ("naïve façade", "Latin"), ("ＡＢＣ", "Latin"), ("Поезд ушёл", "Cyrillic"),
        ("Поезд ушёл, iPhone 12", "mixed"), ("Очень длинное предложение про iOS", "Cyrillic"),
        ("猫が好きです", "Japanese"), ("ｶﾀｶﾅ", "Japanese"),
        ("我喜欢猫", "Han"), ("나는 고양이를 좋아한다", "Korean"), ("漢字 한국어", "Korean"), ("मैं घर जाता हूँ", "Devanagari"),
        ("שלום עולם", "Hebrew"), ("مرحبا بالعالم", "Arabic"), ("สวัสดี", "Thai"), ("Γειά", "Greek"), ("👩‍👩‍👧‍👦 🇨🇭 👍🏽", NONE),
        ("good 👍🏽", "Latin"), ("12:30 - 14", NONE), ("", NONE), ("\u0301", NONE), ("hello привет", MIXED),
    ],
)  # fmt: skip
def test_a_text_has_the_script_of_most_of_its_letters(text, script):
    assert script_of(text) == script


def test_lengths_are_words_and_the_characters_of_scripts_without_spaces():
    assert words(["two words", "", "我喜欢 猫 so"]) == [2, 0, 5]
    assert [length_of(n) for n in (0, 16, 17, 256, 257, 1025)] == ["1-16", "1-16", "17-64", "65-256", "257-1024", "1025+"]


HELD = {
    "write to jane.doe@acme-widgets.co.uk today": EMAIL, "Ø: søren@firma.dk": EMAIL, "call +41 44 668 18 00 now": PHONE,
    "(650) 253-0000": PHONE, "tel. 650-253-0000": PHONE, "to GB82 WEST 1234 5698 7654 32 AND SOON": IBAN,
    "DE89370400440532013000": IBAN,
    "card 4111 1111 1111 1111, thanks": CARD, "5500005555555559": CARD, "from 85.214.132.117 again": IP,
    "2001:4860:4860::8888": IP, "DNI 54362315K": NATIONAL, "RSSMRA85T10A562S": NATIONAL, "CPF 390.533.447-05": NATIONAL,
    "131052-308T": NATIONAL, "１９５-２３-１２３４": NATIONAL, "AKIA" + "IOSFODNN7EXAMPLE": SECRET, "ghp_" + "a1B2" * 9: SECRET,
    "-----BEGIN RSA " + "PRIVATE KEY-----": SECRET, "password: hunter2abc": SECRET, "API_KEY='9f8e7d6c5b4a'": SECRET,
    "postgres://admin:pw1@db.internal/x": LOGIN, "https://user:secret@host.org": LOGIN,
}  # fmt: skip


@pytest.mark.parametrize("text", HELD)
def test_what_is_personal_is_found_and_its_masked_form_tells_nothing(text):
    found = personal(text)
    assert [f.kind for f in found] == [HELD[text]]
    assert not any(c.isdigit() and c != "9" for c in unicodedata.normalize("NFKC", found[0].masked))
    assert not set(filter(str.isalpha, found[0].masked)) - {"x", "X"}


@pytest.mark.parametrize(
    "text",
    [
        "@user what about 10.1 and 3.11.7?", "jane@example.com", "Section 2.1.3.4 (a)", "12:30:45 on 2024-01-02",
        "between 1990-1995 and 2001-2004",
        "GB82 WEST 1234 5698 7654 33", "4111 1111 1111 1112", "54362315L", "order 123456789012",
        "10.0.0.1 and 192.168.100.200", "ratio 2015/16 15/16",
        "password: changeme", "the token: a word", "key = value", "task-1234567890-1234", "http://host:8080/a@b",
        "doi 10.1093/nar/gkq1019",
        "π = 3.14159265358979323846", "00:1b:44:11:3a:b7", "ISBN 978-3-16-148410-0", "ab12cd34ef56ab78",
    ],
)  # fmt: skip
def test_what_only_looks_like_it_is_not(text):
    assert personal(text) == []


@pytest.mark.skipif(not DATA.is_dir(), reason="no published data here")
@pytest.mark.parametrize(
    ("file", "most"), [("stsb_en/pairs", 6), ("legal_texts/texts", 3), ("tweeteval/texts", 5), ("scifact/queries", 0)]
)
def test_published_texts_hold_little_that_looks_personal(file, most):
    rows = [json.loads(line) for line in (DATA / f"{file}.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
    texts = ["\n".join(row[k] for k in ("text", "text_a", "text_b") if k in row) for row in rows]
    assert sum(bool(personal(t)) for t in texts) <= most


def test_rare_strata_get_their_floor_and_the_rest_goes_by_square_roots():
    got = allocate([1_000_000, 10_000, 500, 30, 2], 1000)
    assert sum(got) == 1000
    assert got[3:] == [FLOOR, 2]
    assert got[0] / got[1] == pytest.approx(10, rel=0.02)
    assert allocate([5, 7], 100) == [5, 7]
    assert allocate([50, 50], 30) == [15, 15]
    for n in range(13, 91):
        assert sum(allocate([7] * 13, n)) == n
    with pytest.raises(UsageProblem, match="expected at least one of each"):
        allocate([9, 9, 9], 2)
