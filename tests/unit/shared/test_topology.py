"""The exchanges, queues and bindings on the broker, and matching of routing keys."""

import re

import hypothesis.strategies as st
import pytest
from hypothesis import given

from skillq import topology
from skillq.topology import MANAGER, key_matches, worker_queue, worker_topology
from tests.support.factories import budget

WORDS = st.lists(st.sampled_from(["a", "b", "task"]), max_size=5)


@pytest.mark.parametrize(
    ("pattern", "key", "expected"),
    [
        ("submit.*", "submit.ada", True),
        ("submit.*", "submit", False),
        ("submit.*", "submit.ada.more", False),
        ("#", "", True),
        ("#", "any.thing.at.all", True),
        ("task.#", "task", True),
        ("task.#.failed", "task.run.type.failed", True),
        ("task.#.failed", "task.failed", True),
        ("task.*.failed", "task.failed", False),
        ("*.#", "", True),
        ("a.b", "a.b", True),
        ("a.b", "a", False),
        ("a.b", "a.c", False),
        ("#.#", "a", True),
    ],
)
def test_a_star_is_one_word_and_a_hash_any_number(pattern: str, key: str, expected: bool) -> None:
    assert key_matches(pattern, key) is expected


@given(pattern=st.lists(st.sampled_from(["a", "b", "*", "#"]), min_size=1, max_size=5), words=WORDS)
@budget(200)
def test_a_key_matches_a_pattern_as_the_equivalent_regular_expression_does(
    pattern: list[str], words: list[str]
) -> None:
    signs = {"*": r"[^.]+\.", "#": r"(?:[^.]+\.)*"}
    expression = "".join(signs.get(part, rf"{part}\.") for part in pattern)
    key = ".".join(words)
    if words:
        expected = re.fullmatch(expression, f"{key}.") is not None
        assert key_matches(".".join(pattern), key) is expected


def test_every_binding_joins_a_declared_exchange_and_a_declared_queue() -> None:
    queues = {queue.name for queue in MANAGER.queues}
    for binding in MANAGER.bindings:
        assert binding.exchange in MANAGER.exchanges
        assert binding.queue in queues


@pytest.mark.parametrize("word", ["connect", "disconnect", "result", "progress"])
def test_reports_of_workers_are_routed_to_the_reports_queue_only(word: str) -> None:
    assert _bound_queues(topology.REPORTS, f"{word}.ada") == [topology.MANAGER_REPORTS]


def test_heartbeats_have_a_queue_of_their_own() -> None:
    assert _bound_queues(topology.REPORTS, "heartbeat.ada") == [topology.MANAGER_HEARTBEATS]


def test_a_worker_queue_gets_its_own_commands_and_the_stop_for_all() -> None:
    bindings = worker_topology("ada").bindings
    received = [
        key
        for key in ("assignment.ada", "cancel.ada", "stop.ada", "stop.all", "assignment.bob", "stop.bob")
        if any(key_matches(binding.key, key) for binding in bindings)
    ]  # fmt: skip
    assert received == ["assignment.ada", "cancel.ada", "stop.ada", "stop.all"]
    assert {binding.queue for binding in bindings} == {worker_queue("ada")}


def test_rejected_messages_of_every_queue_go_to_the_dead_letter_queue() -> None:
    """Exceptions: the dead-letter queue itself, and heartbeats, which expire within seconds."""
    queues = [*MANAGER.queues, *worker_topology("ada").queues]
    without = {q.name for q in queues if "x-dead-letter-exchange" not in q.arguments}
    assert without == {topology.DEAD_LETTERS, topology.MANAGER_HEARTBEATS}


def test_the_table_in_the_module_docstring_names_every_exchange_and_queue() -> None:
    table = topology.__doc__ or ""
    for name in (*MANAGER.exchanges, *(queue.name for queue in MANAGER.queues)):
        assert f"`{name}`" in table


def _bound_queues(exchange: str, key: str) -> list[str]:
    return [b.queue for b in MANAGER.bindings if b.exchange == exchange and key_matches(b.key, key)]
