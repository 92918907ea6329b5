"""Dramatiq over RabbitMQ; a middleware sends results to a queue, instead of Redis."""

import threading
from queue import SimpleQueue
from typing import Any

import dramatiq
import pika
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from benchmarks.contenders.setting import DURABLE, PATIENCE, REPLIES, URL


class Replies(dramatiq.Middleware):
    def after_process_message(
        self, broker: Any, message: Any, *, result: Any = None, exception: Any = None
    ) -> None:
        broker.channel.basic_publish(
            "",
            REPLIES,
            message.message_id.encode(),
            pika.BasicProperties(delivery_mode=2 if DURABLE else 1),
            mandatory=DURABLE,
        )


broker = RabbitmqBroker(url=URL, confirm_delivery=DURABLE)
broker.add_middleware(Replies())
dramatiq.set_broker(broker)


@dramatiq.actor
def noop() -> str:
    return "ok"


class Client:
    def __init__(self) -> None:
        self._ended: SimpleQueue[str] = SimpleQueue()
        is_ready = threading.Event()
        threading.Thread(target=self._listen, args=[is_ready], daemon=True).start()
        is_ready.wait(PATIENCE)

    def _listen(self, is_ready: threading.Event) -> None:
        channel = pika.BlockingConnection(pika.URLParameters(URL)).channel()
        channel.queue_declare(REPLIES, durable=DURABLE)

        def on_reply(channel: Any, method: Any, properties: Any, body: bytes) -> None:
            if DURABLE:
                channel.basic_ack(method.delivery_tag)
            self._ended.put(body.decode())

        channel.basic_consume(REPLIES, on_reply, auto_ack=not DURABLE)
        is_ready.set()
        channel.start_consuming()

    def many(self, count: int) -> int:
        missing = {noop.send().message_id for _ in range(count)}
        while missing:
            missing.discard(self._ended.get(timeout=PATIENCE))
        return count

    def one(self) -> None:
        sent = noop.send().message_id
        while self._ended.get(timeout=PATIENCE) != sent:
            pass
