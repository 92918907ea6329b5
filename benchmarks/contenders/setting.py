"""Settings of the processes of a contender, passed in environment variables."""

import os

URL_VARIABLE, VARIANT_VARIABLE = "BENCH_BROKER_URL", "BENCH_VARIANT"
URL = os.environ.get(URL_VARIABLE, "amqp://guest:guest@localhost:5672/")
DURABLE = os.environ.get(VARIANT_VARIABLE) == "durable"
REPLIES = "bench.replies"  # for contenders whose own results do not go through RabbitMQ
PATIENCE = 120.0  # seconds for a result
