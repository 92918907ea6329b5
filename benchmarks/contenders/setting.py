"""What the harness tells the processes of a contender, by environment."""

import os

URL_VARIABLE, VARIANT_VARIABLE = "BENCH_BROKER_URL", "BENCH_VARIANT"
URL = os.environ.get(URL_VARIABLE, "amqp://guest:guest@localhost:5672/")
DURABLE = os.environ.get(VARIANT_VARIABLE) == "durable"
REPLIES = "bench.replies"  # where a contender has no results of its own that RabbitMQ could carry
PATIENCE = 120.0  # seconds for a result
