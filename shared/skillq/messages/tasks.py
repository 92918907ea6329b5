"""Tasks as users describe them, and what clients send: client → manager."""

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
    """One unit of work, as a user describes it."""

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
    retry_on: Labels = ()  # exceptions, by class name, after which it is tried again; none: any
    no_retry_on: Labels = ()  # exceptions after which it is not
    escalate_by: Annotated[int, Field(ge=0, lt=MAX_LEVEL)] = (
        0  # how much more skill each retry needs
    )
    unroutable: Unroutable = Unroutable.WAIT
    unroutable_after: Seconds = (
        timings.UNROUTABLE_AFTER_SECONDS
    )  # how long nobody may be able to do it before that applies

    def shape(self) -> tuple[Any, ...]:
        """All of it but what is its own: its id, its texts, what it depends on. Many tasks share one."""
        shape: tuple[Any, ...] = _GET_SHAPE(self.__dict__)
        return shape

    def to_wire(self) -> bytes:
        """As JSON, without what is as by default; of a subclass, what a message would have of it."""
        return Task.__pydantic_serializer__.to_json(self, exclude_defaults=True)

    def definition(self) -> str:
        """As JSON, without what is as by default, its id and its texts: for most, made once for all of their shape."""
        if self.depends_on:
            return self._encode_definition()
        terms, _ = self._shared_definition()
        return terms

    def _shared_definition(self) -> tuple[str, int]:
        """Of all of its shape that depend on nothing: their terms, and what stands for them."""
        shape = self.shape()
        shared = _definitions.get(shape)
        if shared is None:
            if len(_definitions) >= _MAX_CACHED_SHAPES:
                _definitions.clear()
            terms = self._encode_definition()
            shared = _definitions[shape] = terms, _hash_to_number(terms.encode())
        return shared

    def _encode_definition(self) -> str:
        # A default that changes in a later release needs a migration that writes the old one down.
        return Task.__pydantic_serializer__.to_json(
            self, exclude=_NOT_IN_DEFINITION, exclude_defaults=True
        ).decode()

    def fingerprint(self) -> int:
        """A number of 63 bits that stands for all of it but its id; fields of later releases do not change it."""
        if not (self.description or self.payload or self.depends_on):
            _, number = self._shared_definition()
            return number
        texts = to_json([self.description, self.payload], inf_nan_mode="null")
        return _hash_to_number(self.definition().encode() + texts)


_NOT_IN_DEFINITION = {"id", "description", "payload"}
_NOT_IN_SHAPE = _NOT_IN_DEFINITION | {"depends_on"}
_GET_SHAPE = itemgetter(*(name for name in Task.model_fields if name not in _NOT_IN_SHAPE))
_MAX_CACHED_SHAPES = 4096  # shapes
_definitions: dict[tuple[Any, ...], tuple[str, int]] = {}


def _hash_to_number(written: bytes) -> int:
    return int.from_bytes(blake2b(written, digest_size=8).digest()) >> 1


def check_tasks(tasks: Iterable[Task]) -> None:
    """Refuse tasks that can never all be done.

    Raises:
        UsageError: two tasks have one id, or their dependencies go in a circle.
    """
    graph: dict[str, tuple[str, ...]] = {}
    for task in tasks:
        if task.id in graph:
            raise UsageError(f"task {task.id}: two tasks have this id; give each its own")
        graph[task.id] = task.depends_on
    linked = {id: after for id, after in graph.items() if after}
    if not linked:
        return
    try:
        TopologicalSorter(linked).prepare()
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
    """Tasks to be done, accepted or refused as a whole; what is too large for one message comes in parts."""

    type: Literal["submission"] = "submission"
    schema_version: Literal[1] = SCHEMA_VERSION
    submission_id: Annotated[str, Field(max_length=MAX_ID)]  # all its parts have the same
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
    """A client has heard nothing for a while: what has become of its submission, and of these tasks of it?"""

    type: Literal["inquiry"] = "inquiry"
    schema_version: Literal[1] = SCHEMA_VERSION
    submission_id: Name  # the answer goes to `answer.<submission_id>`
    number: int  # counts the inquiries about this submission
    run: Name
    store: str = ""  # that holds it, as the manager said when it accepted it
    tasks: Annotated[tuple[TaskId, ...], Field(max_length=MAX_QUERIED_TASKS)] = ()
