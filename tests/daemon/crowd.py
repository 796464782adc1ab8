"""Clients of a daemon: closed-loop REQ clients that send again after a time-out, and one pipelining DEALER."""

import sqlite3
import threading
import time
from collections import Counter
from pathlib import Path

import zmq


class Crowd:
    """Sends until told to stop. `answers` has the answers of each name, `longest` the longest wait for one."""

    def __init__(self, port: int, *, reqs: int = 8, window: int = 100, again_after: float = 30.0) -> None:
        self.endpoint = f"tcp://127.0.0.1:{port}"
        self.stop = threading.Event()
        self.answers: dict[str, set[bytes]] = {}
        self.answered = 0
        self.unanswered: set[str] = set()
        self.longest = 0.0
        self.again = 0
        self._again_after = again_after
        self._window = window
        self._lock = threading.Lock()
        self._context = zmq.Context()
        self._threads = [threading.Thread(target=self._req, args=(n,)) for n in range(reqs)]
        self._threads.append(threading.Thread(target=self._dealer))

    def __enter__(self) -> "Crowd":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.finish()

    def finish(self) -> None:
        """Stop sending; wait for the answers that are due."""
        self.stop.set()
        for thread in self._threads:
            thread.join()
        self._context.term()

    def _take(self, name: str, answer: bytes, waited: float) -> None:
        with self._lock:
            self.answers.setdefault(name, set()).add(answer)
            self.answered += 1
            self.longest = max(self.longest, waited)

    def _req(self, number: int) -> None:
        count = 0
        while not self.stop.is_set():
            name, began = f"r{number}.{count}", time.monotonic()
            count += 1
            while True:
                sock = self._context.socket(zmq.REQ)
                sock.linger = 0
                sock.connect(self.endpoint)
                ok = self._ask_until(sock, name, began)
                sock.close()
                if ok:
                    break
                if self.stop.is_set():
                    with self._lock:
                        self.unanswered.add(name)
                    return
                self.again += 1

    def _ask_until(self, sock: zmq.Socket, name: str, began: float) -> bool:  # type: ignore[type-arg]
        sock.send(name.encode())
        if not sock.poll(self._again_after * 1000):
            return False
        self._take(name, sock.recv(), time.monotonic() - began)
        return True

    def _dealer(self) -> None:
        sock = self._context.socket(zmq.DEALER)
        sock.linger = 0
        sock.connect(self.endpoint)
        sent: dict[bytes, float] = {}
        count = 0
        while sent or not self.stop.is_set():
            while len(sent) < self._window and not self.stop.is_set():
                name = f"d.{count}".encode()
                count += 1
                sock.send_multipart([name, b"", name])
                sent[name] = time.monotonic()
            if not sock.poll(self._again_after * 1000):
                break
            tag, _, answer = sock.recv_multipart()
            self._take(tag.decode(), answer, time.monotonic() - sent.pop(tag))
        with self._lock:
            self.unanswered |= {name.decode() for name in sent}
        sock.close()


def effects(database: Path) -> Counter[str]:
    """How often each name was counted."""
    connection = sqlite3.connect(database)
    try:
        return Counter(dict(connection.execute("SELECT name, sum(volume) FROM account GROUP BY name").fetchall()))
    finally:
        connection.close()


def ask(port: int, body: str, patience: float = 60.0) -> bytes:
    """One request, one answer; AssertionError when none comes."""
    with zmq.Context() as context, context.socket(zmq.REQ) as sock:
        sock.linger = 0
        sock.connect(f"tcp://127.0.0.1:{port}")
        sock.send(body.encode())
        assert sock.poll(patience * 1000), f"no answer to {body!r}"
        return sock.recv()
