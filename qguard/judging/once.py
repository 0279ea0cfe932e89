"""Values that a session makes once: typed, and kept beside the function that makes them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial, update_wrapper
from typing import Concatenate, Generic, ParamSpec, TypeVar, overload
from weakref import WeakKeyDictionary

S = TypeVar("S")
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class _Made(Generic[T]):
    value: T


class once(Generic[S, P, T]):  # noqa: N801 - used as a decorator
    """Calls a function of a session once for each combination of arguments, and gives the same result, or error, from then on.

    A failed build is not tried again by every test. What is kept goes with the session.

    Args:
        make: A method of the session, or a function whose first argument is one; the other arguments are hashable.
    """

    def __init__(self, make: Callable[Concatenate[S, P], T]) -> None:
        self._make = make
        self._kept: WeakKeyDictionary[S, dict[Hashable, _Made[T] | Exception]] = WeakKeyDictionary()
        update_wrapper(self, make)

    def __call__(self, session: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        """What was made of these arguments, now or before."""
        kept = self._kept.setdefault(session, {})
        key = _key(*args, **kwargs)
        if key not in kept:
            try:
                kept[key] = _Made(self._make(session, *args, **kwargs))
            except Exception as e:
                kept[key] = e
        found = kept[key]
        if isinstance(found, Exception):
            raise found
        return found.value

    @overload
    def __get__(self, session: None, owner: type[S]) -> once[S, P, T]: ...
    @overload
    def __get__(self, session: S, owner: type[S]) -> Callable[P, T]: ...
    def __get__(self, session: S | None, owner: type[S]) -> once[S, P, T] | Callable[P, T]:
        return self if session is None else partial(self.__call__, session)

    def share(self, source: S, target: S) -> None:
        """Let ``target`` take over what ``source`` has made; errors it finds by itself."""
        made = {k: v for k, v in self._kept.get(source, {}).items() if isinstance(v, _Made)}
        self._kept.setdefault(target, {}).update(made)

    def put(self, session: S, value: T, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Keep ``value`` as if it had been made of these arguments."""
        self._kept.setdefault(session, {})[_key(*args, **kwargs)] = _Made(value)

    def known(self, session: S, /, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Whether it was made of these arguments."""
        return isinstance(self._kept.get(session, {}).get(_key(*args, **kwargs)), _Made)


def _key(*args: object, **kwargs: object) -> Hashable:
    return args, tuple(sorted(kwargs.items()))
