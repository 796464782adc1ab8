"""How much the ingress itself costs: messages/s and CPU a message, with a worker that settles at once.

    PYTHONPATH=src python benchmarks/ingress_loop.py [--messages N] [--in-flight N] [--clients N] [--workers N]

One pipelining DEALER (or several) keeps `in-flight` requests open; each worker is a bare loop in a process of its own that
settles each frame of deliveries in one frame. CPU is that of the whole ingress process, libzmq's own thread included.
"""

from __future__ import annotations

import argparse
import json
import mmap
import multiprocessing
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import zmq

from holdfast import process
from holdfast.linux.channel import Channel, to_memfd
from holdfast.model import tally
from holdfast.model.delivery import DONE, Decoder, encode

BODY = b"123456,client-login,100.50"


def work(sock: socket.socket) -> None:
    """Settle whatever comes, a frame at a time."""
    decoder = Decoder(deliveries=True)
    sock.sendall(encode(("credit", 2000)))
    while data := sock.recv(1 << 18):
        for _verb, deliveries in decoder.feed(data):
            done = [(delivery.seq, DONE, b"TRUE") for delivery in deliveries]
            sock.sendall(encode(("settled", done)) + encode(("credit", len(done))))


def ask(endpoint: str, messages: int, in_flight: int) -> None:
    """Keep so many requests open until all are answered."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sock = context.socket(zmq.DEALER)
    sock.set(zmq.SNDHWM, 0)
    sock.set(zmq.RCVHWM, 0)
    sock.connect(endpoint)
    sent = answered = 0
    while answered < messages:
        while sent < messages and sent - answered < in_flight:
            sock.send_multipart([b"", BODY])
            sent += 1
        assert sock.recv_multipart()[-1] == b"TRUE"
        answered += 1
        while sock.get(zmq.EVENTS) & zmq.POLLIN:
            assert sock.recv_multipart()[-1] == b"TRUE"
            answered += 1
    context.destroy(0)


class Bench:
    """An ingress with its workers; the supervisor is this process."""

    def __init__(self, workers: int) -> None:
        self._channel, theirs = Channel.pair()
        board = os.memfd_create("tally")
        os.ftruncate(board, tally.SIZE)
        self._board = mmap.mmap(board, tally.SIZE)
        boot = to_memfd("boot", json.dumps({"epoch": 1, "stop_timeout": 5}).encode())
        flags = ["--channel", str(theirs.fileno()), "--boot", str(boot), "--tally", str(board)]
        self.process = subprocess.Popen(
            [sys.executable, Path(process.__file__), "ingress", *flags], pass_fds=[theirs.fileno(), boot, board], stderr=subprocess.DEVNULL
        )
        theirs.close()
        listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        self._channel.send(
            {"do": "listen", "job": "Bench", "row": 0, "transport": "rep", "endpoint": self.endpoint, "limits": {}}, [listener.fileno()]
        )
        self._ends = [self._start_worker(number) for number in range(workers)]
        self._channel.send({"do": "open"})

    def _start_worker(self, number: int) -> multiprocessing.Process:
        ours, theirs = socket.socketpair()
        self._channel.send({"do": "attach", "worker": f"Bench/{number}", "job": "Bench", "quarantine": False}, [ours.fileno()])
        ours.close()
        worker = multiprocessing.Process(target=work, args=(theirs,), daemon=True)
        worker.start()
        theirs.close()
        return worker

    def cpu(self) -> float:
        """Seconds of CPU that the ingress has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> None:
        self._channel.send({"do": "leave"})
        self.process.wait(10)
        for worker in self._ends:
            worker.join(10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--in-flight", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    flags = parser.parse_args()
    bench = Bench(flags.workers)
    each = flags.messages // flags.clients
    ask(bench.endpoint, 1000, 100)
    clients = [multiprocessing.Process(target=ask, args=(bench.endpoint, each, flags.in_flight)) for _ in range(flags.clients)]
    cpu, began = bench.cpu(), time.monotonic()
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    seconds, cost = time.monotonic() - began, bench.cpu() - cpu
    bench.end()
    total = each * flags.clients
    print(f"{total} messages, {flags.clients} clients x {flags.in_flight} in flight, {flags.workers} workers")
    print(f"{total / seconds:.0f} messages/s, ingress {cost / total * 1e6:.1f} us CPU a message")


if __name__ == "__main__":
    main()
