"""Faults of the pipeline around the transformer: modules, lengths and prompts, as the artifact declares them."""

from __future__ import annotations

import json
from typing import Any

from qguard.encoders.runtimes import GGUF
from qguard.faults.site import Candidate, FaultSite, NotApplicable
from qguard.files import dump_json
from qguard.kinds import DENSE
from qguard.models.modules import Dense


def _modules(site: FaultSite) -> list[dict[str, Any]]:
    path = site.folder / "modules.json"
    if not path.exists():
        raise NotApplicable("the artifact declares no modules")
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _without(site: FaultSite, kind: str) -> Candidate:
    modules = [m for m in _modules(site) if not str(m.get("type", "")).endswith(kind)]
    (site.folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    return site.sealed()


def pooling(site: FaultSite, mode: str) -> Candidate:
    """Declare another pooling.

    Args:
        site: Where.
        mode: One of :data:`qguard.models.pipeline.POOLING_MODES`; where it is the model's own, the mean.
    """
    site.need(DENSE)
    if site.artifact.kind == GGUF:
        raise NotApplicable("llama.cpp pools as the GGUF file says; one that says another pooling is refused before it is judged")
    own = site.base.pipeline.pooling
    mode = "mean" if own == (mode,) else mode
    if len(own) != 1 or own == (mode,):
        raise NotApplicable("several poolings are concatenated" if own else "no one pooling holds for every text")
    place = next((str(m["path"]) for m in _modules(site) if str(m.get("type", "")).endswith("Pooling")), "")
    if not place:
        raise NotApplicable("the artifact declares no pooling")
    path, old = site.config(f"{place}/config.json")
    path.parent.mkdir(exist_ok=True)
    kept = {k: v for k, v in old.items() if not k.startswith("pooling_mode")}
    path.write_bytes(dump_json({**kept, "pooling_mode": mode}))
    return site.sealed()


def normalize(site: FaultSite, _: None) -> Candidate:
    """Leave out the last module."""
    if not (site.base.pipeline.unit_length or site.base.pipeline.normalizes_tokens):
        raise NotApplicable("the model does not normalize what it gives")
    return _without(site, "Normalize")


def dense(site: FaultSite, _: None) -> Candidate:
    """Leave out the Dense heads."""
    if not any(isinstance(module, Dense) for module in site.base.pipeline.head):
        raise NotApplicable("the model has no Dense head")
    return _without(site, "Dense")


def length(site: FaultSite, share: float) -> Candidate:
    """Cut texts.

    Args:
        site: Where.
        share: What is left of the suites' longest text; 0: all but one token.
    """
    if site.base.static:
        raise NotApplicable("a static model reads texts of any length")
    if "max_seq_length" in site.base.settings:
        raise NotApplicable("the project sets max_seq_length itself, over what the artifact declares")
    longest = max(len(row) for s in site.suites for row in site.session.golden(site.model, s).token_ids)
    inner = site.base.pipeline.transformer
    path, old = site.config(f"{inner}/sentence_bert_config.json" if inner else "sentence_bert_config.json")
    path.write_bytes(dump_json({**old, "max_seq_length": max(3, int(longest * share)) if share else longest - 1}))
    return site.sealed()


def no_prompts(site: FaultSite, _: None) -> Candidate:
    """Declare no prompts."""
    if not any(site.base.pipeline.prefix(role) for role in ("query", "document", None)):
        raise NotApplicable("the model has no prompts")
    return prompt(site, "")


def prompt(site: FaultSite, text: str) -> Candidate:
    """Declare a default prompt, and no other.

    Args:
        site: Where.
        text: The prompt; empty for none.
    """
    if "prompts" in site.base.settings:
        raise NotApplicable("the project sets the prompts itself, over what the artifact declares")
    path, old = site.config("config_sentence_transformers.json")
    given: dict[str, Any] = (
        {"prompts": {"fault": text}, "default_prompt_name": "fault"} if text else {"prompts": {}, "default_prompt_name": None}
    )
    path.write_bytes(dump_json({**old, **given}))
    return site.sealed()
