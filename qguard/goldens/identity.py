"""Whether a golden is of this very model, tokenizer, pipeline and suite."""

from __future__ import annotations

from qguard.encoders.tokenizer import types_of
from qguard.errors import GoldenProblem
from qguard.goldens.stored import Golden, update_command
from qguard.machine.versions import installed
from qguard.models.model import Model
from qguard.suites import Suite


def identity(model: Model, suite: Suite) -> dict[str, str]:
    """The hashes that must be equal for a golden to apply."""
    return {
        "weights": model.weight_sha256,
        "tokenizer": model.tokenizer_sha256,
        "pipeline": model.pipeline.sha256(),
        "suite": suite.sha256,
    }


def check(golden: Golden, model: Model, suite: Suite) -> None:
    """A golden must be of this very model, tokenizer, pipeline and suite.

    Raises:
        GoldenProblem: naming every part that differs, and the option that accepts it.
    """
    want, have = identity(model, suite), golden.manifest["hashes"]
    differs = [k for k in want if want[k] != have[k]]
    if differs:
        kind = "foreign: it was recorded for another model" if "weights" in differs else "stale"
        changed = {"tokenizer", "suite"} & set(differs) == {"tokenizer"} and tokenizer_change(golden, model, golden.judged(suite))
        flags = "".join(f" --accept-change {k}" for k in differs if k != "suite")
        raise GoldenProblem(
            f"golden {model.name}/{suite.name} is {kind}; {', '.join(differs)} differ "
            f"({', '.join(f'{k} {have[k][:8]} → {want[k][:8]}' for k in differs)}). "
            + (f"{changed}. " if changed else "")
            + f"If the change is intended: {update_command(model.name, suite.name)}{flags}"
        )


def tokenizer_change(golden: Golden, model: Model, suite: Suite) -> str:
    """What the model's own tokenizer gives today that the golden does not hold; empty where nothing.

    Args:
        golden: Of this very suite.
        model: Its tokenizer is asked, never an artifact's.
        suite: The texts that it holds vectors of.
    """
    from qguard.goldens.tokens import live_token_ids, token_change

    change = token_change(golden.token_ids, live_token_ids(model, suite, golden), model)
    if not change:
        return ""
    then = golden.manifest.get("versions", {})
    names = [n for n in ("tokenizers", "transformers", "sentence-transformers") if n in then]
    now = installed(*names)
    moved = ", ".join(f"{n} {then[n]} → {now[n]}" for n in names if then[n] != now[n])
    return f"the tokenizer changed: {change}; {moved or 'its files changed, no version did'}"


def compare_tokens(golden: Golden, suite: Suite, token_ids: list[list[int]], model: Model | None = None) -> None:
    """Token ids must equal the golden's before any vector is compared.

    Args:
        golden: What was recorded.
        suite: Its texts, without those that it leaves out.
        token_ids: The artifact's own.
        model: The fp32 model; its tokenizer tells an upgrade, which it shares, from an artifact's own mistake.

    Raises:
        GoldenProblem: with the first text that differs, and whose tokenizer it is.
    """
    wrong = [i for i, (a, b) in enumerate(zip(golden.token_ids, token_ids, strict=True)) if a != b]
    if wrong:
        i = wrong[0]
        a, b = golden.token_ids[i], token_ids[i]
        at = next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        change = tokenizer_change(golden, model, suite) if model else ""
        whose = (
            f"{change}. It is neither the quantization nor the artifact. Review the change, then record the golden again: "
            f"{update_command(model.name, suite.name)} --accept-change tokenizer"
            if change and model
            else "the artifact's tokenizer is not the model's (casing, accents, special tokens, length?)"
        )
        raise GoldenProblem(
            f"token ids differ from the golden's in {len(wrong)} of {len(token_ids)} texts: {whose}. "
            f"First: {suite.texts[i][:60]!r}, position {at}: "
            f"{b[at : at + 5]} against the golden's {a[at : at + 5]}; lengths {len(b)} and {len(a)}"
        )
    _compare_types(golden, suite, token_ids)


def _compare_types(golden: Golden, suite: Suite, token_ids: list[list[int]]) -> None:
    """As :func:`compare_tokens`, of the text of a pair that each token belongs to."""
    rows = list(zip(golden.token_ids, token_ids, strict=True))
    wrong = [i for i, (a, b) in enumerate(rows) if types_of(a) != types_of(b)]
    if wrong:
        a, b = rows[wrong[0]]
        raise GoldenProblem(
            f"token type ids differ from the golden's in {len(wrong)} of {len(rows)} pairs: which text of a pair a token "
            f"belongs to. First: {suite.texts[wrong[0]][:60]!r}: {types_of(b)} against the golden's {types_of(a)}. Copy "
            "tokenizer.json and config.json of the model into the artifact"
        )
