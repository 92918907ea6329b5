"""Find NaN and infinity in values. JSON cannot express them: encoders of JSON write null instead."""

from collections.abc import Iterable
from math import isfinite
from typing import Any

Link = tuple[Any, object]  # a key, after the link of its collection


def find_non_finite(value: object, name: str) -> str | None:
    """Return what a value has that JSON cannot express, as `payload.loss is nan`, or None.

    The value consists of dicts, lists and scalars, as JSON does, and does not contain itself.
    """
    rest: list[tuple[Link, object]] = [((None, name), value)]
    while rest:
        link, value = rest.pop()
        if isinstance(value, float):
            if not isfinite(value):
                return describe_non_finite(_path(link), value)
        elif isinstance(value, dict):
            rest += [((link, key), item) for key, item in reversed(value.items())]
        elif isinstance(value, list | tuple):
            rest += reversed([((link, index), item) for index, item in enumerate(value)])
    return None


def describe_non_finite(path: Iterable[object], number: float) -> str:
    """Return the path of a number with the number: `payload.loss is nan`."""
    return f"{'.'.join(map(str, path))} is {float(number)!r}"


def _path(link: Link | None) -> list[object]:
    path: list[object] = []
    while link is not None:
        link, key = link
        path.append(key)
    return path[::-1]
