"""What the fee daemon is measured against: a port of the article's example, and a bare ROUTER that commits each message.

    python article_port.py article|bare mariadb|postgresql URL tcp://127.0.0.1:PORT THREADS

`article`: a REP socket that answers at once and puts the message into a queue, from which threads take it, each with a connection of its
own that commits every statement. It answers before the work, and loses what is in the queue when it is killed.
`bare`: no framework, no inbox: one thread that reads, works, commits once, answers.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from typing import Any
from urllib.parse import urlsplit

import zmq

INSERT = "INSERT INTO fee (ticket, login, volume, status) VALUES (%s, %s, %s, 'N')"
UPDATE = "UPDATE fee SET status = 'Y' WHERE ticket = %s AND status = 'N'"


def connect(kind: str, url: str, *, autocommit: bool) -> Any:
    """A connection by the same driver as Holdfast's, without TLS."""
    place = urlsplit(url)
    if kind == "postgresql":
        import psycopg

        return psycopg.connect(f"{url.partition('?')[0]}?sslmode=disable", autocommit=autocommit)
    import pymysql

    return pymysql.connect(
        host=place.hostname,
        port=place.port or 3306,
        user=place.username,
        password=place.password or "",
        database=place.path[1:],
        autocommit=autocommit,
        ssl_disabled=True,
    )


def work(connection: Any, body: bytes) -> None:
    """The two statements of a message."""
    ticket, login, volume = body.decode().split(",")
    with connection.cursor() as cursor:
        cursor.execute(INSERT, (ticket, login, volume))
        cursor.execute(UPDATE, (ticket,))


def article(kind: str, url: str, endpoint: str, threads: int) -> None:
    waiting: queue.Queue[bytes] = queue.Queue()
    ready = threading.Barrier(threads + 1)

    def live() -> None:
        connection = connect(kind, url, autocommit=True)
        ready.wait()
        while True:
            work(connection, waiting.get())

    for _ in range(threads):
        threading.Thread(target=live, daemon=True).start()
    ready.wait()
    socket = zmq.Context().socket(zmq.REP)
    socket.sndhwm = 0  # a full queue drops answers: one client with 1000 in flight then waits for ever
    socket.bind(endpoint)
    print("ready", flush=True)
    while True:
        waiting.put(socket.recv())
        socket.send(b"TRUE")


def bare(kind: str, url: str, endpoint: str, _threads: int) -> None:
    connection = connect(kind, url, autocommit=False)
    socket = zmq.Context().socket(zmq.ROUTER)
    socket.bind(endpoint)
    print("ready", flush=True)
    while True:
        *envelope, body = socket.recv_multipart()
        work(connection, body)
        connection.commit()
        socket.send_multipart([*envelope, b"TRUE"])


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    {"article": article, "bare": bare}[sys.argv[1]](sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]))
