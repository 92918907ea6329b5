"""Choose the lane of each test, and find the tests that need a server or run alone."""

import re
from collections.abc import Sequence
from pathlib import PurePath

import pytest

UNIT, SIMULATION, SERVERS = LANES = ("unit", "simulation", "servers")
# One xdist worker runs all tests of a group; `serial` has a group in each folder.
SERIAL, CHAOS = "serial", "chaos"
_GROUP = re.compile(rf"@({CHAOS}|{SERIAL}-\w+)$")
DEFAULT_TIMEOUT = 120.0


def needs_broker(item: pytest.Item) -> bool:
    fixtures = getattr(item, "fixturenames", ())
    marked = item.get_closest_marker("rabbitmq") is not None
    return not _is_unit(item) and (marked or "broker" in fixtures)


def needs_postgres(item: pytest.Item) -> bool:
    chosen = getattr(getattr(item, "callspec", None), "params", {}).values()
    used = "postgresql" in chosen or "postgres" in getattr(item, "fixturenames", ())
    return not _is_unit(item) and used


def _is_unit(item: pytest.Item) -> bool:
    """Return whether the test is a unit test: it gets no server, and its `broker` is a fake."""
    return _folder(item) == "unit"


def _folder(item: pytest.Item) -> str:
    return item.path.relative_to(item.config.rootpath / "tests").parts[0]


def lane_of(item: pytest.Item) -> str:
    """Return the lane of this test."""
    folder = _folder(item)
    if folder == "simulation":
        return SIMULATION
    if folder in {"e2e", "chaos"} or needs_broker(item) or needs_postgres(item):
        return SERVERS
    return UNIT


def group_of(item: pytest.Item) -> str | None:
    """Return the group of a test that cannot share its broker or its time with the others."""
    fixtures = getattr(item, "fixturenames", ())
    if "broker_faults" in fixtures:
        return CHAOS
    if "restartable" in fixtures or item.get_closest_marker("serial") is not None:
        return f"{SERIAL}-{_folder(item)}"
    return None


def timeout_of(item: pytest.Item) -> float:
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0]) if marker is not None else DEFAULT_TIMEOUT


def arrange(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests of other lanes, mark the groups, and put long tests first."""
    lane = config.option.lane
    if lane is not None:
        others = [item for item in items if lane_of(item) != lane]
        items[:] = [item for item in items if lane_of(item) == lane]
        config.hook.pytest_deselected(items=others)
    for item in items:
        group = group_of(item)
        if group is not None:
            item.add_marker(pytest.mark.xdist_group(group))
    if is_worker(config):
        # The longest tests start first, so that no long test runs alone at the end.
        items.sort(key=timeout_of, reverse=True)


def check_groups(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    """Refuse a pytest-xdist that ignores groups: tests would restart others' brokers."""
    if is_worker(config) and config.option.loadgroup:
        for item in items:
            group = group_of(item)
            if group is not None and not item.nodeid.endswith(f"@{group}"):
                raise pytest.UsageError(f"pytest-xdist ignores the group {group} of {item.nodeid}")


def is_worker(config: pytest.Config) -> bool:
    """Return whether this process is a worker of pytest-xdist."""
    return hasattr(config, "workerinput")


def may_need_servers(lane: str | None, arguments: Sequence[str]) -> bool:
    """Return whether a test may need a broker or a database; no test is collected yet."""
    if lane is not None:
        return lane == SERVERS
    parts = [PurePath(argument.partition("::")[0]).parts for argument in arguments]
    return any("unit" not in part and "simulation" not in part for part in parts)


def plain_id(node_id: str) -> str:
    """Return the id of a test without the group that pytest-xdist appends to it."""
    return _GROUP.sub("", node_id)
