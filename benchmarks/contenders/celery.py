"""Celery over RabbitMQ, results by rpc://."""

from celery import Celery
from celery.result import ResultSet

from benchmarks.contenders.setting import DURABLE, PATIENCE, URL

app = Celery("bench", broker=URL, backend="rpc://")
if DURABLE:
    app.conf.update(
        broker_transport_options={"confirm_publish": True},
        task_acks_late=True,
        result_persistent=True,
    )


@app.task
def noop() -> str:
    return "ok"


class Client:
    def many(self, count: int) -> int:
        results = ResultSet([noop.delay() for _ in range(count)])
        outputs: list[str] = results.join_native(timeout=PATIENCE)
        return outputs.count("ok")

    def one(self) -> None:
        if noop.delay().get(timeout=PATIENCE) != "ok":
            raise RuntimeError("a result is wrong")
