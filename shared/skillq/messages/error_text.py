"""Turn the errors of pydantic into plain text for users."""

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
_TEXT_IF_EMPTY = {
    "string_too_short": "should not be empty",
    "too_short": "should have at least one item",
}
URL_ERROR = "url"
_WITHOUT_VALUE = {"missing", "extra_forbidden", URL_ERROR}


def shorten(text: str, width: int) -> str:
    """Return the text, cut to at most `width` characters with an ellipsis at its end."""
    return text if len(text) <= width else text[: width - 1] + "…"


def plain_error(details: ErrorDetails) -> str:
    """Return what is wrong, without the value."""
    error_type, bounds = details["type"], details.get("ctx", {})
    text = _TEXT_IF_EMPTY.get(error_type) if bounds.get("min_length") == 1 else None
    if text is None and error_type in _TEXT:
        with suppress(KeyError):  # errors that users raise may lack the bounds
            bounds = {name: _format_bound(value) for name, value in bounds.items()}
            text = _TEXT[error_type].format_map(bounds)
    # Our validators, and those of users, word their own errors.
    text = text or details["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return text.removeprefix("Input ")


def with_value(details: ErrorDetails, value: object) -> str:
    """Return what is wrong, and with which value."""
    text = plain_error(details)
    has_value = isinstance(value, str) and repr(value) in text
    needs_none = details["type"] in _WITHOUT_VALUE or (
        not value and details["type"] in _TEXT_IF_EMPTY
    )
    return text if needs_none or has_value else f"{text}, not {quote_value(value)}"


def _format_bound(bound: object) -> object:
    """Return a bound as its author wrote it: for a float, pydantic has 1.0 instead of 1."""
    return int(bound) if isinstance(bound, float) and bound.is_integer() else bound


def quote_value(value: object) -> str:
    """Return a value as text that a user who does not know Python understands."""
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    return shorten(repr(value), _MAX_SHOWN)


def with_count(number: int, noun: str) -> str:
    """Return the number with its noun: `1 task`, `2 tasks`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
