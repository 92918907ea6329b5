"""Read YAML by the core schema of YAML 1.2, with libyaml where PyYAML has it.

PyYAML's own schema is that of YAML 1.1: `no`, `on` and `yes` are booleans, `12:30` is a number, `010` is
octal. Only its parser is used here. The events of both parsers, in C and in Python, give the same values.
"""

import re
from collections.abc import Callable
from typing import Any

import yaml
from yaml import events

Parser = type[yaml.SafeLoader] | type["yaml.CSafeLoader"]

_TAG_PREFIX = "tag:yaml.org,2002:"
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_MAY_BE_NUMBER = frozenset("-+.0123456789")
_INT = re.compile(r"-?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)\.[0-9]*)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?(?:0|[1-9][0-9]*)[eE][-+]?[0-9]+|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
# Tabs between tokens, byte order marks inside a text, and unknown directives.
_READ_DIFFERENTLY = ("\t", "\ufeff", "\n%", "\r%")
_MAX_LEVELS = 200  # that readers of messages accept; the parsers take very long for many
_NO_KEY = object()


def parse_yaml(text: str, parser: Parser | None = None) -> tuple[Any, bool]:
    """Return the value of a YAML document, and whether it has aliases.

    What an alias stands for is the same object each time.

    Raises:
        yaml.MarkedYAMLError: the text is not YAML, or uses what is not supported.
        yaml.reader.ReaderError: the text has a character that YAML does not allow.
    """
    if unprintable := yaml.reader.Reader.NON_PRINTABLE.search(text):
        raise yaml.reader.ReaderError(
            None, unprintable.start(), ord(unprintable.group()), "unicode", "not printable"
        )
    loader = (parser or _choose_parser(text))(text)
    try:
        return _Composer(loader.get_event).compose()
    finally:
        loader.dispose()


def _choose_parser(text: str) -> Parser:
    """Return libyaml's parser, but for a text that the two parsers may read in different ways."""
    is_equal = not any(sign in text for sign in _READ_DIFFERENTLY) and text[:1] != "%"
    return yaml.CSafeLoader if yaml.__with_libyaml__ and is_equal else yaml.SafeLoader


class _Composer:
    """Builds the value of a document from the events of a parser."""

    def __init__(self, next_event: Callable[[], Any]) -> None:
        self._next_event = next_event
        self._open: list[tuple[Any, Any]] = []  # outer collections, each with its key
        self._current: Any = []  # the innermost open collection; at first, a list of documents
        self._key: object = _NO_KEY  # of the next value, if the collection is a mapping
        self._anchors: dict[str, Any] = {}
        self._has_aliases = False

    def compose(self) -> tuple[Any, bool]:
        """Return the value of the only document, and whether it has aliases."""
        handlers: dict[type, Callable[[Any], None]] = {
            events.ScalarEvent: self._on_scalar,
            events.AliasEvent: self._on_alias,
            events.SequenceStartEvent: self._on_start,
            events.MappingStartEvent: self._on_start,
            events.SequenceEndEvent: self._on_end,
            events.MappingEndEvent: self._on_end,
            events.DocumentStartEvent: self._on_document,
        }
        next_event = self._next_event
        while (kind := type(event := next_event())) is not events.StreamEndEvent:
            if handler := handlers.get(kind):
                handler(event)
        return next(iter(self._current), None), self._has_aliases

    def _on_document(self, event: events.DocumentStartEvent) -> None:
        if self._current:
            raise _error("a second document starts; a file has one", event)

    def _on_scalar(self, event: events.ScalarEvent) -> None:
        tag, value = event.tag, event.value
        try:
            if tag is not None and tag != "!":
                value = _tagged_value(event)
            elif not event.style:
                value = _plain_value(value)
        except ValueError as error:  # Python converts 4300 digits
            problem = f"a number of {len(value)} digits; write it as text"
            raise _error(problem, event) from error
        if event.anchor is not None:
            self._anchors[event.anchor] = value
        self._add(value, event)

    def _on_alias(self, event: events.AliasEvent) -> None:
        if event.anchor not in self._anchors:
            raise _error(f"found undefined alias {event.anchor!r}", event)
        self._has_aliases = True
        self._add(self._anchors[event.anchor], event)

    def _on_start(self, event: events.CollectionStartEvent) -> None:
        is_mapping = type(event) is events.MappingStartEvent
        if event.tag not in (None, "!", _TAG_PREFIX + ("map" if is_mapping else "seq")):
            raise _unknown_tag(event)
        if len(self._open) == _MAX_LEVELS:
            raise _error(f"it is nested deeper than {_MAX_LEVELS} levels", event)
        collection: dict[object, Any] | list[Any] = {} if is_mapping else []
        if event.anchor is not None:
            self._anchors[event.anchor] = collection
        self._add(collection, event)
        self._open.append((self._current, self._key))
        self._current, self._key = collection, _NO_KEY

    def _on_end(self, _: events.CollectionEndEvent) -> None:
        self._current, self._key = self._open.pop()

    def _add(self, value: Any, event: events.NodeEvent) -> None:
        """Add a value to the current collection: an item, a key, or the value of the last key."""
        current = self._current
        if type(current) is list:
            current.append(value)
        elif self._key is not _NO_KEY:
            current[self._key] = value
            self._key = _NO_KEY
        elif type(value) is list or type(value) is dict:
            raise _error("a key is a list or a mapping; it should be text", event)
        elif value in current:
            raise _error(f"{value!r} stands twice", event)
        else:
            self._key = value


def _plain_value(text: str) -> Any:
    """Return the value of a scalar without quotation marks and without a tag.

    Raises:
        ValueError: it is a whole number of too many digits.
    """
    if text[:1] not in _MAY_BE_NUMBER:
        return _WORDS.get(text, text)
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


def _tagged_value(event: events.ScalarEvent) -> Any:
    """Return the value of a scalar with one of the tags of the core schema."""
    text, tag = event.value, str(event.tag).removeprefix(_TAG_PREFIX)
    if tag == "str":
        return text
    if tag not in _TYPES:
        raise _unknown_tag(event)
    value = _plain_value(text)
    if tag == "float" and type(value) is int:
        return float(value)
    if type(value) is not _TYPES[tag]:
        raise _error(f"the tag !!{tag} does not fit its value; leave it out", event)
    return value


_TYPES = {"null": type(None), "bool": bool, "int": int, "float": float}


def _unknown_tag(event: Any) -> yaml.MarkedYAMLError:
    tag = event.tag.replace(_TAG_PREFIX, "!!", 1)
    return _error(f"the tag {tag} is unknown; leave it out", event)


def _error(problem: str, event: Any) -> yaml.MarkedYAMLError:
    return yaml.composer.ComposerError(None, None, problem, event.start_mark)
