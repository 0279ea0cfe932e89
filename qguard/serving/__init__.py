"""A reference server for tests and demos: one model, ONNX Runtime through qguard's own encoders, several protocols.

Each request is computed by itself, so that no vector depends on another client's texts. What a request asks is heeded or refused.
"""

from __future__ import annotations

from importlib.util import find_spec

from qguard.errors import UsageProblem


def need_extra() -> None:
    """The server's libraries are installed.

    Raises:
        UsageProblem: where they are not.
    """
    missing = [name for name in ("starlette", "uvicorn") if find_spec(name) is None]
    if missing:
        raise UsageProblem(f"the server needs {' and '.join(missing)}; install them: pip install 'qguard[serve]'")
