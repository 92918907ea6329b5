"""Metrics for Prometheus, computed when they are asked for. No label holds a name that users choose."""

from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from skillq.messages import TERMINAL, TaskStatus
from skillq_manager.web.models import Summary


class _Snapshot(Collector):
    def __init__(self, summary: Summary, *, ready: bool) -> None:
        self._summary = summary
        self._ready = ready

    def collect(self) -> Iterable[Metric]:
        now = self._summary
        yield _gauge("skillq_tasks", "Tasks by status.", "status", now.tasks)
        ended = CounterMetricFamily(
            "skillq_tasks_ended", "Tasks that have ended, by how.", labels=["status"]
        )
        for status, count in now.tasks.items():
            if status in TERMINAL:
                ended.add_metric([status], count)
        yield ended
        yield GaugeMetricFamily(
            "skillq_ready_tasks", "Tasks that wait for a worker.", now.tasks[TaskStatus.READY]
        )
        yield _gauge(
            "skillq_runs", "Runs by whether all their tasks have ended.", "state", dict(now.runs)
        )
        yield _gauge("skillq_workers", "Workers that are there.", "status", now.workers)
        slots = {"busy": now.slots.busy, "free": now.slots.free}
        yield _gauge("skillq_slots", "Slots of the workers that are there.", "state", slots)
        yield GaugeMetricFamily(
            "skillq_manager_ready",
            "1 while the broker is connected and the manager's consumers are proven live.",
            int(self._ready),
        )


def _gauge(name: str, help: str, label: str, values: Mapping[Any, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, help, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family


def render(summary: Summary, *, ready: bool) -> bytes:
    registry = CollectorRegistry()
    registry.register(_Snapshot(summary, ready=ready))
    return generate_latest(registry)
