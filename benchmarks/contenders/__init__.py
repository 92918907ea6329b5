"""The contenders do the same no-op tasks over RabbitMQ, set up as users would do it.

Each contender has a module with the app of its workers and the client (`Client`, or `connect` if it is async).
"""

from dataclasses import dataclass

HERE = "benchmarks.contenders"
DEFAULTS, DURABLE = "defaults", "durable"
SLOTS = 8  # of a skillq worker


@dataclass(frozen=True)
class Contender:
    name: str
    variant: str
    module: str
    settings: str
    packages: tuple[str, ...] = ()  # whose versions the report names
    services: tuple[tuple[str, ...], ...] = ()  # python -m …
    consumers: int = 0  # that must be on the broker before the start
    database: bool = False

    @property
    def title(self) -> str:
        return f"{self.name}, {self.variant}"


_SKILLQ_WORKERS = tuple(
    ("skillq_cli", "worker", f"{HERE}.skillq:handlers", "--name", name, "--slots", str(SLOTS))
    for name in ("one", "two")
)

CONTENDERS = (
    *(
        Contender(
            "Celery",
            variant,
            f"{HERE}.celery",
            settings,
            ("celery", "kombu", "amqp"),
            (
                (
                    "celery",
                    "-A",
                    f"{HERE}.celery",
                    "-q",
                    "worker",
                    "--concurrency",
                    "2",
                    "--loglevel",
                    "ERROR",
                ),
            ),
            1,
        )
        for variant, settings in (
            (DEFAULTS, "worker --concurrency 2; rpc:// results"),
            (
                DURABLE,
                "confirm_publish, task_acks_late, result_persistent, worker --concurrency 2; rpc:// results",
            ),
        )
    ),
    *(
        Contender(
            "Dramatiq",
            variant,
            f"{HERE}.dramatiq",
            settings,
            ("dramatiq", "pika"),
            (("dramatiq", f"{HERE}.dramatiq", "--processes", "2"),),
            4,  # each process consumes the queue and its delayed one
        )
        for variant, settings in (
            (DEFAULTS, "--processes 2 (8 threads each); results to a queue, by middleware"),
            (
                DURABLE,
                "confirm_delivery, --processes 2 (8 threads each); persistent results to a durable queue, by middleware",
            ),
        )
    ),
    *(
        Contender(
            "Taskiq",
            variant,
            f"{HERE}.taskiq",
            settings,
            ("taskiq", "taskiq-aio-pika", "aio-pika"),
            (
                (
                    "taskiq",
                    "worker",
                    f"{HERE}.taskiq:broker",
                    "--workers",
                    "2",
                    "--log-level",
                    "ERROR",
                    *more,
                ),
            ),
            2,
        )
        for variant, settings, more in (
            (DEFAULTS, "--workers 2; results to a queue, by result backend", ()),
            (
                DURABLE,
                "--workers 2 --ack-type when_saved; persistent results to a durable queue, by result backend",
                ("--ack-type", "when_saved"),
            ),
        )
    ),
    *(
        Contender(
            "FastStream",
            variant,
            f"{HERE}.faststream",
            settings,
            ("faststream", "aio-pika"),
            (
                (
                    "faststream",
                    "run",
                    f"{HERE}.faststream:app",
                    "--workers",
                    "2",
                    "--log-level",
                    "error",
                ),
            ),
            2,
        )
        for variant, settings in (
            (DEFAULTS, "run --workers 2; replies to a queue of the client's"),
            (
                DURABLE,
                "persist=True, durable queues, persistent replies to a durable queue; run --workers 2",
            ),
        )
    ),
    *(
        Contender(
            "plain aio-pika",
            variant,
            f"{HERE}.aio_pika",
            settings,
            ("aio-pika", "aiormq"),
            ((f"{HERE}.aio_pika",), (f"{HERE}.aio_pika",)),
            2,
        )
        for variant, settings in (
            ("fast", "no confirms, no acknowledgements, transient; prefetch 100"),
            (
                DURABLE,
                "confirms, durable queues, acknowledged after the reply is confirmed; prefetch 100",
            ),
        )
    ),
    Contender(
        "plain aio-pika through a manager",
        DURABLE,
        f"{HERE}.managed",
        "a process between, with SQLite, synchronous=FULL: four messages and two commits for a task; quorum queues",
        ("aio-pika", "aiormq"),
        ((f"{HERE}.managed",), (f"{HERE}.managed", "one"), (f"{HERE}.managed", "two")),
        5,
    ),
    *(
        Contender(
            "bare sockets through a manager",
            variant,
            f"{HERE}.bare",
            f"the same messages and commits, and as little else as can be: no driver, nobody waits for a confirm; {queues}",
            ("pamqp",),
            ((f"{HERE}.bare",), (f"{HERE}.bare", "one"), (f"{HERE}.bare", "two")),
            5,
        )
        for variant, queues in ((DURABLE, "quorum queues"), ("classic queues", "persistent"))
    ),
    *(
        Contender(
            "skillq",
            variant,
            f"{HERE}.skillq",
            settings,
            ("skillq", "aio-pika", *more),
            (("skillq_cli", "manager", "--http-port", "0"), *_SKILLQ_WORKERS),
            5,  # the manager's three queues, and each worker's
            database=bool(more),
        )
        for variant, settings, more in (
            ("SQLite", "durable: synchronous=FULL, quorum queues; a manager and two workers", ()),
            (
                "PostgreSQL",
                "durable: fsync on, quorum queues; a manager and two workers",
                ("asyncpg",),
            ),
        )
    ),
    Contender(
        "skillq",
        "embedded",
        f"{HERE}.embedded",
        "one process, memory transport and store; two workers",
        ("skillq",),
    ),
)
