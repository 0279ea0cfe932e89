"""Faults of the artifact's tokenizer, with the weights as they were."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from qguard.encoders.consumers import TokenizerFiles
from qguard.faults.site import Candidate, FaultSite, NotApplicable


def _edit(site: FaultSite, change: Callable[[dict[str, Any]], None]) -> Candidate:
    inner = site.base.pipeline.transformer
    path, value = site.config(f"{inner}/tokenizer.json" if inner else "tokenizer.json")
    change(value)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return site.sealed()


def _normalizers(value: dict[str, Any]) -> Iterator[dict[str, Any]]:
    top = value.get("normalizer") or {}
    yield from (n for n in [top, *top.get("normalizers", ())] if n)


def case(site: FaultSite, _: None) -> Candidate:
    """Turn lower-casing off where it is on, and the reverse."""

    def change(value: dict[str, Any]) -> None:
        for n in _normalizers(value):
            if "lowercase" in n:
                n["lowercase"] = not n["lowercase"]
                # accents follow the case unless it is said otherwise, and are another fault
                n["strip_accents"] = (not n["lowercase"]) if n.get("strip_accents") is None else n["strip_accents"]
                return
            if n.get("type") == "Lowercase":
                n.clear()
                n |= {"type": "NFC"}
                return
        old = value.get("normalizer")
        lower = {"type": "Lowercase"}
        value["normalizer"] = {"type": "Sequence", "normalizers": [old, lower]} if old else lower

    return _edit(site, change)


def accents(site: FaultSite, _: None) -> Candidate:
    """Keep accents where they are stripped, and the reverse."""

    def change(value: dict[str, Any]) -> None:
        for n in _normalizers(value):
            if "strip_accents" in n:
                now = n["lowercase"] if n["strip_accents"] is None else n["strip_accents"]
                n["strip_accents"] = not now
                return
        raise NotApplicable("the tokenizer does not treat accents")

    return _edit(site, change)


def configured(site: FaultSite, key: str) -> Candidate:
    """Turn a setting of ``tokenizer_config.json`` around, which Transformers obeys and ``tokenizer.json`` does not show.

    Args:
        site: Where.
        key: ``do_lower_case``, ``strip_accents`` or ``truncation_side``.
    """
    if site.base.static:
        raise NotApplicable("the tokenizer of a static model is not built by Transformers")
    root = site.folder / site.base.pipeline.transformer
    files = TokenizerFiles.read(root)
    path, value = root / "tokenizer_config.json", dict(files.config or {})
    if key == "truncation_side":
        value[key] = "left" if site.base.pipeline.truncation_side == "right" else "right"
    else:
        name = {"do_lower_case": "lowercase", "strip_accents": "strip_accents"}[key]
        if not files.kind or not any("strip_accents" in n for n in _normalizers(files.stored)):
            raise NotApplicable("Transformers reads this tokenizer's case and accents from tokenizer.json")
        now = files.normalizer[name]
        value[key] = not (files.normalizer["lowercase"] if now is None else now)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return site.sealed()


def baked(site: FaultSite, share: float) -> Candidate:
    """A length in ``tokenizer.json``, as a call with truncation leaves it there.

    Args:
        site: Where.
        share: Of what the model takes, or of its own length there if that is less; 0 for one token less.
    """
    if site.base.static:
        raise NotApplicable("a static model reads texts of any length")

    def change(value: dict[str, Any]) -> None:
        old = value.get("truncation") or {"strategy": "LongestFirst", "stride": 0, "direction": "Right"}
        length = min(site.base.pipeline.max_seq_length, old.get("max_length", site.base.pipeline.max_seq_length))
        value["truncation"] = {**old, "max_length": int(length * share) if share else length - 1}

    return _edit(site, change)


def padded(site: FaultSite, where: str) -> Candidate:
    """Padding is declared on the other side than the model's.

    Args:
        site: Where.
        where: ``tokenizer.json`` or ``tokenizer_config.json``.
    """
    if site.base.static:
        raise NotApplicable("a static model knows no positions")
    root = site.folder / site.base.pipeline.transformer
    files = TokenizerFiles.read(root)
    side = "left" if files.side("padding") == "right" else "right"
    if where == "tokenizer.json":
        tokenizer = site.session.tokenizer(site.precision, site.model)
        own = {"strategy": "BatchLongest", "pad_to_multiple_of": None, "pad_id": tokenizer.pad_id, "pad_type_id": 0}
        own["pad_token"] = files.as_is.id_to_token(tokenizer.pad_id)
        return _edit(site, lambda value: value.update(padding={**own, **(value.get("padding") or {}), "direction": side.title()}))
    path = root / where
    path.write_text(json.dumps({**(files.config or {}), "padding_side": side}, ensure_ascii=False), encoding="utf-8")
    return site.sealed()


def special(site: FaultSite, how: str) -> Candidate:
    """Other special tokens around a text.

    Args:
        site: Where.
        how: ``other``: another token at the end; ``none``.
    """
    if site.base.static:
        raise NotApplicable("a static model uses no special tokens")

    def change(value: dict[str, Any]) -> None:
        after = value.get("post_processor") or {}
        if how == "none":
            if not after:
                raise NotApplicable("the tokenizer adds no special tokens")
            value["post_processor"] = None
            return
        if after.get("type") == "TemplateProcessing" and len(after.get("special_tokens", ())) > 1:
            first, *_, last = after["special_tokens"].values()
            last["ids"], last["tokens"] = first["ids"], first["tokens"]
        elif "sep" in after and "cls" in after:
            after["sep"] = after["cls"]
        else:
            raise NotApplicable("the tokenizer adds no special token at the end whose place another could take")

    return _edit(site, change)


def swap(site: FaultSite, kind: str) -> Candidate:
    """Two words change places.

    Args:
        site: Where.
        kind: Which, see :meth:`FaultSite.two_words`.
    """

    def change(value: dict[str, Any]) -> None:
        vocabulary = value["model"].get("vocab")
        if not vocabulary:
            raise NotApplicable("the tokenizer has no vocabulary")
        a, b = site.two_words(kind, len(vocabulary))
        if isinstance(vocabulary, list):
            vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]
            return
        words = {i: w for w, i in vocabulary.items() if i in (a, b)}
        if len(words) < 2:
            raise NotApplicable("the two words are not in the vocabulary")
        vocabulary[words[a]], vocabulary[words[b]] = b, a

    return _edit(site, change)
