"""Servers that break exactly one thing: each is the reference server behind :class:`tests.servers.Around`.

They speak OpenAI's protocol, but for those of :data:`OF_TEI`, which speak TEI's.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.servers import Around, Ask

Change = Callable[[Ask, dict[str, Any]], Awaitable[tuple[int, Any]]]


@dataclass(frozen=True)
class Broken:
    """One fault.

    Attributes:
        metric: The one that has to fail.
        reason: A regular expression of the words that name what the server did.
        change: Makes the fault, anew for each server.
        kind: The model that shows it: ``dense``, or ``exact`` for one whose tokenizer tells whitespace and case.
    """

    metric: str
    reason: str
    change: Callable[[], Change]
    kind: str = "dense"

    def around(self, app: Any) -> Any:
        """The application with the fault."""
        return Around(app, self.change())


def rows(answer: Any) -> list[Any]:
    """The vectors of an answer, as arrays."""
    return [
        np.frombuffer(base64.b64decode(d["embedding"]), "<f4") if isinstance(d["embedding"], str) else np.float32(d["embedding"])
        for d in answer["data"]
    ]


def put(answer: Any, vectors: Any, code: str = "<f4") -> Any:
    """The answer with other vectors, coded as before."""
    for item, vector in zip(answer["data"], vectors, strict=True):
        coded = isinstance(item["embedding"], str)
        item["embedding"] = (
            base64.b64encode(np.asarray(vector, code).tobytes()).decode() if coded else np.asarray(vector).tolist()
        )
    return answer


def answers(edit: Callable[[Any, dict[str, Any]], Any]) -> Callable[[], Change]:
    """A fault of answers: what is edited are those of status 200."""

    async def change(ask: Ask, request: dict[str, Any]) -> tuple[int, Any]:
        status, answer = await ask(request)
        return (status, edit(answer, request)) if status == 200 else (status, answer)

    return lambda: change


def requests(edit: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[], Change]:
    """A fault of what the server makes of a request."""

    async def change(ask: Ask, request: dict[str, Any]) -> tuple[int, Any]:
        return await ask(edit(request))

    return lambda: change


def texts(edit: Callable[[str], str]) -> Callable[[], Change]:
    """A fault of what the server makes of each text."""

    def of(found: Any) -> Any:
        return [of(f) for f in found] if isinstance(found, list) else edit(found) if isinstance(found, str) else found

    return requests(lambda request: request | {"input": of(request.get("input"))})


def instead(holds: Callable[[Any], bool], status: int, answer: Any) -> Callable[[], Change]:
    """Another answer to requests whose input is of a kind."""

    async def change(ask: Ask, request: dict[str, Any]) -> tuple[int, Any]:
        return (status, answer) if holds(request.get("input")) else await ask(request)

    return lambda: change


def of_text(holds: Callable[[str], bool]) -> Callable[[Any], bool]:
    """Whether one text of the input is of a kind."""
    return lambda found: any(isinstance(t, str) and holds(t) for t in (found if isinstance(found, list) else [found]))


def _without(name: str) -> Callable[[], Change]:
    return requests(lambda request: {k: v for k, v in request.items() if k != name})


def _edited(**values: Any) -> Callable[[], Change]:
    return answers(lambda answer, _: answer | values)


def _noise(scale: float) -> Any:
    return np.random.default_rng(7).normal(0, scale, 32).astype(np.float32)


def _unit(vector: Any) -> Any:
    return vector / np.linalg.norm(vector)


def _swapped(answer: Any, _: Any) -> Any:
    found = rows(answer)
    return put(answer, found[1:] + found[:1])


def _index(change: Callable[[int], int | None]) -> Callable[[], Change]:
    def edit(answer: Any, _: Any) -> Any:
        for item in answer["data"]:
            item["index"] = change(item["index"])
        return answer

    return answers(edit)


def _base64(code: str) -> Callable[[], Change]:
    def edit(answer: Any, request: Any) -> Any:
        return put(answer, rows(answer), code) if request.get("encoding_format") == "base64" else answer

    return answers(edit)


def _mixed(answer: Any, _: Any) -> Any:
    found = rows(answer)
    mean = np.mean(found, axis=0)
    return put(answer, [_unit(0.9 * v + 0.1 * mean) for v in found]) if len(found) > 1 else answer


def _coalescing() -> Change:
    """Vectors depend on what other clients ask at the same time."""
    asked: list[str] = []

    async def change(ask: Ask, request: dict[str, Any]) -> tuple[int, Any]:
        found = request.get("input")
        own = found if isinstance(found, list) else [found]
        asked.extend(map(str, own))
        try:
            await asyncio.sleep(0.005)  # as servers wait for others, to fill a batch
            strangers = len(asked) > len(own)
            status, answer = await ask(request)
        finally:
            for text in own:
                asked.remove(str(text))
        return status, put(answer, [_unit(v + _noise(0.05)) for v in rows(answer)]) if strangers and status == 200 else answer

    return change


def _hanging(holds: Callable[[Any], bool]) -> Callable[[], Change]:
    async def change(ask: Ask, request: dict[str, Any]) -> tuple[int, Any]:
        if holds(request.get("input")):
            await asyncio.sleep(3600)
        return await ask(request)

    return lambda: change


def _counted(change: Callable[[int, int], int]) -> Callable[[], Change]:
    def edit(answer: Any, request: Any) -> Any:
        usage, n = answer["usage"], len(request["input"]) if isinstance(request["input"], list) else 1
        answer["usage"] = {name: change(count, n) for name, count in usage.items()}
        return answer

    return answers(edit)


def _words(keep: slice) -> Callable[[str], str]:
    return lambda text: " ".join(text.split(" ")[keep])


def _model(request: dict[str, Any]) -> dict[str, Any]:
    return request | {"model": "tiny"}


HTML = b"<html><body>Bad gateway</body></html>"
EMPTY, HUGE = of_text(lambda t: t == ""), of_text(lambda t: len(t) > 100_000)
ODD = of_text(lambda t: "\0" in t)

BROKEN: dict[str, Broken] = {
    "another model is named": Broken("service.model", "names the model 'other'", _edited(model="other")),
    "a value is lost": Broken(
        "service.dimension", "31 values, and fp32's have 32", answers(lambda a, _: put(a, [v[:-1] for v in rows(a)]))
    ),
    "vectors are twice as long": Broken("service.norm", "length", answers(lambda a, _: put(a, [2 * v for v in rows(a)]))),
    "results in another order": Broken("service.order", "another text", answers(_swapped)),
    "an index twice": Broken("service.index", "index 0 of results stands there twice", _index(lambda i: max(0, i - 1))),
    "an index is missing": Broken("service.index", "expected its 'index'", _index(lambda i: None if i == 1 else i)),
    "base64 of big-endian numbers": Broken("service.base64", "base64", _base64(">f4")),
    "base64 of half precision": Broken("service.base64", "base64", _base64("<f2")),
    "vectors depend on their batch": Broken("service.alone_vs_batch", "in a request of", answers(_mixed)),
    "vectors depend on other clients": Broken("service.concurrent", "other clients", _coalescing),
    "cut at a shorter length": Broken("service.truncation", "42 tokens", texts(_words(slice(40)))),
    "cut on the left": Broken("service.truncation_side", "end", texts(_words(slice(-40, None)))),
    "a prompt of its own": Broken("service.prompt", "'when: '", texts(lambda t: "when: " + t)),
    "outer whitespace is stripped": Broken("service.whitespace", "outer whitespace", texts(str.strip), "exact"),
    "texts are lower-cased": Broken("service.case", "lower", texts(str.lower), "exact"),
    "an empty text breaks it": Broken("service.empty", "500", instead(EMPTY, 500, {"error": {"message": "boom"}})),
    "an empty text hangs": Broken("service.empty", "no whole answer", _hanging(lambda t: t == [""])),
    "a huge text ends the connection": Broken("service.huge", "no answer", instead(HUGE, 0, None)),
    "an odd text gives a page": Broken("service.odd", "502", instead(ODD, 502, HTML)),
    "a list of nothing breaks it": Broken("service.empty", "no text: status 500", instead(lambda t: t == [], 500, "x")),
    "dimensions are ignored": Broken("service.dimensions", "ignored", _without("dimensions")),
    "encoding_format is ignored": Broken("service.encoding_format", "ignored", _without("encoding_format")),
    "any model is served": Broken("service.unknown_model", "served", requests(_model)),
    "tokens without special ones": Broken("service.usage", "without special", _counted(lambda count, n: count - 2 * n)),
    "tokens counted twice": Broken("service.usage", "tokens", _counted(lambda count, n: 2 * count)),
}  # fmt: skip


def _shifted(answer: Any, _: Any) -> Any:
    """Scores of a reranker with the index of another text."""
    return [item | {"index": (item["index"] + 1) % len(answer)} for item in answer]


def _rolled(answer: Any, _: Any) -> Any:
    return answer[1:] + answer[:1]


OF_TEI: dict[str, Broken] = {
    "scores of other texts": Broken("service.order", "another text", answers(_shifted), "cross-encoder"),
    "a score is missing": Broken("service.index", "expected 2 results", answers(lambda a, _: a[:1]), "cross-encoder"),
    "weights of other texts": Broken("service.order", "another text", answers(_rolled), "sparse"),
}


def moved(scale: float = 0.02) -> Callable[[Any], Any]:
    """Another model around an application: every vector is moved alike."""
    change = answers(lambda answer, _: put(answer, [_unit(v + _noise(scale)) for v in rows(answer)]))
    return lambda app: Around(app, change())


def _turned(answer: Any, _: Any) -> Any:
    return answer | {"data": answer["data"][::-1]}


def _refusing(holds: Callable[[dict[str, Any]], bool], message: str) -> Callable[[], Change]:
    async def change(ask: Ask, request: dict[str, Any]) -> tuple[int, Any]:
        return (422, {"detail": [{"msg": message}]}) if holds(request) else await ask(request)

    return lambda: change


def _unusual(request: dict[str, Any]) -> bool:
    """Long texts, base64 and fewer dimensions."""
    long = of_text(lambda t: len(t.split(" ")) > 62 or len(t) > 9000)(request.get("input"))
    return long or request.get("encoding_format", "float") != "float" or "dimensions" in request


HEALTHY: dict[str, Broken] = {
    "in another order": Broken("", "", answers(_turned)),
    "refuses what it does not do": Broken("", "", _refusing(_unusual, "not permitted")),
}
