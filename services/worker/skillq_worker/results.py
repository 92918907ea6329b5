"""How attempts have ended, as it is told: written once, when it is known."""

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
    attempt: Attempt
    outcome: Outcome
    ended_at: float | None  # where it had begun
    body: bytes  # a `TaskResult`, without what is as by default


def result(
    attempt: Attempt,
    outcome: Outcome,
    *,
    output: JsonValue = None,
    error: str | None = None,
    error_types: tuple[str, ...] = (),
    started_at: float | None = None,
    finished_at: float | None = None,
) -> Result:
    """Not validated: it is all ours, but for the output, which was checked where it was made."""
    run, id, number = attempt
    # What is as by default is left out.
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
    # What is no number is null, as models write it: JSON has no word for it.
    return Result(attempt, outcome, finished_at, to_json(fields, inf_nan_mode="null"))


def report(worker: WorkerProfile, store: str, results: Sequence[Result]) -> Outgoing:
    """As a `TaskResults`, whose last field they are."""
    none = TaskResults(worker=worker.name, incarnation=worker.incarnation, store=store, results=())
    whole = b",".join([one.body for one in results])
    return Outgoing(encode(none).removesuffix(b"]}") + whole + b"]}", none.type)
