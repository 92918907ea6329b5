"""Register users' handlers: typed functions, each for one task type.

    handlers = Handlers()

    @handlers.task
    def thumbnail(path: str, width: int = 200) -> str: ...

    @handlers.task("ocr")
    async def read_text(path: str, context: Context) -> dict[str, str]: ...

    @handlers.task(process=True)
    def render(scene: str) -> str: ...

A cancelled async handler gets CancelledError. A sync handler runs on a thread, which cannot be stopped:
the handler should look at `context.cancelled` now and then. A handler with `process=True` runs in a
process, and a cancellation ends this process.

The payload of a task is validated against the handler's signature; the handler returns the output.
"""

import importlib
import inspect
import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NotRequired, Required, TypeVar, get_type_hints, overload

from pydantic import ConfigDict, JsonValue, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic takes typing's only from Python 3.12 on

from skillq.errors import UsageError
from skillq.forms import one_line
from skillq.messages import MAX_LABELS, TaskAssignment, first_error, slug

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Context:
    """The task and attempt of a handler's call, for a parameter annotated `Context`.

    `token` names this attempt: a fencing token for systems that accept writes of the newest attempt only.
    """

    run: str
    id: str
    attempt: int
    task_type: str
    description: str
    difficulty: int
    priority: int
    dependencies: Mapping[str, JsonValue]  # outputs of the tasks it depends on, by id
    _cancelled: threading.Event | None = None

    @property
    def cancelled(self) -> bool:
        """Whether nobody needs the outcome: the task is cancelled, timed out or reassigned."""
        return self._cancelled is not None and self._cancelled.is_set()

    @property
    def token(self) -> str:
        """The name of this attempt, `RUN/ID:ATTEMPT`."""
        return f"{self.run}/{self.id}:{self.attempt}"

    @classmethod
    def from_assignment(cls, task: TaskAssignment, cancelled: threading.Event | None) -> "Context":
        """Make the context of an attempt; `cancelled` is set when the attempt is cancelled."""
        return cls(
            task.run,
            task.id,
            task.attempt,
            task.task_type,
            task.description,
            task.difficulty,
            task.priority,
            task.dependencies,
            cancelled,
        )


class PayloadError(Exception):
    """Raised when a task's payload does not fit its handler's signature."""


@dataclass(frozen=True, slots=True)
class Handler:
    """A user's function, with the type that validates payloads against its signature."""

    function: Callable[..., Any]
    payload: TypeAdapter[dict[str, Any]]
    context: str | None  # the name of the parameter that receives the context
    process: bool  # runs in a process of its own
    is_async: bool

    def arguments(
        self, task: TaskAssignment, cancelled: threading.Event | None = None
    ) -> dict[str, Any]:
        """Return the keyword arguments of the function for a task.

        Raises:
            PayloadError: the payload does not fit; the message names the field.
        """
        try:
            arguments = self.payload.validate_python(task.payload)
        except ValidationError as error:
            raise PayloadError(f"payload: {first_error(error)}") from error
        if self.context is not None:
            arguments[self.context] = Context.from_assignment(task, cancelled)
        return arguments


class Handlers:
    """A registry of handlers by task type."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    @overload
    def task(self, function: Function, /) -> Function: ...

    @overload
    def task(
        self, type: str | None = None, /, *, process: bool = False
    ) -> Callable[[Function], Function]: ...

    def task(self, type_or_function: Any = None, /, *, process: bool = False) -> Any:
        """Register a function under its own name, or `@handlers.task("type")` under another.

        With `process=True` each attempt runs in a process that can be ended.

        Raises:
            UsageError: the type has a handler already, or the signature cannot be a payload's.
        """
        if callable(type_or_function):
            return self._register(type_or_function.__name__, type_or_function, process)
        return lambda function: self._register(
            function.__name__ if type_or_function is None else type_or_function, function, process
        )

    @property
    def types(self) -> tuple[str, ...]:
        """The task types that have a handler."""
        return tuple(self._handlers)

    def get(self, task_type: str) -> Handler | None:
        """Return the handler of a task type, or None."""
        return self._handlers.get(task_type)

    def _register(self, task_type: str, function: Function, process: bool) -> Function:
        try:
            slug(task_type)
        except ValueError as error:
            raise UsageError(f"task type {error}") from error
        if task_type in self._handlers:
            raise UsageError(f"two handlers are registered for the task type {task_type!r}")
        if process and inspect.iscoroutinefunction(function):
            raise UsageError(
                f"handler {task_type!r}: an async function cannot have a process; make it sync"
            )
        self._handlers[task_type] = _make_handler(task_type, function, process)
        return function


def _make_handler(task_type: str, function: Callable[..., Any], process: bool) -> Handler:
    type_hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    context = None
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind not in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}:
            raise UsageError(f"handler {task_type!r}: {parameter} cannot be filled from a payload")
        if type_hints.get(name) is Context:
            context = name
            continue
        required = parameter.default is parameter.empty
        fields[name] = (Required if required else NotRequired)[type_hints.get(name, Any)]
    # A TypedDict, not a model: a parameter may have any name, `json` and `copy` too.
    payload_type = TypedDict("Payload", fields)  # type: ignore[misc]  # made at run time
    payload_type.__pydantic_config__ = ConfigDict(extra="forbid", arbitrary_types_allowed=True)  # type: ignore[attr-defined]
    try:
        payload: TypeAdapter[dict[str, Any]] = TypeAdapter[Any](payload_type)
    except Exception as error:  # pydantic raises many classes for annotations it cannot use
        raise UsageError(
            f"handler {task_type!r}: its parameters cannot be validated: {one_line(str(error))}"
        ) from error
    return Handler(function, payload, context, process, inspect.iscoroutinefunction(function))


def load_handlers(path: str) -> Handlers:
    """Import the handlers of `module:attribute`; the current folder is searched, too.

    Raises:
        UsageError: the module or the attribute is missing, or the import failed.
    """
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute:
        raise UsageError(f"handlers {path!r}: write MODULE:HANDLERS, as in my_tasks:handlers")
    if os.getcwd() not in sys.path:  # noqa: PTH109 - sys.path holds strings
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    found: Any = _import_module(module_name, path)
    for name in attribute.split("."):
        found = getattr(found, name, None)
    if not isinstance(found, Handlers):
        problem = "has no" if found is None else f"has a {type(found).__name__} as"
        raise UsageError(
            f"handlers {path!r}: {module_name} {problem} {attribute}; it should be a Handlers()"
        )
    if not found.types:
        raise UsageError(
            f"handlers {path!r}: no function is registered; decorate one with @{attribute}.task"
        )
    if len(found.types) > MAX_LABELS:
        raise UsageError(
            f"handlers {path!r}: {len(found.types)} types; at most {MAX_LABELS} are allowed: start several workers"
        )
    return found


def _import_module(module: str, path: str) -> ModuleType:
    refusal = f"handlers {path!r}: module {module} does not import"
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        remedy = "start in the folder that holds it, or set PYTHONPATH"
        raise UsageError(f"{refusal}: {one_line(str(error))}; {remedy}") from error
    except (Exception, SystemExit) as error:  # a user's module may raise anything
        problem = f"{type(error).__name__}: {one_line(str(error))}"
        raise UsageError(f"{refusal}: {problem}") from error
