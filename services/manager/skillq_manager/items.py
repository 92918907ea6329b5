"""Items of messages to workers and listeners, as plain fields.

Each field was validated when it came in. A model for each item would take five times as long.
"""

from typing import Any

from pydantic import JsonValue

from skillq.messages import AttemptRef, Message, TaskEvents, TaskStatus, WorkerProfile
from skillq.packing import pack
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


def pack_events(run: str, task_type: str, items: list[Fields]) -> list[Outgoing]:
    def make(events: tuple[Any, ...]) -> Message:
        return TaskEvents.model_construct(run=run, task_type=task_type, events=events)

    messages, _ = pack(make, items, persistent=False)
    return [message for message, _ in messages]


def task_event(command: c.Command) -> tuple[str, str, Fields] | None:
    """The run and the type of a task, and what a `TaskEvent` has."""
    match command:
        case c.AddTask():
            run, id = command.key
            event = {"id": id, "status": command.status, "attempt": 0, "at": command.at}
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
        "status": status,
        "attempt": command.attempt,
        "at": command.at,
        "worker": worker.title if worker else None,
        "reason": reason,
        "output": output,
    }
    return run, command.task_type, event
