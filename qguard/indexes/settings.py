"""What an index is: its store, its type and parameters, and how it is searched. Never a secret: those are in the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from qguard.errors import UsageProblem
from qguard.vectors.similarity import COSINE, DOT, SIMILARITIES

K = 10  # hits of a query that recall and overlap look at
FLOAT32, FLOAT16, BFLOAT16, INT8, BINARY = VECTORS = ("float32", "float16", "bfloat16", "int8", "binary")
STATED = (FLOAT32, FLOAT16, BFLOAT16)  # the others are made of a precision such as int8+binary
HAMMING = "hamming"
EUCLIDEAN = SIMILARITIES["euclidean"].name
METRICS = (COSINE.name, DOT.name, EUCLIDEAN, HAMMING)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
Parameters = Mapping[str, int | float | str | bool]


@dataclass(frozen=True)
class Index:
    """One index of a store.

    Attributes:
        name: Its name in the configuration.
        store: A name in :data:`qguard.indexes.stores.STORES`.
        type: Its type, as the store names it, in capitals.
        uri: Where the store is: a file or folder, or the address of a server; empty for a temporary place.
        token: The environment variable that holds a token or password; empty for none.
        metric: One of :data:`METRICS`; empty for what the vectors are ranked by.
        params: Of the build.
        search: Of each search.
        vectors: One of :data:`STATED`: how float32 vectors are stored.
        filters: Shares of the rows that filters meet, in (0, 1).
        k: Hits asked for, at least :data:`K`.
        existing: The collection is there already, and is only read; ``vectors`` says how it keeps them.
        collection: Its name.
        id_field: Of it the field that holds the documents' ids.
        vector_field: Of it the field that holds the vectors.
    """

    name: str
    store: str
    type: str
    uri: str = ""
    token: str = ""
    metric: str = ""
    params: Parameters = field(default_factory=dict)
    search: Parameters = field(default_factory=dict)
    vectors: str = FLOAT32
    filters: tuple[float, ...] = (0.1, 0.01, 0.001)
    k: int = K
    existing: bool = False
    collection: str = ""
    id_field: str = "id"
    vector_field: str = "vector"

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def secret(self) -> str:
        """The token or password; empty where none is named.

        Raises:
            UsageProblem: when its variable is not set.
        """
        if not self.token:
            return ""
        value = os.environ.get(self.token, "").strip()
        if not value:
            raise UsageProblem(
                f"index {self.name!r}: its token is read from the environment variable {self.token}, which is not set or empty; "
                f"set it: export {self.token}=…"
            )
        return value

    @property
    def words(self) -> str:
        """Type and parameters in one line, as ``HNSW M=16, ef=64``."""
        return " ".join([self.type, ", ".join(f"{k}={v}" for k, v in {**self.params, **self.search}.items())]).strip()

    def to_json(self) -> dict[str, Any]:
        """What reports say of the settings: no secret, no path and no address."""
        return {
            "store": self.store, "type": self.type, "metric": self.metric, "params": dict(self.params),
            "search": dict(self.search), "vectors": self.vectors, "k": self.k, "existing": self.existing,
        }  # fmt: skip


def check_uri(uri: str) -> None:
    """An address holds no password.

    Raises:
        UsageProblem: for one that does. The message does not show it.
    """
    if "://" not in uri:
        return
    try:
        secret = urlsplit(uri).password is not None or bool(urlsplit(uri).query)
    except ValueError as e:
        raise UsageProblem(f"the address of a store cannot be read: {e}; expected for example http://localhost:19530") from None
    if secret:
        raise UsageProblem(
            "the address of a store holds a password or a query, which may hold one; remove it, and name the environment "
            'variable that holds the secret: token = "MY_VARIABLE"'
        )


def check_token(variable: str) -> None:
    """The name of an environment variable.

    Raises:
        UsageProblem: for another text, which may be the secret itself and is not shown.
    """
    if variable and not _VARIABLE.fullmatch(variable):
        raise UsageProblem(
            "token: expected the name of the environment variable that holds the value, such as MY_VARIABLE; found something "
            "else, which is not shown because it may be the secret itself"
        )


def check_name(name: str) -> None:
    """A name of a field or collection that every store can have.

    Raises:
        UsageProblem: for another one.
    """
    if name and not _NAME.fullmatch(name):
        raise UsageProblem(f"expected letters, digits and underscores, found {name!r}")
