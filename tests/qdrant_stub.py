"""A few of a Qdrant server's calls over HTTP. It records them, and answers searches exactly, or misses what a graph would miss.

It shows that the client is called as Qdrant's interface says. What a real server makes of the calls, it does not show.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np


class State:
    """What it holds, and how it answers."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.made: dict = {}
        self.points: dict[int, tuple[list[float], dict]] = {}
        self.held = np.zeros((0, 0))
        self.idle = False  # searches exactly whatever is asked
        self.indexed = True  # all vectors

    def answer(self, method: str, path: str, body: dict):
        name, _, rest = path.removeprefix("/collections/").partition("/")
        match method, rest:
            case "GET", "exists":
                return {"exists": bool(self.made)}
            case "PUT", "":
                self.made = body | {"name": name}
                return True
            case "PATCH", "":
                self.made["optimizers_config"] = body["optimizers_config"]
                return True
            case "DELETE", "":
                self.made, self.points = {}, {}
                return True
            case "PUT", "index":
                return {"operation_id": 1, "status": "completed"}
            case "PUT", "points":
                batch = body["batch"]
                self.points |= dict(zip(batch["ids"], zip(batch["vectors"], batch["payloads"], strict=True), strict=True))
                return {"operation_id": 1, "status": "completed"}
            case "POST", "points/count":
                return {"count": len(self.points)}
            case "POST", "points":
                return [{"id": i, "vector": self.points[i][0]} for i in body["ids"]]
            case "POST", "points/query/batch":
                return [{"points": self.search(asked)} for asked in body["searches"]]
            case "GET", "":
                return self.about()
        raise AssertionError(f"{method} {path}")

    def about(self) -> dict:
        config = {"m": 16, "ef_construct": 100, "full_scan_threshold": 10_000} | self.made.get("hnsw_config", {})
        on = self.made["optimizers_config"]["indexing_threshold"] > 0
        return {
            "status": "green", "optimizer_status": "ok", "segments_count": 1, "payload_schema": {},
            "points_count": len(self.points),
            "indexed_vectors_count": len(self.points) if on and self.indexed else 0,
            "config": {
                "params": {"vectors": self.made["vectors"]}, "hnsw_config": config,
                "optimizer_config": {
                    "deleted_threshold": 0.2, "vacuum_min_vector_number": 1000, "default_segment_number": 0,
                    "flush_interval_sec": 5,
                },
                "quantization_config": self.made.get("quantization_config"),
            },
        }  # fmt: skip

    def search(self, asked: dict) -> list[dict]:
        if len(self.held) != len(self.points):
            vectors = np.asarray([self.points[i][0] for i in sorted(self.points)])
            self.held = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        ids, query = np.asarray(sorted(self.points)), np.asarray(asked["query"]["nearest"])
        cosine = self.held @ (query / np.linalg.norm(query))
        if asked.get("filter"):
            (only,) = asked["filter"]["must"]
            met = np.asarray([self.points[i][1][only["key"]] < only["range"]["lt"] for i in ids])
            ids, cosine = ids[met], cosine[met]
        ef = asked["params"].get("hnsw_ef", 0)
        if not self.idle and not asked["params"].get("exact"):
            cosine = np.where(ids % (ef + 1) == 0, -1, cosine)  # a graph that is searched more widely misses less
        best = np.argsort(-cosine, kind="stable")[: asked["limit"]]
        return [{"id": int(ids[b]), "version": 0, "score": float(cosine[b])} for b in best]


@contextmanager
def server() -> Iterator[tuple[str, State]]:
    """Its address, and what it holds."""
    state = State()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            size = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(size) or b"{}")
            path = self.path.partition("?")[0]
            state.calls.append((self.command, self.path))
            found = (
                {"title": "qdrant - vector search engine", "version": "stub"}
                if path == "/"
                else {"result": state.answer(self.command, path, body), "status": "ok", "time": 0.0}
            )
            data = json.dumps(found).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _any  # noqa: N815

        def log_message(self, *args: object) -> None:
            """Nothing."""

    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.daemon_threads = True
    thread = threading.Thread(target=web.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{web.server_address[1]}", state
    finally:
        web.shutdown()
        web.server_close()
        thread.join()
