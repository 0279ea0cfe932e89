"""Where JavaScript is found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qguard.javascript.packages import NODE_MODULES


@dataclass(frozen=True)
class JavaScript:
    """The programs and packages that run JavaScript.

    Attributes:
        modules: The folder ``node_modules``.
        node: Node.js, its name or path.
        browser: Chromium or Chrome, its name or path; empty for the first one that is found.
        close: Whether texts that are cut get back the closing token that Transformers.js cuts off them.
        timeout: Seconds that one answer may take.
    """

    modules: Path = Path(NODE_MODULES)
    node: str = "node"
    browser: str = ""
    close: bool = False
    timeout: float = 600.0

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "modules": str(self.modules)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> JavaScript:
        """What :meth:`to_json` gave."""
        return cls(**{**values, "modules": Path(values["modules"])})
