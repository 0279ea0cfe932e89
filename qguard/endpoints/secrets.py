"""Values of headers that are secrets: read from the environment, sent, and hidden wherever somebody reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

from qguard.endpoints.settings import Endpoint
from qguard.errors import UsageProblem

_LEAST = 4  # letters: a shorter part of a value, such as a scheme's name, would hide ordinary words
_SCHEMES = ("bearer", "basic", "token", "apikey", "negotiate", "digest")


@dataclass(frozen=True)
class Secrets:
    """What must not be shown.

    Attributes:
        headers: Header → its value.
        values: All that is hidden in texts: values, their parts, and the query of the URL.
    """

    headers: Mapping[str, str] = field(repr=False)
    values: tuple[str, ...] = field(repr=False)

    @classmethod
    def read(cls, endpoint: Endpoint, environ: Mapping[str, str]) -> Secrets:
        """Of an endpoint.

        Raises:
            UsageProblem: for a variable that is not set, is empty, or holds what no header can; its value is not shown.
        """
        headers = {}
        for header, variable in endpoint.headers:
            value = environ.get(variable, "").strip()
            if not value:
                raise UsageProblem(
                    f"endpoint {endpoint.name!r}: header {header} is read from the environment variable {variable}, which is not "
                    f"set or empty; set it: export {variable}=…"
                )
            if not (value.isascii() and value.isprintable()):
                raise UsageProblem(
                    f"endpoint {endpoint.name!r}: the environment variable {variable} of header {header} holds characters that "
                    "no header can have"
                )
            headers[header] = value
        query = [part.partition("=")[2] for part in urlsplit(endpoint.url).query.split("&")]
        parts = {p for v in (*headers.values(), *query) for p in (v, *v.split(), *v.split(":"))}
        kept = {p for p in parts if len(p) >= _LEAST and p.lower() not in _SCHEMES}
        every = {form for p in kept for form in (p, json.dumps(p)[1:-1], quote(p, safe=""))}
        return cls(headers, tuple(sorted(every, key=lambda p: (-len(p), p))))

    def hidden(self, text: str) -> str:
        """A text without the secrets in it."""
        for value in self.values:
            text = text.replace(value, "…")
        return text
