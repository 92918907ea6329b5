"""Users' own work: typed functions, registered by task type.

    handlers = Handlers()

    @handlers.task
    def thumbnail(path: str, width: int = 200) -> str: ...

    @handlers.task("ocr")
    async def read_text(path: str, context: Context) -> dict[str, str]: ...

    @handlers.task(process=True)
    def render(scene: str) -> str: ...

An async handler that is called off sees CancelledError; a sync one runs on a thread, which nobody can
stop, and looks at `context.cancelled` now and then; one with `process=True` runs in a process of its own,
which is ended.

A task's payload is validated against the signature; what is returned is the task's output.
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
    """What a handler may know of its task: ask for it by a parameter annotated `Context`.

    `token` names this attempt: a fence for systems that take writes from only the newest one.
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
        """Whether nobody wants the outcome any more: the task was called off, timed out, or is another's."""
        return self._cancelled is not None and self._cancelled.is_set()

    @property
    def token(self) -> str:
        return f"{self.run}/{self.id}:{self.attempt}"

    @classmethod
    def from_assignment(cls, task: TaskAssignment, cancelled: threading.Event | None) -> "Context":
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
    """A user's function, with the model its payload is validated against."""

    function: Callable[..., Any]
    payload: TypeAdapter[dict[str, Any]]
    context: str | None  # the parameter that wants the context
    process: bool  # runs in a process of its own
    is_async: bool

    def arguments(
        self, task: TaskAssignment, cancelled: threading.Event | None = None
    ) -> dict[str, Any]:
        """The keyword arguments for a task.

        Raises:
            PayloadError: names the field that does not fit.
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

    def task(self, given: Any = None, /, *, process: bool = False) -> Any:
        """Register a function under its own name, or `@handlers.task("type")` under another.

        With `process=True` each attempt runs in a process that can be ended.

        Raises:
            UsageError: the type has a handler already, or the signature cannot be a payload's.
        """
        if callable(given):
            return self._register(given.__name__, given, process)
        return lambda function: self._register(
            function.__name__ if given is None else given, function, process
        )

    @property
    def types(self) -> tuple[str, ...]:
        return tuple(self._handlers)

    def get(self, task_type: str) -> Handler | None:
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
        self._handlers[task_type] = _handler(task_type, function, process)
        return function


def _handler(task_type: str, function: Callable[..., Any], process: bool) -> Handler:
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    context = None
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind not in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}:
            raise UsageError(f"handler {task_type!r}: {parameter} cannot be filled from a payload")
        if hints.get(name) is Context:
            context = name
            continue
        required = parameter.default is parameter.empty
        fields[name] = (Required if required else NotRequired)[hints.get(name, Any)]
    # A TypedDict, not a model: a parameter may have any name, `json` and `copy` too.
    shape = TypedDict("Payload", fields)  # type: ignore[misc]  # made at run time
    shape.__pydantic_config__ = ConfigDict(extra="forbid", arbitrary_types_allowed=True)  # type: ignore[attr-defined]
    try:
        payload: TypeAdapter[dict[str, Any]] = TypeAdapter[Any](shape)
    except Exception as error:  # pydantic raises many kinds for annotations it cannot use
        raise UsageError(
            f"handler {task_type!r}: its parameters cannot be validated: {one_line(str(error))}"
        ) from error
    return Handler(function, payload, context, process, inspect.iscoroutinefunction(function))


def load_handlers(path: str) -> Handlers:
    """Import `module:attribute`, from the current folder too.

    Raises:
        UsageError: in one line, what is missing or what went wrong at import.
    """
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute:
        raise UsageError(f"handlers {path!r}: write MODULE:HANDLERS, as in my_tasks:handlers")
    if os.getcwd() not in sys.path:  # noqa: PTH109 - sys.path holds strings
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    found: Any = _imported(module_name, path)
    for name in attribute.split("."):
        found = getattr(found, name, None)
    if not isinstance(found, Handlers):
        what = "has no" if found is None else f"has a {type(found).__name__} as"
        raise UsageError(
            f"handlers {path!r}: {module_name} {what} {attribute}; it should be a Handlers()"
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


def _imported(module: str, path: str) -> ModuleType:
    refusal = f"handlers {path!r}: module {module} does not import"
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        remedy = "start in the folder that holds it, or set PYTHONPATH"
        raise UsageError(f"{refusal}: {one_line(str(error))}; {remedy}") from error
    except (Exception, SystemExit) as error:  # a user's module may raise anything
        what = f"{type(error).__name__}: {one_line(str(error))}"
        raise UsageError(f"{refusal}: {what}") from error
