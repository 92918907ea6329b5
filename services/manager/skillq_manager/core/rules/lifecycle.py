"""The life of a task, on one screen.

Every change of a status anywhere goes through `check`. The diagram in the README is drawn from this table.
The names are for what is done for each task: on Python 3.11, to look a member up in its enum takes many times as long.
"""

from collections.abc import Mapping

from skillq.messages import TaskStatus

BLOCKED, READY, ASSIGNED, RUNNING = (
    TaskStatus.BLOCKED,
    TaskStatus.READY,
    TaskStatus.ASSIGNED,
    TaskStatus.RUNNING,
)
SUCCEEDED, FAILED, TIMED_OUT, CANCELLED, DEAD_LETTERED = (
    TaskStatus.SUCCEEDED,
    TaskStatus.FAILED,
    TaskStatus.TIMED_OUT,
    TaskStatus.CANCELLED,
    TaskStatus.DEAD_LETTERED,
)

_ATTEMPT_ENDS = {
    READY: "handed back, lost, or to be tried again",
    SUCCEEDED: "done",
    FAILED: "the work said no",
    TIMED_OUT: "took too long",
    CANCELLED: "called off",
    DEAD_LETTERED: "lost too often",
}
_SENT_AGAIN = {
    READY: "sent again",
    BLOCKED: "sent again, with its dependencies",
}

TRANSITIONS: Mapping[TaskStatus, Mapping[TaskStatus, str]] = {
    BLOCKED: {
        READY: "its dependencies are done",
        FAILED: "a dependency did not succeed",
        TIMED_OUT: "its deadline is over",
        CANCELLED: "called off",
    },
    READY: {
        ASSIGNED: "matched with a worker",
        TIMED_OUT: "its deadline is over",
        CANCELLED: "called off",
        DEAD_LETTERED: "nobody can do it",
    },
    ASSIGNED: {RUNNING: "the worker began"} | _ATTEMPT_ENDS,
    RUNNING: _ATTEMPT_ENDS,
    # Terminal statuses absorb; only an operator can send a task again.
    SUCCEEDED: {},
    FAILED: _SENT_AGAIN,
    TIMED_OUT: _SENT_AGAIN,
    CANCELLED: _SENT_AGAIN,
    DEAD_LETTERED: _SENT_AGAIN,
}


class InvalidTransition(Exception):
    """Raised when a task is asked to make a move that is not in the table; nothing has changed."""


def check(status: TaskStatus, to: TaskStatus) -> TaskStatus:
    """The new status.

    Raises:
        InvalidTransition: the table has no such move.
    """
    if to not in TRANSITIONS[status]:
        raise InvalidTransition(f"a {status} task cannot become {to}")
    return to
