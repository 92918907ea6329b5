"""Encode the results of attempts. Each result is encoded once, when its attempt ends."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue
from pydantic_core import to_json

from skillq.messages import STATUS_TEXT, Outcome, TaskResults, WorkerProfile, encode
from skillq.transport import Outgoing
from skillq_worker.execution.slots import Attempt


@dataclass(slots=True)
class Result:
    """The result of one attempt, encoded."""

    attempt: Attempt
    outcome: Outcome
    ended_at: float | None  # None if the attempt has not started
    body: bytes  # a `TaskResult` as JSON, without fields that have their default


def make_result(
    attempt: Attempt,
    outcome: Outcome,
    *,
    output: JsonValue = None,
    error: str | None = None,
    error_types: tuple[str, ...] = (),
    started_at: float | None = None,
    finished_at: float | None = None,
) -> Result:
    """Return the encoded result of an attempt.

    The fields are not validated: the worker makes them all, and `to_output` has checked the output.
    """
    run, id, number = attempt
    # Fields that have their default are left out.
    fields: dict[str, Any] = {
        "run": run,
        "id": id,
        "attempt": number,
        "outcome": STATUS_TEXT[outcome],
    }
    if output is not None:
        fields["output"] = output
    if error is not None:
        fields["error"] = error
    if error_types:
        fields["error_types"] = error_types
    if started_at is not None:
        fields["started_at"] = started_at
    if finished_at is not None:
        fields["finished_at"] = finished_at
    # `to_output` has refused NaN and infinity. As in pydantic's models, they would become null here.
    return Result(attempt, outcome, finished_at, to_json(fields, inf_nan_mode="null"))


def results_message(worker: WorkerProfile, store: str, results: Sequence[Result]) -> Outgoing:
    """Return a `TaskResults` message; the encoded results are its last field."""
    empty = TaskResults(worker=worker.name, incarnation=worker.incarnation, store=store, results=())
    bodies = b",".join([result.body for result in results])
    return Outgoing(encode(empty).removesuffix(b"]}") + bodies + b"]}", empty.type)
