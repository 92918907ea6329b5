"""What pydantic finds wrong, in plain words."""

from contextlib import suppress

from pydantic_core import ErrorDetails

_MAX_SHOWN = 60
_WHOLE, _NUMBER, _LIST = "should be a whole number", "should be a number", "should be a list"
_FIELDS = "should be a mapping of fields to values"
_TEXT = {
    "missing": "is missing",
    "extra_forbidden": "is unknown",
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_parsing_size": _WHOLE,
    "int_from_float": _WHOLE,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "finite_number": "should be a number with an end",
    "greater_than": "should be more than {gt}",
    "greater_than_equal": "should be at least {ge}",
    "less_than": "should be less than {lt}",
    "less_than_equal": "should be at most {le}",
    "bool_type": "should be true or false",
    "bool_parsing": "should be true or false",
    "string_type": "should be text",
    "string_too_short": "should have at least {min_length} characters",
    "string_too_long": "should have at most {max_length} characters",
    "literal_error": "should be {expected}",
    "enum": "should be {expected}",
    "list_type": _LIST,
    "tuple_type": _LIST,
    "too_short": "should have at least {min_length} items",
    "too_long": "should have at most {max_length} items",
    "dict_type": "should be a mapping of names to values",
    "invalid-json-value": "should be what JSON has",
    "model_type": _FIELDS,
    "model_attributes_type": _FIELDS,
}
_TEXT_IF_EMPTY = {"string_too_short": "should not be empty", "too_short": "should have at least one item"}
_WITHOUT_VALUE = {"missing", "extra_forbidden"}


def shorten(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def plain_error(complaint: ErrorDetails) -> str:
    """What is wrong, without the value."""
    kind, bounds = complaint["type"], complaint.get("ctx", {})
    said = _TEXT_IF_EMPTY.get(kind) if bounds.get("min_length") == 1 else None
    if said is None and kind in _TEXT:
        with suppress(KeyError):  # users' own errors may be of any kind
            bounds = {name: _format_bound(value) for name, value in bounds.items()}
            said = _TEXT[kind].format_map(bounds)
    # Our validators and users' own say it as they want it.
    said = said or complaint["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return said.removeprefix("Input ")


def with_value(complaint: ErrorDetails, value: object) -> str:
    """What is wrong, and with which value, as it may be shown."""
    said = plain_error(complaint)
    names_it = isinstance(value, str) and repr(value) in said
    is_plain = complaint["type"] in _WITHOUT_VALUE or (not value and complaint["type"] in _TEXT_IF_EMPTY)
    return said if is_plain or names_it else f"{said}, not {quote_value(value)}"


def _format_bound(bound: object) -> object:
    """A bound of floats is 1.0, where its author wrote 1."""
    return int(bound) if isinstance(bound, float) and bound.is_integer() else bound


def quote_value(value: object) -> str:
    """A value as those know it who have not written it in Python."""
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    return shorten(repr(value), _MAX_SHOWN)


def with_count(number: int, what: str) -> str:
    """`1 task`, `2 tasks`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
