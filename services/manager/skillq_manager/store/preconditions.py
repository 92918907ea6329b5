"""What a command requires of the task that it changes: the compare-and-sets, the same for all stores.

A manager that remembers wrongly, or that another one has followed, fails here, and nothing of what it
decided in that turn is written.
"""

from collections.abc import Mapping

from skillq.messages import TERMINAL, TaskStatus
from skillq_manager.core import commands as c
from skillq_manager.core.rules.lifecycle import ASSIGNED, BLOCKED, READY, RUNNING

Move = (
    c.MoveToBacklog | c.SetStatus | c.Assign | c.StartAttempt | c.EndAttempt | c.SetNeed | c.Reopen
)

WAITING = frozenset({BLOCKED, READY})
HELD = frozenset({ASSIGNED, RUNNING})  # a worker has it

# Where a task must be for a command to fit.
FROM: Mapping[type[Move], frozenset[TaskStatus]] = {
    c.MoveToBacklog: frozenset({READY}),
    c.SetStatus: WAITING,
    c.Assign: frozenset({READY}),
    c.StartAttempt: HELD,
    c.EndAttempt: HELD,
    c.SetNeed: WAITING | HELD,
    c.Reopen: TERMINAL,
}


# Asked for each task that moves, the commonest moves first.


def attempt_before(command: Move) -> int | None:
    """Which attempt must be the task's last for the command to fit; None: any."""
    if isinstance(command, c.Assign):
        return command.attempt - 1
    if isinstance(command, c.SetNeed):
        return None
    return 0 if isinstance(command, c.MoveToBacklog) else command.attempt


def status_after(command: Move) -> TaskStatus | None:
    """What the command makes of the task; None: what it was."""
    if isinstance(command, c.EndAttempt):
        return command.status
    if isinstance(command, c.Assign):
        return ASSIGNED
    if isinstance(command, c.StartAttempt):
        return RUNNING
    if isinstance(command, c.SetNeed | c.MoveToBacklog):
        return None
    return command.status
