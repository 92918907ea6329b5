"""The preconditions of commands: status and attempt of a task before a write.

All stores check the same preconditions. A manager whose memory differs from the store, or that no longer
leads, violates a precondition; then nothing of its decision is written.
"""

from collections.abc import Mapping

from skillq.messages import TERMINAL, TaskStatus
from skillq_manager.core import commands as c
from skillq_manager.core.rules.lifecycle import ASSIGNED, BLOCKED, READY, RUNNING

Move = (
    c.MoveToBacklog | c.SetStatus | c.Assign | c.StartAttempt | c.EndAttempt | c.SetNeed | c.Reopen
)

WAITING = frozenset({BLOCKED, READY})
HELD = frozenset({ASSIGNED, RUNNING})  # a worker has the task

# The statuses that a task may have before a command.
FROM: Mapping[type[Move], frozenset[TaskStatus]] = {
    c.MoveToBacklog: frozenset({READY}),
    c.SetStatus: WAITING,
    c.Assign: frozenset({READY}),
    c.StartAttempt: HELD,
    c.EndAttempt: HELD,
    c.SetNeed: WAITING | HELD,
    c.Reopen: TERMINAL,
}


# The two functions are called for each task that moves: they test the most frequent commands first.


def attempt_before(command: Move) -> int | None:
    """Return the number that the task's last attempt must have, or None if any number fits."""
    if isinstance(command, c.Assign):
        return command.attempt - 1
    if isinstance(command, c.SetNeed):
        return None
    return 0 if isinstance(command, c.MoveToBacklog) else command.attempt


def status_after(command: Move) -> TaskStatus | None:
    """Return the status of the task after the command, or None if the status does not change."""
    if isinstance(command, c.EndAttempt):
        return command.status
    if isinstance(command, c.Assign):
        return ASSIGNED
    if isinstance(command, c.StartAttempt):
        return RUNNING
    if isinstance(command, c.SetNeed | c.MoveToBacklog):
        return None
    return command.status
