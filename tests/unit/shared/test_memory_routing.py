"""The memory broker routes as RabbitMQ does, at a cost independent of the fleet's size."""

import random
from collections import Counter

import pytest

from skillq import topology
from skillq.topology import Binding, Queue, Topology, key_matches
from skillq.transport.memory import MemoryBroker
from skillq.transport.memory import broker as broker_module

WORKERS = 300
WORDS, PATTERNS = ("a", "b"), ("a", "b", "*", "#")


def route(broker: MemoryBroker, exchange: str, key: str) -> list[str]:
    return [queue.name for queue in broker._route(exchange, key)]


@pytest.fixture
def comparisons(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count how often a key is comparisons with each pattern."""
    count: Counter[str] = Counter()

    def counting(pattern: str, key: str) -> bool:
        count[pattern] += 1
        return key_matches(pattern, key)

    monkeypatch.setattr(broker_module, "key_matches", counting)
    return count


async def test_a_message_to_one_worker_is_not_compared_with_the_keys_of_all(
    comparisons: Counter[str],
) -> None:
    broker = MemoryBroker()
    broker.declare(topology.MANAGER)
    for n in range(WORKERS):
        broker.declare(topology.worker_topology(f"w{n}"))
        for key in (f"assignment.w{n}", f"stop.w{n}"):
            assert route(broker, topology.COMMANDS, key) == [topology.worker_queue(f"w{n}")]
    assert len(route(broker, topology.COMMANDS, "stop.all")) == WORKERS
    assert comparisons.total() == 0


async def test_declaring_a_worker_queue_does_not_slow_other_routing_keys(
    comparisons: Counter[str],
) -> None:
    broker = MemoryBroker()
    broker.declare(topology.MANAGER)
    route(broker, topology.REPORTS, "connect.w1")
    before = comparisons.total()
    for n in range(WORKERS):
        broker.declare(topology.worker_topology(f"w{n}"))
        route(broker, topology.REPORTS, "connect.w1")
    assert comparisons.total() == before


@pytest.mark.parametrize("seed", range(20))
async def test_after_any_binds_and_deletes_each_key_goes_to_the_queues_bound_to_it(
    seed: int,
) -> None:
    rng, broker = random.Random(seed), MemoryBroker()
    bound: dict[str, set[str]] = {}
    for _ in range(60):
        queue = f"q{rng.randrange(4)}"
        if rng.random() < 0.2:
            broker.delete_queue(queue)
            bound.pop(queue, None)
        else:
            key = ".".join(rng.choices(PATTERNS, k=rng.randint(1, 3)))
            broker.declare(Topology(("x",), (Queue(queue, {}),), (Binding("x", key, queue),)))
            bound.setdefault(queue, set()).add(key)
        for key in ("a", "b.a", ".".join(rng.choices(WORDS, k=rng.randint(1, 3)))):
            expected = {q for q, keys in bound.items() if any(key_matches(k, key) for k in keys)}
            found = route(broker, "x", key) if bound else []
            assert sorted(found) == sorted(expected)
