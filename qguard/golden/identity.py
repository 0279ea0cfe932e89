"""Whether a golden is of this very model, tokenizer, pipeline and suite."""

from __future__ import annotations

from qguard.errors import GoldenProblem
from qguard.golden.stored import Golden, update_command
from qguard.models import Model
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
        GoldenProblem: naming every part that differs.
    """
    want, have = identity(model, suite), golden.manifest["hashes"]
    differs = [k for k in want if want[k] != have[k]]
    if differs:
        kind = "foreign: it was recorded for another model" if "weights" in differs else "stale"
        raise GoldenProblem(
            f"golden {model.name}/{suite.name} is {kind}; {', '.join(differs)} differ "
            f"({', '.join(f'{k} {have[k][:8]} → {want[k][:8]}' for k in differs)}). "
            f"If the change is intended: {update_command(model.name, suite.name)}"
        )


def compare_tokens(golden: Golden, suite: Suite, token_ids: list[list[int]]) -> None:
    """Token ids must equal the golden's before any vector is compared.

    Raises:
        GoldenProblem: with the first text that differs.
    """
    wrong = [i for i, (a, b) in enumerate(zip(golden.token_ids, token_ids, strict=True)) if a != b]
    if wrong:
        i = wrong[0]
        a, b = golden.token_ids[i], token_ids[i]
        at = next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        raise GoldenProblem(
            f"token ids differ from the golden's in {len(wrong)} of {len(token_ids)} texts: the artifact's tokenizer is not the "
            f"model's (casing, accents, special tokens, length?). First: {suite.texts[i][:60]!r}, position {at}: "
            f"{b[at : at + 5]} against the golden's {a[at : at + 5]}; lengths {len(b)} and {len(a)}"
        )
