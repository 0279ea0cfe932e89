"""The settings that decide a verdict and are no gates: what they were when it was judged, and what they are now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from qguard.encoders.runtimes import RUNTIMES
from qguard.files import sha256_json
from qguard.judging import latency, load
from qguard.judging.robustness import replayed, tried
from qguard.vectors.quantized import SCALAR

if TYPE_CHECKING:
    from qguard.judging.session import Session
    from qguard.precisions import Precision

EXAMPLES = "robustness.examples"
# of a recipe: what its files are held against
_PROMISES = ("weights", "bits", "weight_error", "least_cosine", "integer", "granularity", "tables", "excluded")
_ENDPOINT = ("protocol", "model", "normalized", "prompts")
_MODEL = ("max_seq_length", "prompts", "pooling", "normalize", "inputs", "output", "kind", "threshold")


def settings_in_force(session: Session, precision: Precision, model: str) -> dict[str, Any]:
    """Every setting that decides a verdict of this precision, but for gates, texts and golden, which have hashes of their own.

    Args:
        session: Its configuration is asked, nothing is measured.
        precision: What is judged.
        model: The name of the model that it is of.

    Returns:
        Key, as the configuration has it → JSON value, sorted. A setting that this precision does not have is left out.

    Raises:
        QguardError: when the texts that are tried first cannot be read.
    """
    config, recipe = session.config, precision.recipe
    own = config.models[model].settings
    found: dict[str, Any] = {
        "device": RUNTIMES[precision.runtime].device(config.device),
        "recipe": {name: getattr(recipe, name) for name in _PROMISES} | {"excluded": list(recipe.excluded)},
        "model": {name: own.get(name) for name in _MODEL},
    }
    timed = bool(latency.buckets(session, precision, model))
    if precision.endpoint is not None:
        found["endpoint"] = {name: getattr(precision.endpoint, name) for name in _ENDPOINT}
        found["service.skip"] = sorted(config.service.skip)
        if timed and (asked := load.settings_of(session, precision)) is not None:
            found["endpoint"]["load"] = asked.sent
    if precision.runs_in.whole:  # it tokenizes texts in JavaScript
        found["javascript.close"] = config.javascript.close
    if timed and precision.endpoint is None:
        found["latency.threads"] = config.latency.threads
    if tried(session, precision) and config.robustness.mode == "gate":
        found[EXAMPLES], found["robustness.seed"] = config.robustness.examples, config.robustness.seed
        found["robustness.replay"] = sha256_json(replayed(session))
    if precision.vectors in SCALAR:
        found["vectors.calibration"] = config.vectors.calibration
    if recipe.calibrated:
        found["precision.overlap"] = precision.calibration.overlap if precision.calibration else "refuse"
    return dict(sorted(found.items()))


def changed(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Settings under which an artifact could pass that does not pass now: key, value now, and value then (``None`` without).

    More examples than now are no reason: they include fewer.
    """
    for key, value in now.items():
        was = then.get(key)
        more = key == EXAMPLES and type(was) is int and was >= value
        if was != value and not more:
            yield key, value, was
