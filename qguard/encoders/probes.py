"""Short texts on which tokenizers differ that agree on plain sentences: each shows one setting."""

from __future__ import annotations

PROBES = (
    "", "a", "Paris is the capital of France", "PARIS", "paris",  # case
    "café", "cafe\u0301", "naïve Ångström", "Öl, Ärger und Übung",  # accents, written in both ways
    "中文字", "漢字kanji漢字", "日本語のテキスト", "한국어 텍스트", "ㅎㅏㄴ",  # letters that are words by themselves, and jamo
    "हिन्दी में लिखा", "مرحبا بالعالم", "שָׁלוֹם", "Привет, мир", "İstanbul ıssız ẞ",  # scripts with marks, and odd cases
    "ﬁne ﬂow", "Ｆｕｌｌ　ｗｉｄｔｈ", "x² + y³ ≠ ½", "①②③ ™",  # what NFKC changes
    " leading", "trailing ", "two  spaces", "tab\there", "line\nbreak", "carriage\r\nreturn", "   ", "non\u00a0breaking",
    "zero\u200bwidth", "soft\u00adhyphen", "joined\u200dletters", "\ufeffmark", "control\x07bell", "replacement\ufffd",
    "don't", "it's John's", "U.S.A.", "e-mail", "snake_case", "a/b\\c", "3.14", "1,000,000", "2024-05-01", "50% off!!!",
    "http://example.com/a?b=c#d", "user@example.com", "#hashtag @name", "😀👩‍👩‍👧🏽", "«quoted» “text” ‘here’ — …",
    "[MASK] [UNK] [SEP]", "<mask> <unk> </s>", "supercalifragilisticexpialidocious", "x" * 120, "antidisestablishmentarianism",
    "camelCaseWord", "HTTPServer2", "ABC123def", "ΑΒΓ ΣΊΣΥΦΟΣ", "ǆ ǅ Ǆ", "ｶﾀｶﾅ",
)  # fmt: skip
