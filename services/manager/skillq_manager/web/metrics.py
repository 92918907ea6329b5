"""Metrics for Prometheus, computed when they are asked for. No label holds a name that users choose."""

from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from skillq.messages import TERMINAL, Outcome, TaskStatus
from skillq_manager.outbound.counters import Counters
from skillq_manager.web.models import Leadership, Summary


class _Snapshot(Collector):
    def __init__(
        self, summary: Summary, tally: Counters, *, ready: bool, parked: int | None
    ) -> None:
        self._summary = summary
        self._tally = tally
        self._ready = ready
        self._parked = parked

    def collect(self) -> Iterable[Metric]:
        yield from _gauges(self._summary)
        yield from _counters(self._tally)
        yield from _flags(self._summary.manager, ready=self._ready)
        if self._parked is not None:
            yield GaugeMetricFamily(
                "skillq_dead_letters", "Parked messages that wait for an operator.", self._parked
            )


def _gauges(now: Summary) -> Iterable[Metric]:
    yield _gauge("skillq_tasks", "Tasks by status.", "status", now.tasks)
    yield GaugeMetricFamily(
        "skillq_ready_tasks", "Tasks that wait for a worker.", now.tasks[TaskStatus.READY]
    )
    yield _gauge(
        "skillq_runs", "Runs by whether all their tasks have ended.", "state", dict(now.runs)
    )
    yield _gauge("skillq_workers", "Workers that are there.", "status", now.workers)
    slots = {"busy": now.slots.busy, "free": now.slots.free}
    yield _gauge("skillq_slots", "Slots of the workers that are there.", "state", slots)


def _counters(tally: Counters) -> Iterable[Metric]:
    """Since this manager started; of several managers, only the one that leads goes on counting."""
    ended = {status: tally.ended[status] for status in TaskStatus if status in TERMINAL}
    yield _counter("skillq_tasks_ended", "Tasks that have ended, by how.", "status", ended)
    attempts = {outcome: tally.attempts[outcome] for outcome in Outcome}
    yield _counter("skillq_attempts_ended", "Attempts that have ended.", "outcome", attempts)
    for name, meaning, count in (
        ("retries", "Attempts that failed or were lost, and are made again.", tally.retries),
        (
            "tasks_sent_again",
            "Ended tasks that an operator has sent again.",
            tally.operator_retries,
        ),
        ("stale_results", "Results that came late, twice or from elsewhere.", tally.stale),
        ("parked_messages", "Messages parked because nobody could read them.", tally.unreadable),
    ):
        yield CounterMetricFamily(f"skillq_{name}", meaning, count)


def _flags(manager: Leadership, *, ready: bool) -> Iterable[Metric]:
    for name, meaning, flag in (
        ("ready", "1 while it leads and hears, or stands by and the broker is connected.", ready),
        ("leader", "1 while this manager decides, 0 while it stands by.", manager.leading),
        ("blind", "1 while it leads and cannot hear workers; it judges none then.", manager.blind),
    ):
        yield GaugeMetricFamily(f"skillq_manager_{name}", meaning, int(flag))


def _counter(name: str, help: str, label: str, values: Mapping[Any, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, help, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family


def _gauge(name: str, help: str, label: str, values: Mapping[Any, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, help, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family


def render(summary: Summary, tally: Counters, *, ready: bool, parked: int | None) -> bytes:
    registry = CollectorRegistry()
    registry.register(_Snapshot(summary, tally, ready=ready, parked=parked))
    return generate_latest(registry)
