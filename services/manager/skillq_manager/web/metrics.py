"""Metrics for Prometheus. No label holds a name that users choose."""

from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from skillq.messages import TERMINAL, Outcome, TaskStatus
from skillq_manager.outbound.counters import Counters
from skillq_manager.web.models import Leadership, Summary


class _Snapshot(Collector):
    """The metrics of one moment; `unreadable` is None if the number is unknown."""

    def __init__(
        self, summary: Summary, counters: Counters, *, ready: bool, unreadable: int | None
    ) -> None:
        self._summary = summary
        self._counters = counters
        self._ready = ready
        self._unreadable = unreadable

    def collect(self) -> Iterable[Metric]:
        """Implements `prometheus_client.registry.Collector`."""
        yield from _gauges(self._summary)
        yield from _counters(self._counters)
        yield from _manager_flags(self._summary.manager, ready=self._ready)
        if self._unreadable is not None:
            yield GaugeMetricFamily(
                "skillq_dead_letters",
                "Unreadable messages that wait for an operator.",
                self._unreadable,
            )


def _gauges(summary: Summary) -> Iterable[Metric]:
    yield _gauge("skillq_tasks", "Tasks by status.", "status", summary.tasks)
    yield GaugeMetricFamily(
        "skillq_ready_tasks", "Tasks that wait for a worker.", summary.tasks[TaskStatus.READY]
    )
    yield _gauge(
        "skillq_runs", "Runs by whether all their tasks have ended.", "state", dict(summary.runs)
    )
    yield _gauge("skillq_workers", "Connected workers by status.", "status", summary.workers)
    slots = {"busy": summary.slots.busy, "free": summary.slots.free}
    yield _gauge("skillq_slots", "Slots of the connected workers.", "state", slots)


def _counters(counters: Counters) -> Iterable[Metric]:
    """Yield counters since the start of this manager; only the leader increases its counters."""
    ended = {status: counters.ended[status] for status in TaskStatus if status in TERMINAL}
    yield _counter("skillq_tasks_ended", "Tasks that have ended, by status.", "status", ended)
    attempts = {outcome: counters.attempts[outcome] for outcome in Outcome}
    yield _counter("skillq_attempts_ended", "Attempts that have ended.", "outcome", attempts)
    for name, meaning, count in (
        ("retries", "Attempts that failed or were lost, and are retried.", counters.retries),
        (
            "tasks_sent_again",
            "Ended tasks that an operator has retried.",
            counters.operator_retries,
        ),
        (
            "stale_results",
            "Results that came late, twice or from elsewhere.",
            counters.stale_results,
        ),
        (
            "parked_messages",
            "Unreadable messages, moved to the dead-letter queue.",
            counters.unreadable,
        ),
    ):
        yield CounterMetricFamily(f"skillq_{name}", meaning, count)


def _manager_flags(manager: Leadership, *, ready: bool) -> Iterable[Metric]:
    for name, meaning, flag in (
        (
            "ready",
            "1 while it leads and receives heartbeats, or stands by and the broker is connected.",
            ready,
        ),
        ("leader", "1 while this manager decides, 0 while it stands by.", manager.leading),
        (
            "blind",
            "1 while it leads and cannot receive heartbeats; then it takes no worker for lost.",
            manager.blind,
        ),
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


def render(summary: Summary, counters: Counters, *, ready: bool, unreadable: int | None) -> bytes:
    """Return all metrics in the text format of Prometheus."""
    registry = CollectorRegistry()
    registry.register(_Snapshot(summary, counters, ready=ready, unreadable=unreadable))
    return generate_latest(registry)
