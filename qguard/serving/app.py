"""The ASGI application: reads requests within bounds, computes them in threads, and tells refusals as their protocols do."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from qguard.console.visible import say
from qguard.errors import QguardError, first_line
from qguard.machine.cpu import cores
from qguard.serving.fields import Fields, parse
from qguard.serving.model import ServedModel
from qguard.serving.protocols import Protocol
from qguard.serving.protocols.cohere import COHERE
from qguard.serving.protocols.ollama import OLLAMA
from qguard.serving.protocols.openai import OPENAI
from qguard.serving.protocols.tei import TEI
from qguard.serving.refusal import BUSY, FAILED, NO_METHOD, NO_PATH, SLOW, TOO_LARGE, Refusal

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

# On a path that several have, a request is of the first one whose mark it bears, or that needs none
PROTOCOLS: tuple[Protocol, ...] = (OPENAI, COHERE, TEI, OLLAMA)
BODY = 8 * 2**20  # bytes of a request
WAITING = 128  # requests that are read, wait or are computed
SECONDS = 30.0  # until a request must have come as a whole


class Service:
    """All protocols over one model.

    Args:
        model: What is served.
        waiting: Requests at a time; further ones are refused.
        body: Bytes of a request at most.
        seconds: In which a request must have come as a whole.
    """

    def __init__(self, model: ServedModel, waiting: int = WAITING, body: int = BODY, seconds: float = SECONDS) -> None:
        self._model, self._most, self._body, self._seconds = model, waiting, body, seconds
        self._now = 0
        self._threads = ThreadPoolExecutor(cores(), "serving")

    async def post(self, request: Request) -> Response:
        """Answer a POST."""
        serving = [p for p in PROTOCOLS if request.url.path in p.posts]
        protocol = serving[-1]
        try:
            with self._place():
                found = parse(await self._read(request))
                protocol = next((p for p in serving if not p.marked or p.marked in found), serving[0])
                call = protocol.posts[request.url.path]
                return await self._computed(lambda: call.answer(self._model, Fields(found, call.fields)))
        except Refusal as e:
            return _refused(protocol, e)

    async def get(self, request: Request) -> Response:
        """Answer a GET."""
        protocol = next(p for p in PROTOCOLS if request.url.path in p.gets)
        try:
            with self._place():
                return await self._computed(lambda: protocol.gets[request.url.path](self._model))
        except Refusal as e:
            return _refused(protocol, e)

    def close(self) -> None:
        """Let what is computed end, and forget what waits."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    @contextmanager
    def _place(self) -> Iterator[None]:
        if self._now >= self._most:
            raise Refusal(BUSY, f"{self._now} requests are being answered, and no more are taken; send this one again later")
        self._now += 1
        try:
            yield
        finally:
            self._now -= 1

    async def _read(self, request: Request) -> bytes:
        read = bytearray()
        try:
            async with asyncio.timeout(self._seconds):
                async for part in request.stream():
                    read += part
                    if len(read) > self._body:
                        raise Refusal(TOO_LARGE, f"expected a request of at most {self._body} bytes, found a larger one")
        except TimeoutError as e:
            raise Refusal(SLOW, f"expected the whole request within {self._seconds:g} seconds, found {len(read)} bytes") from e
        return bytes(read)

    async def _computed(self, answer: Any) -> Response:
        from starlette.responses import Response

        def whole() -> bytes:
            return json.dumps(answer(), allow_nan=False, separators=(",", ":")).encode()

        try:
            content = await asyncio.get_running_loop().run_in_executor(self._threads, whole)
        except Refusal:
            raise
        except Exception as e:
            said = str(e) if isinstance(e, QguardError) else first_line(e)
            say(f"a request failed: {said}", sys.stderr)
            raise Refusal(FAILED, f"the model could not compute this request: {said}") from e
        return Response(content, media_type="application/json")


def application(model: ServedModel, **bounds: Any) -> Starlette:
    """The ASGI application.

    Args:
        model: What is served.
        bounds: See :class:`Service`.
    """
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.routing import Route

    service = Service(model, **bounds)
    posts, gets = {path for p in PROTOCOLS for path in p.posts}, {path for p in PROTOCOLS for path in p.gets}

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        service.close()

    async def elsewhere(request: Request, error: Exception) -> Response:
        path, paths = request.url.path, sorted(posts | gets)
        known = path in posts | gets
        words = (
            f"{path[:200]} takes {'POST' if path in posts else 'GET'}"
            if known
            else f"no {path[:200]} here; there is {', '.join(paths)}"
        )
        protocol = next((p for p in PROTOCOLS if path in p.posts or path in p.gets), PROTOCOLS[0])
        return _refused(protocol, Refusal(NO_METHOD if known else NO_PATH, words))

    routes = [Route(path, service.post, methods=["POST"]) for path in sorted(posts)]
    routes += [Route(path, service.get, methods=["GET"]) for path in sorted(gets)]
    return Starlette(routes=routes, exception_handlers={HTTPException: elsewhere}, lifespan=lifespan)


def _refused(protocol: Protocol, refusal: Refusal) -> Response:
    from starlette.responses import JSONResponse

    return JSONResponse(dict(protocol.told(refusal)), protocol.code(refusal))
