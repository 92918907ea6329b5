"""Tasks as users define them, and the messages that clients send to the manager."""

from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter
from hashlib import blake2b
from operator import itemgetter
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import to_json

from skillq import timings
from skillq.errors import UsageError
from skillq.messages.types import (
    DEFAULT_TYPE,
    MAX_ID,
    MAX_LEVEL,
    MAX_PARTS,
    MAX_QUERIED_TASKS,
    SCHEMA_VERSION,
    AttemptNumber,
    Label,
    Labels,
    Level,
    Name,
    Payload,
    Seconds,
    TaskId,
    Title,
    Unroutable,
    WireModel,
    _without_duplicates,
)


class Task(WireModel):
    """One unit of work, as a user defines it."""

    id: TaskId
    difficulty: Level
    description: Annotated[str, Field(max_length=2000)] = ""
    type: Label = DEFAULT_TYPE
    priority: Annotated[int, Field(ge=1, le=100)] = 1
    requires: Labels = ()
    depends_on: Annotated[tuple[TaskId, ...], AfterValidator(_without_duplicates)] = ()
    on_failed_dependency: Literal["fail", "run"] = "fail"
    payload: Payload = Field(default_factory=dict)
    timeout: Seconds | None = None  # of one attempt
    deadline: Seconds | None = None  # of the whole task, from its submission on
    max_attempts: Annotated[int, Field(ge=1, le=1000)] = 1
    retry_on: Labels = ()  # class names of exceptions after which the task is retried; if empty, after any
    no_retry_on: Labels = ()  # class names of exceptions after which the task is not retried
    escalate_by: Annotated[int, Field(ge=0, lt=MAX_LEVEL)] = 0  # levels more for each retry
    unroutable: Unroutable = Unroutable.WAIT
    # `unroutable` applies when no worker could do the task for this long.
    unroutable_after: Seconds = timings.UNROUTABLE_AFTER_SECONDS

    def shape(self) -> tuple[Any, ...]:
        """Return all fields but id, description, payload and dependencies; many tasks share them."""
        shape: tuple[Any, ...] = _GET_SHAPE(self.__dict__)
        return shape

    def to_wire(self) -> bytes:
        """Return the task as JSON without defaults; of a subclass, only the fields of `Task`."""
        return Task.__pydantic_serializer__.to_json(self, exclude_defaults=True)

    def definition(self) -> str:
        """Return the task as JSON without id, description, payload and defaults.

        Tasks of one shape without dependencies share one string.
        """
        if self.depends_on:
            return self._encode_definition()
        definition, _ = self._shared_definition()
        return definition

    def _shared_definition(self) -> tuple[str, int]:
        """Return the definition and its hash, cached for tasks of one shape without dependencies."""
        shape = self.shape()
        shared = _definitions.get(shape)
        if shared is None:
            if len(_definitions) >= _MAX_CACHED_SHAPES:
                _definitions.clear()
            definition = self._encode_definition()
            shared = _definitions[shape] = definition, _hash_to_number(definition.encode())
        return shared

    def _encode_definition(self) -> str:
        # If a later release changes a default, its migration must write the old default into stored definitions.
        return Task.__pydantic_serializer__.to_json(
            self, exclude=_NOT_IN_DEFINITION, exclude_defaults=True
        ).decode()

    def fingerprint(self) -> int:
        """Return a number of 63 bits made from all fields but the id.

        New fields of later releases do not change the number, while they have their defaults.
        """
        if not (self.description or self.payload or self.depends_on):
            _, number = self._shared_definition()
            return number
        texts = to_json([self.description, self.payload], inf_nan_mode="null")
        return _hash_to_number(self.definition().encode() + texts)


_NOT_IN_DEFINITION = {"id", "description", "payload"}
_NOT_IN_SHAPE = _NOT_IN_DEFINITION | {"depends_on"}
_GET_SHAPE = itemgetter(*(name for name in Task.model_fields if name not in _NOT_IN_SHAPE))
_MAX_CACHED_SHAPES = 4096
_definitions: dict[tuple[Any, ...], tuple[str, int]] = {}


def _hash_to_number(encoded: bytes) -> int:
    return int.from_bytes(blake2b(encoded, digest_size=8).digest()) >> 1


def check_tasks(tasks: Iterable[Task]) -> None:
    """Refuse tasks that contradict each other.

    Raises:
        UsageError: two tasks have the same id, or dependencies form a circle.
    """
    graph: dict[str, tuple[str, ...]] = {}
    for task in tasks:
        if task.id in graph:
            raise UsageError(f"task {task.id}: two tasks have this id; give each its own")
        graph[task.id] = task.depends_on
    dependent = {id: dependencies for id, dependencies in graph.items() if dependencies}
    if not dependent:
        return
    try:
        TopologicalSorter(dependent).prepare()
    except CycleError as error:
        circle = " → ".join(reversed(error.args[1]))
        raise UsageError(
            f"task {error.args[1][0]}: depends on itself ({circle}); break the cycle"
        ) from error


class AttemptRef(WireModel):
    """One attempt; its number is the fencing token."""

    run: Name
    id: TaskId
    attempt: AttemptNumber


class Submission(WireModel):
    """Tasks that a client submits, accepted or refused as a whole; it may have several parts."""

    type: Literal["submission"] = "submission"
    schema_version: Literal[1] = SCHEMA_VERSION
    submission_id: Annotated[str, Field(max_length=MAX_ID)]  # the same in all parts
    run: Name
    run_title: Title
    tasks: Annotated[tuple[Task, ...], Field(min_length=1)]
    part: Annotated[int, Field(ge=1)] = 1
    parts: Annotated[int, Field(ge=1, le=MAX_PARTS)] = 1

    @model_validator(mode="after")
    def _check_part_and_tasks(self) -> Self:
        if self.part > self.parts:
            raise ValueError(f"part {self.part} of {self.parts} cannot be")
        try:
            check_tasks(self.tasks)
        except UsageError as error:
            raise ValueError(str(error)) from error
        return self


class StatusQuery(WireModel):
    """A client's question how its submission and some of the tasks stand, after a silence."""

    type: Literal["inquiry"] = "inquiry"
    schema_version: Literal[1] = SCHEMA_VERSION
    submission_id: Name  # the reply has the routing key `answer.<submission_id>`
    number: int  # counts the queries about this submission
    run: Name
    store: str = ""  # the store named in the receipt, if the client has one
    tasks: Annotated[tuple[TaskId, ...], Field(max_length=MAX_QUERIED_TASKS)] = ()
