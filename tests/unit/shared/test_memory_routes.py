"""Where the memory broker sends a message: as RabbitMQ does, and at a price that does not grow with the fleet."""

import random
from collections import Counter

import pytest

from skillq import topology
from skillq.topology import Binding, Queue, Topology, key_matches
from skillq.transport.memory import MemoryBroker
from skillq.transport.memory import broker as broker_module

FLEET = 300
WORDS, PATTERNS = ("a", "b"), ("a", "b", "*", "#")


def sent_to(broker: MemoryBroker, exchange: str, key: str) -> list[str]:
    return [queue.name for queue in broker._route(exchange, key)]


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a key was held against a pattern."""
    count: Counter[str] = Counter()

    def counting(pattern: str, key: str) -> bool:
        count[pattern] += 1
        return key_matches(pattern, key)

    monkeypatch.setattr(broker_module, "key_matches", counting)
    return count


async def test_a_message_to_one_worker_is_not_held_against_the_keys_of_all(
    compared: Counter[str],
) -> None:
    broker = MemoryBroker()
    broker.declare(topology.MANAGER)
    for n in range(FLEET):
        broker.declare(topology.worker_topology(f"w{n}"))
        for key in (f"assignment.w{n}", f"stop.w{n}"):
            assert sent_to(broker, topology.COMMANDS, key) == [topology.worker_queue(f"w{n}")]
    assert len(sent_to(broker, topology.COMMANDS, "stop.all")) == FLEET
    assert compared.total() == 0


async def test_a_worker_that_is_declared_again_costs_the_others_nothing(
    compared: Counter[str],
) -> None:
    broker = MemoryBroker()
    broker.declare(topology.MANAGER)
    sent_to(broker, topology.REPORTS, "connect.w1")
    before = compared.total()
    for n in range(FLEET):
        broker.declare(topology.worker_topology(f"w{n}"))
        sent_to(broker, topology.REPORTS, "connect.w1")
    assert compared.total() == before


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_is_bound_and_deleted_each_key_goes_where_its_bindings_say(
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
            wanted = {q for q, keys in bound.items() if any(key_matches(k, key) for k in keys)}
            found = sent_to(broker, "x", key) if bound else []
            assert sorted(found) == sorted(wanted)
