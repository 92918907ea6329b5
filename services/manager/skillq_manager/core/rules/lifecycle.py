"""The life of a task, as one table.

`TRANSITIONS` has all changes of status that are allowed, and the reason for each. Every change goes
through `check_transition`. The diagram in the README is made from the table. The constants exist
because the core uses them for each task, and on Python 3.11 a module constant is many times faster
than a member of an enum.
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
    READY: "returned, lost, or to be retried",
    SUCCEEDED: "done",
    FAILED: "the attempt failed",
    TIMED_OUT: "took too long",
    CANCELLED: "cancelled on request",
    DEAD_LETTERED: "lost too often",
}
_RETRIED = {
    READY: "retried by an operator",
    BLOCKED: "retried by an operator, with its dependencies",
}

TRANSITIONS: Mapping[TaskStatus, Mapping[TaskStatus, str]] = {
    BLOCKED: {
        READY: "its dependencies are done",
        FAILED: "a dependency did not succeed",
        TIMED_OUT: "its deadline is over",
        CANCELLED: "cancelled on request",
    },
    READY: {
        ASSIGNED: "matched with a worker",
        TIMED_OUT: "its deadline is over",
        CANCELLED: "cancelled on request",
        DEAD_LETTERED: "no worker can do it",
    },
    ASSIGNED: {RUNNING: "the worker has started"} | _ATTEMPT_ENDS,
    RUNNING: _ATTEMPT_ENDS,
    # A task that has succeeded never changes; only an operator can retry the others.
    SUCCEEDED: {},
    FAILED: _RETRIED,
    TIMED_OUT: _RETRIED,
    CANCELLED: _RETRIED,
    DEAD_LETTERED: _RETRIED,
}


class InvalidTransition(Exception):
    """Raised for a change of status that is not in `TRANSITIONS`."""


def check_transition(status: TaskStatus, to: TaskStatus) -> TaskStatus:
    """Return `to`, the new status of a task in status `status`.

    Raises:
        InvalidTransition: a task must not change like this.
    """
    if to not in TRANSITIONS[status]:
        raise InvalidTransition(f"a {status} task cannot become {to}")
    return to
