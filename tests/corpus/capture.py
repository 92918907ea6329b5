"""Capture the messages and stores of this release, as data for tests of later releases.

    python -m tests.corpus.capture

writes the folder tests/corpus/<version>/ of the installed version: 0.1 for 0.1.0. It does not overwrite an existing
folder. Run it on a release, never on work in progress, and commit the new folder; tests/contract/test_corpus.py reads
all folders. The program needs RabbitMQ and PostgreSQL, which it finds or starts as the tests do, and `pg_dump`.

| file | contents |
|---|---|
| `messages/<exchange>.jsonl` | a few messages of each kind, one a line: exchange, routing key, properties, headers, body |
| `store.sqlite`, `sqlite.json` | an SQLite file of runs in every status; the contents of its views |
| `postgresql.sql`, `postgresql.json` | the same by `pg_dump` from PostgreSQL |
| `fingerprints.json` | each task of these runs as its user wrote it, and its fingerprint |

The manager, the workers, the stores and the broker are real; `captured_runs.py` has the runs. That module publishes some
messages itself, as models of the product: of a worker that is lost, of a stop at once, of a submission in parts.
"""

import asyncio
import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from pathlib import Path

from skillq.runtime import logs
from skillq.transport.rabbitmq import RabbitTransport
from skillq_manager.store import open_store
from skillq_manager.store.url import MEMORY
from tests.corpus.captured_runs import LAST_KEY, CapturedRuns, run_and_stop
from tests.corpus.contents import (
    EXPECTED,
    FINGERPRINTS,
    HERE,
    MESSAGES,
    POSTGRESQL_DUMP,
    SQLITE_FILE,
    Json,
    Sent,
    contents,
)
from tests.corpus.local_system import LocalSystem
from tests.corpus.trace_reader import TraceReader, json_lines, select_messages
from tests.support.broker import Broker, find_broker
from tests.support.postgres import find_postgres, server_programs


def main() -> int:
    folder = HERE / ".".join(version("skillq").split(".")[:2])
    if folder.exists():
        sys.stderr.write(f"{folder} exists already and is not changed\n")
        return 2
    logs.configure("error", "console")
    with ExitStack() as stack:
        draft = Path(stack.enter_context(tempfile.TemporaryDirectory())) / folder.name
        draft.mkdir()
        broker, postgres = find_broker(), find_postgres()
        stack.callback(broker.stop)
        stack.callback(postgres.stop)
        messages, submitted = _on_sqlite(broker, draft)
        database = stack.enter_context(postgres.database_sync())
        _on_postgresql(broker, draft, database)
        messages += _capture_stop(broker)
        _write(draft / FINGERPRINTS, submitted)
        _write_messages(draft / MESSAGES, select_messages(messages))
        shutil.copytree(draft, folder)
    return 0


def _on_sqlite(broker: Broker, draft: Path) -> tuple[list[Sent], list[Json]]:
    with tempfile.TemporaryDirectory() as work_folder:
        file = Path(work_folder) / SQLITE_FILE
        url = f"sqlite:///{file}"
        with broker.vhost() as vhost:
            messages, submitted = asyncio.run(_capture_runs(broker, vhost, url))
        connection = sqlite3.connect(file, isolation_level=None)
        connection.execute("VACUUM")
        connection.close()
        shutil.copy(file, draft / SQLITE_FILE)
        _write(draft / EXPECTED["sqlite"], asyncio.run(_contents(url)))
    return messages, submitted


def _on_postgresql(broker: Broker, draft: Path, url: str) -> None:
    with broker.vhost() as vhost:
        asyncio.run(_capture_runs(broker, vhost, url))
    programs = server_programs()
    dump = [str(programs / "pg_dump") if programs else "pg_dump", "--dbname", url]
    dump += ["--inserts", "--no-owner", "--no-privileges", "--encoding=UTF8"]
    done = subprocess.run(dump, check=True, capture_output=True, text=True)
    # Newer releases of pg_dump write commands for psql alone, which no server reads.
    sql = [line for line in done.stdout.splitlines() if not line.startswith(("\\", "--"))]
    text = "\n".join(line for line in sql if line) + "\n"
    (draft / POSTGRESQL_DUMP).write_text(text)
    _write(draft / EXPECTED["postgresql"], asyncio.run(_contents(url)))


async def _capture_runs(
    broker: Broker, vhost: str, store_url: str
) -> tuple[list[Sent], list[Json]]:
    connect = partial(_transport, vhost)
    async with connect("trace") as transport, open_store(store_url, connect_timeout=30.0) as store:
        trace = TraceReader(broker, vhost, transport)
        await trace.open()
        async with LocalSystem(connect, store) as system:
            runs = CapturedRuns(system)
            await runs.run()
        return await trace.read(LAST_KEY), runs.submitted


def _capture_stop(broker: Broker) -> list[Sent]:
    async def leave(vhost: str) -> list[Sent]:
        connect = partial(_transport, vhost)
        async with connect("trace") as transport, open_store(MEMORY, connect_timeout=30.0) as store:
            trace = TraceReader(broker, vhost, transport)
            await trace.open()
            async with LocalSystem(connect, store, stop_when_done=True, head=0) as system:
                await run_and_stop(system)
            return await trace.read(LAST_KEY)

    with broker.vhost() as vhost:
        return asyncio.run(leave(vhost))


def _transport(url: str, app_id: str) -> RabbitTransport:
    return RabbitTransport(url, app_id=app_id, connection_name=f"corpus {app_id}")


async def _contents(url: str) -> Json:
    async with open_store(url, connect_timeout=30.0) as store:
        return await contents(store)


def _write_messages(folder: Path, messages: list[Sent]) -> None:
    folder.mkdir()
    for exchange in sorted({sent.exchange for sent in messages}):
        of_exchange = [sent for sent in messages if sent.exchange == exchange]
        (folder / f"{exchange.removeprefix('skillq.')}.jsonl").write_text(json_lines(of_exchange))


def _write(file: Path, content: object) -> None:
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())
