"""Queries and documents through modules of their own."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qguard.errors import ModelProblem
from qguard.files import inside, read_json
from qguard.models.modules.base import ROWS, Features, Module, Weights

# an input without a role, a query, a document: what sentence-transformers' encode, encode_query and encode_document ask for
ASKED = (None, "query", "document")
_CONFIG = ("router_config.json", "config.json")  # today's name, and that of Asym


@dataclass(frozen=True)
class Routes:
    """What a Router declares.

    Attributes:
        modules: Route → its modules in order, each as (last part of its type, folder).
        roles: Role, or ``None`` for an input without one → route.
    """

    modules: Mapping[str, tuple[tuple[str, str], ...]]
    roles: Mapping[str | None, str]

    @classmethod
    def read(cls, folder: Path, path: str) -> Routes:
        """As sentence-transformers resolves them for texts.

        Raises:
            ModelProblem: for a damaged declaration, or where a text of some role has no route.
        """
        place = inside(folder, path)
        file = next((place / name for name in _CONFIG if (place / name).exists()), place / _CONFIG[0])
        config = read_json(file, ModelProblem)
        types, structure, parameters = (config.get(key, {}) for key in ("types", "structure", "parameters"))
        try:
            modules = {
                route: tuple((str(types[name]).rpartition(".")[2], f"{path}/{name}" if path else name) for name in names)
                for route, names in structure.items()
            }
            mapped = {ast.literal_eval(key): str(route) for key, route in (parameters.get("route_mappings") or {}).items()}
            default = parameters.get("default_route")
            if default is None and parameters.get("allow_empty_key", True):
                default = next(iter(modules))
            if not all(modules.values()) or not {default, *mapped.values()} <= {None, *modules}:
                raise ValueError("a route without modules, or one that is not declared")
        except (KeyError, TypeError, ValueError, AttributeError, SyntaxError, StopIteration) as e:
            raise ModelProblem(f"{path or folder.name}/{file.name} declares no routes that can be followed ({e!r})") from e
        roles = {}
        for role in ASKED:
            keys = ((role, "text"), (role, None), (None, "text"), (None, None))
            route = next((mapped[key] for key in keys if key in mapped), None)
            route = route or next((name for name in (role, "text") if name in modules), default if role is None else None)
            if route is None:
                whose = f"a {role}" if role else "a text that is neither query nor document"
                example = f'"route_mappings": {{"({role!r}, None)": "{next(iter(modules))}"}}'
                raise ModelProblem(
                    f"{path or folder.name}/{file.name} has no route for {whose}, but {', '.join(modules)}; say which it takes "
                    f"in its parameters: {example}"
                )
            roles[role] = route
        return cls({route: found for route, found in modules.items() if route in roles.values()}, roles)


@dataclass(frozen=True)
class Router(Module):
    """Modules by the role of a text.

    Attributes:
        routes: Route → its modules, in order.
        roles: Role, or ``None`` for a text without one → route.
    """

    routes: tuple[tuple[str, tuple[Module, ...]], ...] = ()
    roles: tuple[tuple[str | None, str], ...] = ()

    @classmethod
    def read(cls, folder: Path, path: str) -> Router:
        """See :meth:`Module.read`."""
        return cls.of(folder, path, Routes.read(folder, path))

    @classmethod
    def of(cls, folder: Path, path: str, declared: Routes, skip: int = 0) -> Router:
        """The router of what is declared, without the first ``skip`` modules of each route."""
        from qguard.models.modules import read_modules

        routes = tuple((route, read_modules(folder, modules[skip:])) for route, modules in declared.modules.items())
        return cls(path, routes, tuple(declared.roles.items()))

    @property
    def parts(self) -> Iterator[Module]:
        """The modules of all routes; one that stands in several comes once."""
        found = (part for _, modules in self.routes for module in modules for part in module.parts)
        return iter(dict.fromkeys(found))

    def after(self, there: frozenset[str]) -> frozenset[str]:
        """What every route gives."""
        ends = []
        for _, modules in self.routes:
            end = there
            for module in modules:
                end = module.after(end)
            ends.append(end)
        return frozenset.intersection(*ends)

    def declared(self) -> dict[str, Any]:
        """See :meth:`Module.declared`."""
        routes = {route: [m.declared() for m in modules] for route, modules in self.routes}
        return {"type": "Router", "path": self.path, "routes": routes, "roles": [list(pair) for pair in self.roles]}

    def __call__(self, features: Features, weights: Weights) -> None:
        """See :meth:`Module.__call__`; without rows, no text has a role.

        Raises:
            ModelProblem: where routes give vectors of different dimensions.
        """
        import numpy as np

        rows, roles = features[ROWS], dict(self.roles)
        n = len(next(v for k, v in features.items() if k != ROWS))
        taken = [roles[row.role if rows is not None else None] for row in rows or [None] * n]
        found: dict[str, Any] = {}
        for route, modules in self.routes:
            at = [i for i, name in enumerate(taken) if name == route]
            if not at:
                continue
            part = {k: v[at] for k, v in features.items() if k != ROWS} | {ROWS: rows and [rows[i] for i in at]}
            for module in modules:
                module(part, weights)
            for name, value in part.items():
                if name == ROWS:
                    continue
                whole = found.setdefault(name, np.zeros((n, *value.shape[1:]), value.dtype))
                if whole.shape[1:] != value.shape[1:]:
                    widths = f"{whole.shape[-1]} and {value.shape[-1]}"
                    raise ModelProblem(f"the Router's routes give {name} of {widths} dimensions, which cannot be compared")
                whole[at] = value
        features.update(found)
