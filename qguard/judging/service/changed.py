"""Whether the server changes texts before it encodes them: told by fp32's outputs of the changed text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from qguard.judging.service.probe import Finding, Probe, shown

_ASKED = 8  # texts
# what servers put in front of texts by themselves, beside the model's own prompts
COMMON = (
    "query: ", "passage: ", "search_query: ", "search_document: ", "Represent this sentence for searching relevant passages: ",
    "title: none | text: ", "task: search result | query: ", "document: ",
)  # fmt: skip
_BLANK = (("  {}", "leading"), ("{}  ", "trailing"), ("\n{}\t", "outer"))


def prompt(probe: Probe) -> Finding:
    """The server puts before a text what the settings say, and nothing else."""
    texts = list(probe.texts[:_ASKED])
    own = probe.prompt
    others = [p for p in dict.fromkeys(["", *probe.pipeline.prompts.values(), *COMMON]) if p != own]
    ways: dict[str, Callable[[str], str]] = {p: lambda t, p=p: p + t for p in others}  # type: ignore[misc]
    share, best, words = _nearer(probe, texts, lambda t: own + t, ways)
    if best is None:
        return Finding(share, len(texts))
    probe.found_prompt = best
    adds = f"adds the prompt {best!r} by itself" if best else f"adds no prompt, where the settings say that it adds {own!r}"
    mend = "turn its prompt off, or say prompts = 'server'" if best else "say prompts = 'client'"
    return Finding(share, len(texts), (f"the server {adds}: {words}. {mend[0].upper()}{mend[1:]}",))


def whitespace(probe: Probe) -> Finding:
    """Whitespace around a text reaches the tokenizer."""
    texts = [form.format(text) for text in probe.texts[:_ASKED] for form, _ in _BLANK]
    ways = {"outer whitespace is stripped": str.strip, "whitespace is collapsed": lambda t: " ".join(t.split())}
    return _of_tokens(probe, texts, ways)


def case(probe: Probe) -> Finding:
    """The case of letters reaches the tokenizer."""
    texts = [t for text in probe.texts[:_ASKED] for t in (text, text.upper())]
    return _of_tokens(probe, texts, {"texts are changed to lower case": str.lower})


def _of_tokens(probe: Probe, texts: Sequence[str], ways: Mapping[str, Callable[[str], str]]) -> Finding:
    """As :func:`_nearer`, of the texts whose token ids a change would change; without any, it would change nothing."""
    own = probe.prompt if probe.found_prompt is None else probe.found_prompt
    plain = probe.as_sent([own + t for t in texts])
    changes = {name: probe.as_sent([own + way(t) for t in texts]) for name, way in ways.items()}
    told = [t for i, t in enumerate(texts) if all(ids[i] != plain[i] for ids in changes.values())][: 2 * _ASKED]
    if not told:
        return Finding(0, len(texts), ("the model's tokenizer gives the same token ids either way",))
    share, best, words = _nearer(probe, told, lambda t: own + t, {n: lambda t, w=w: own + w(t) for n, w in ways.items()})  # type: ignore[misc]
    return Finding(share, len(told), () if best is None else (f"{best}: {words}",))


def _nearer(
    probe: Probe, texts: Sequence[str], own: Callable[[str], str], ways: Mapping[str, Callable[[str], str]]
) -> tuple[float, str | None, str]:
    """The share of texts whose output is nearer to fp32's of the text changed in the best way than to that of the text itself.

    Returns:
        The share; the way, where it explains more than half of the texts, else ``None``; and the figures in words.
    """
    served = probe.outputs(texts)
    plain = probe.agreement(served, probe.fp32([own(t) for t in texts]))
    found = {name: probe.agreement(served, probe.fp32([way(t) for t in texts])) for name, way in ways.items()}
    best = max(found, key=lambda name: float(found[name].mean()))
    nearer = found[best] > plain
    share = float(np.mean(nearer))
    if share <= 0.5:
        return share, None, ""
    at = int(np.argmax(found[best] - plain))
    words = (
        f"{int(nearer.sum())} of {len(texts)} outputs are nearer to fp32's of such a text (agreement {found[best].mean():.4f}) "
        f"than to fp32's of the text itself ({plain.mean():.4f}), as of {shown(texts[at])}"
    )
    return share, best, words
