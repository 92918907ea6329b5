"""Messages to workers and listeners, from plain fields.

Each field was validated when it came in. To make models of them first would take five times as long.
"""

from collections.abc import Sequence
from typing import Any

from pydantic import JsonValue
from pydantic_core import to_json

from skillq.messages import SCHEMA_VERSION, AttemptRef, TaskStatus, WorkerProfile
from skillq.transport import Outgoing
from skillq_manager.core import commands as c
from skillq_manager.core.model import TaskKey
from skillq_manager.store.base import Body

Fields = dict[str, Any]

_GIVEN = {c.Assign: TaskStatus.ASSIGNED, c.Start: TaskStatus.RUNNING}


def assignment(key: TaskKey, attempt: int, body: Body) -> Fields:
    """What a `TaskAssignment` has."""
    task = body.task
    return {
        "run": key[0],
        "id": key[1],
        "attempt": attempt,
        "task_type": task.type,
        "description": task.description,
        "difficulty": task.difficulty,
        "priority": task.priority,
        "requires": task.requires,
        "payload": task.payload,
        "dependencies": body.dependencies,
        "timeout": task.timeout,
    }


def ref(item: Fields) -> AttemptRef:
    return AttemptRef(run=item["run"], id=item["id"], attempt=item["attempt"])


def assignments(worker: WorkerProfile, store: str, items: Sequence[Fields]) -> Outgoing:
    """As an `Assignments`."""
    return _outgoing(
        "assignment",
        persistent=True,
        worker=worker.name,
        incarnation=worker.incarnation,
        store=store,
        tasks=items,
    )


def events(run: str, task_type: str, items: Sequence[Fields]) -> Outgoing:
    """As a `TaskEvents`."""
    return _outgoing("task_events", persistent=False, run=run, task_type=task_type, events=items)


def _outgoing(type: str, *, persistent: bool, **fields: object) -> Outgoing:
    # What is no number is null, as models write it: JSON has no word for it.
    body = to_json({"type": type, "schema_version": SCHEMA_VERSION} | fields, inf_nan_mode="null")
    return Outgoing(body, type, persistent=persistent)


def task_event(command: c.Command) -> tuple[str, str, Fields] | None:
    """The run and the type of a task, and what a `TaskEvent` has."""
    match command:
        case c.AddTask():
            run, id = command.key
            event = {"id": id, "status": command.status.value, "attempt": 0, "at": command.at}
            return run, command.task.type, event
        case c.SetStatus():
            return _moved(command, command.status, reason=command.reason)
        case c.Assign() | c.Start():
            return _moved(command, _GIVEN[type(command)], command.worker)
        case c.EndAttempt():
            output = command.result.output if command.result else None
            return _moved(command, command.status, command.worker, command.reason, output)
        case c.Reopen():
            return _moved(command, command.status, reason="sent again")
        case _:
            return None


def _moved(
    command: c.SetStatus | c.Assign | c.Start | c.EndAttempt | c.Reopen,
    status: TaskStatus,
    worker: WorkerProfile | None = None,
    reason: str | None = None,
    output: JsonValue = None,
) -> tuple[str, str, Fields]:
    run, id = command.key
    event = {
        "id": id,
        "status": status.value,  # a plain word: twice as fast to write
        "attempt": command.attempt,
        "at": command.at,
        "worker": worker.title if worker else None,
        "reason": reason,
        "output": output,
    }
    return run, command.task_type, event
