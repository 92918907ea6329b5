"""Every exchange, queue and binding of skillq, defined once, as data.

| exchange (topic, durable) | routing keys | bound queue |
|---|---|---|
| `skillq.submissions` client → manager | `submit.<client>` | `skillq.manager.submissions` |
| `skillq.reports` worker → manager | `connect` `disconnect` `result` `progress` `.<w>` | `skillq.manager.reports` |
| | `heartbeat.<w>` | `skillq.manager.heartbeats` |
| `skillq.commands` manager → worker | `assignment.<w>` `cancel.<w>` `stop.<w>` `stop.all` | `skillq.worker.<w>` |
| `skillq.events` manager → anyone | `task.<run>.<type>.<status>` `worker.<w>.<event>` `run.<run>.<status>` | any queue that a listener binds |
| `skillq.dead-letters` | the queue it came from | `skillq.dead-letters` |
"""

from dataclasses import dataclass, field

from skillq import timings

SUBMISSIONS = "skillq.submissions"
REPORTS = "skillq.reports"
COMMANDS = "skillq.commands"
EVENTS = "skillq.events"
DEAD_LETTERS = "skillq.dead-letters"  # the exchange and its queue

MANAGER_SUBMISSIONS = "skillq.manager.submissions"
MANAGER_REPORTS = "skillq.manager.reports"
MANAGER_HEARTBEATS = "skillq.manager.heartbeats"

# A broker restart counts as a delivery: the limit is so high that no good message ever reaches it.
_DELIVERY_LIMIT = 1_000_000

Argument = str | int | bool


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable queue. `arguments` have the names of RabbitMQ's documentation."""

    name: str
    arguments: dict[str, Argument] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Binding:
    """A binding of a queue to an exchange with a binding key."""

    exchange: str
    key: str
    queue: str


@dataclass(frozen=True, slots=True)
class Topology:
    """Durable topic exchanges, queues and bindings, to be declared in this order."""

    exchanges: tuple[str, ...] = ()
    queues: tuple[Queue, ...] = ()
    bindings: tuple[Binding, ...] = ()


def _quorum_queue(name: str) -> Queue:
    return Queue(
        name,
        {
            "x-queue-type": "quorum",
            "x-delivery-limit": _DELIVERY_LIMIT,
            "x-dead-letter-exchange": DEAD_LETTERS,
            "x-dead-letter-routing-key": name,
        },
    )


MANAGER = Topology(
    exchanges=(SUBMISSIONS, REPORTS, COMMANDS, EVENTS, DEAD_LETTERS),
    queues=(
        _quorum_queue(MANAGER_SUBMISSIONS),
        _quorum_queue(MANAGER_REPORTS),
        Queue(
            MANAGER_HEARTBEATS,
            {
                "x-queue-type": "classic",
                "x-max-length": 10_000,
                "x-overflow": "drop-head",
                "x-message-ttl": int(timings.HEARTBEAT_TTL_SECONDS * 1000),
            },
        ),
        Queue(DEAD_LETTERS, {"x-queue-type": "quorum", "x-delivery-limit": _DELIVERY_LIMIT}),
    ),
    bindings=(
        Binding(SUBMISSIONS, "submit.*", MANAGER_SUBMISSIONS),
        Binding(REPORTS, "connect.*", MANAGER_REPORTS),
        Binding(REPORTS, "disconnect.*", MANAGER_REPORTS),
        Binding(REPORTS, "result.*", MANAGER_REPORTS),
        Binding(REPORTS, "progress.*", MANAGER_REPORTS),
        Binding(REPORTS, "heartbeat.*", MANAGER_HEARTBEATS),
        Binding(DEAD_LETTERS, "#", DEAD_LETTERS),
    ),
)


def worker_queue(worker: str) -> str:
    """Return the name of the queue of a worker."""
    return f"skillq.worker.{worker}"


def worker_topology(worker: str) -> Topology:
    """Return a worker's queue and bindings; the manager declares them when it connects."""
    queue = worker_queue(worker)
    return Topology(
        queues=(
            Queue(
                queue,
                {
                    "x-queue-type": "classic",
                    "x-expires": int(timings.WORKER_QUEUE_EXPIRES_SECONDS * 1000),
                    "x-dead-letter-exchange": DEAD_LETTERS,
                    "x-dead-letter-routing-key": queue,
                },
            ),
        ),
        bindings=(
            Binding(COMMANDS, f"assignment.{worker}", queue),
            Binding(COMMANDS, f"cancel.{worker}", queue),
            Binding(COMMANDS, f"stop.{worker}", queue),
            Binding(COMMANDS, "stop.all", queue),
        ),
    )


def key_matches(pattern: str, key: str) -> bool:
    """Return whether a binding key matches a routing key: `*` is one word, `#` any number."""
    return _words_match(pattern.split("."), key.split("."))


def is_pattern(key: str) -> bool:
    """Return whether a binding key may match other routing keys than itself."""
    return "*" in key or "#" in key


def _words_match(pattern: list[str], words: list[str]) -> bool:
    if not pattern:
        return not words
    first, rest = pattern[0], pattern[1:]
    if first == "#":
        return any(_words_match(rest, words[i:]) for i in range(len(words) + 1))
    return bool(words) and first in {"*", words[0]} and _words_match(rest, words[1:])
