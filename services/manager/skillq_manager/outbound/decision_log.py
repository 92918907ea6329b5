"""Log events of the core's decisions."""

import logging
from collections.abc import Iterable

import structlog
from structlog.typing import FilteringBoundLogger

from skillq.messages import TaskStatus
from skillq.runtime.logs import Log
from skillq_manager.core import commands as c
from skillq_manager.core.rules.lifecycle import SUCCEEDED

_ROUTINE = frozenset({c.Assign, c.AddTask, c.StartAttempt})

log = structlog.get_logger()


def log_decisions(commands: Iterable[c.Command]) -> None:
    """Log the commands of a round: the normal course of tasks as debug, all else as info."""
    bound = log.bind()  # once for all commands, since this takes longer than a skipped event
    is_debug = bound.is_enabled_for(logging.DEBUG)
    for command in commands:
        if is_debug or not _is_routine(command):
            _log_command(bound, command)


def _is_routine(command: c.Command) -> bool:
    if type(command) is c.EndAttempt:
        return command.status is SUCCEEDED
    return type(command) in _ROUTINE


def _log_command(log: FilteringBoundLogger, command: c.Command) -> None:
    match command:
        case c.AnswerSubmission(submission=submission, reason=None):
            log.info(
                Log.SUBMISSION_ACCEPTED,
                run=submission.run,
                tasks=command.accepted,
                known=command.known,
            )
        case c.AnswerSubmission(submission=submission, reason=reason):
            log.warning(Log.SUBMISSION_REFUSED, run=submission.run, reason=reason)
        case c.CompleteRun(run=run, was_complete=False):
            log.info(Log.RUN_COMPLETED, run=run)
        case c.SaveWorker(profile=worker, event=event, reason=reason):
            log.info(Log.WORKER_CHANGED, worker=worker.title, now=event, reason=reason)
        case _:
            _log_task_command(log, command)


def _log_task_command(log: FilteringBoundLogger, command: c.Command) -> None:
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
        case c.RecordStaleResult(result=result, worker=name):
            task = (result.run, result.id)
            log.info(Log.STALE_RESULT, task=task, attempt=result.attempt, worker=name)
        case _:
            pass
