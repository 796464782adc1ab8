"""SQLite has one writer: threads and processes take turns, and nobody ever sees "database is locked"."""

import multiprocessing
import sqlite3
import threading
from pathlib import Path

from holdfast.stores import open_store


def _write(path: str, times: int) -> None:
    store = open_store(f"sqlite:///{path}", "Fee")

    def thread() -> None:
        connection = store.connect()
        for _ in range(times):
            transaction = connection.begin()
            transaction.db.execute("UPDATE a SET x = x + 1")
            transaction.commit()
        connection.close()

    threads = [threading.Thread(target=thread) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    store.close()


def test_two_processes_of_four_threads_lose_no_update(tmp_path: Path) -> None:
    path = str(tmp_path / "a.db")
    store = open_store(f"sqlite:///{path}", "Fee")
    store.install("CREATE TABLE a (x INTEGER); INSERT INTO a VALUES (0)", lambda db: None)
    store.close()
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_write, args=(path, 25)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT x FROM a").fetchone() == (200,)
    connection.close()
