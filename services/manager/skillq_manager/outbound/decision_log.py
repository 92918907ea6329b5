"""What has been decided, for the log."""

import logging
from collections.abc import Iterable

import structlog
from structlog.typing import FilteringBoundLogger

from skillq.logs import Log
from skillq.messages import TaskStatus
from skillq_manager.core import commands as c
from skillq_manager.core.lifecycle import SUCCEEDED

_USUAL = frozenset({c.Assign, c.AddTask, c.Start})

log = structlog.get_logger()


def tell(commands: Iterable[c.Command]) -> None:
    """Runs, workers and what went wrong as info; each task that goes its way as debug."""
    bound = log.bind()  # once: to bind takes longer than not to log
    tells_all = bound.is_enabled_for(logging.DEBUG)
    for command in commands:
        if tells_all or not _goes_its_way(command):
            _tell(bound, command)


def _goes_its_way(command: c.Command) -> bool:
    if type(command) is c.EndAttempt:
        return command.status is SUCCEEDED
    return type(command) in _USUAL


def _tell(log: FilteringBoundLogger, command: c.Command) -> None:
    match command:
        case c.Answer(submission=submission, reason=None):
            log.info(
                Log.SUBMISSION_ACCEPTED,
                run=submission.run,
                tasks=command.accepted,
                known=command.known,
            )
        case c.Answer(submission=submission, reason=reason):
            log.warning(Log.SUBMISSION_REFUSED, run=submission.run, reason=reason)
        case c.CompleteRun(run=run, again=False):
            log.info(Log.RUN_COMPLETED, run=run)
        case c.SaveWorker(profile=worker, event=event, reason=reason):
            log.info(Log.WORKER_CHANGED, worker=worker.title, now=event, reason=reason)
        case _:
            _tell_task(log, command)


def _tell_task(log: FilteringBoundLogger, command: c.Command) -> None:
    match command:
        case c.Assign(key=key, attempt=attempt, worker=worker):
            log.debug(Log.TASK_ASSIGNED, task=key, attempt=attempt, worker=worker.title)
        case c.EndAttempt(key=key, status=TaskStatus.SUCCEEDED, attempt=attempt, worker=worker):
            log.debug(Log.TASK_ENDED, task=key, attempt=attempt, worker=worker.title)
        case c.EndAttempt(key=key, attempt=attempt, worker=worker):
            log.info(
                Log.TASK_ENDED,
                task=key,
                attempt=attempt,
                worker=worker.title,
                outcome=command.outcome,
                now=command.status,
                reason=command.reason,
            )
        case c.Stale(result=result, worker=name):
            task = (result.run, result.id)
            log.info(Log.RESULT_STALE, task=task, attempt=result.attempt, worker=name)
        case _:
            pass
