"""Stands in for engine, store and breaker in worker processes of these tests: enough of each to watch the worker around them."""

from __future__ import annotations

import sys
from types import ModuleType

import holdfast.stores
from holdfast.errors import UnavailableError
from holdfast.model.delivery import DONE, FAILED
from holdfast.model.message import Message
from holdfast.sources.base import Settlement
from holdfast.stores.base import Fault


class Engine:
    def __init__(self, job, spec, context):
        self.job, self.spec, self.context = job, spec, context

    def process(self, deliveries):
        for index, delivery in enumerate(deliveries):
            if self.context.draining():
                return list(deliveries[index:])
            self._one(delivery)
        return []

    def _one(self, delivery):
        if delivery.body == b"pause":
            self.context.pause("store away")
            self.context.wait(30) if not getattr(self.job, "brief", False) else None
            self.context.resume()
        now = self.context.monotonic_ns()
        self.context.board.begin(delivery.seq, now, now + int(self.spec.options.timeout * 1e9))
        try:
            answer = self.job.handle(Message(delivery.body))
            outcome, answer = DONE, answer if isinstance(answer, bytes) else answer.encode()
        except BaseException as error:
            outcome, answer = FAILED, repr(error).encode()
        self.context.board.end()
        self.context.board.count("handled")
        self.context.source.settle([Settlement(delivery.seq, outcome, answer)])
        self.context.fault("after-settle")

    def retry_letters(self):
        print("letters looked for", flush=True)

    def close(self):
        print("engine closed", flush=True)


class Store:
    scheme = "standin"

    def __init__(self, url):
        self.url = url
        self.one_writer = "server" not in url

    def connect(self):
        if "refusing" in self.url:
            raise ConnectionRefusedError("nobody listens")
        return Connection()

    def install(self, schema, prepare):
        print("installed", schema, flush=True)
        prepare("db")

    def fault(self, error):
        return Fault.AWAY if isinstance(error, ConnectionError) else Fault.MESSAGE

    def close(self):
        print("store closed", flush=True)


class Connection:
    db = "db"

    def begin(self):
        print("begin", flush=True)
        return self

    def begin_message(self):
        pass

    def proof(self):
        return ""

    def commit(self):
        print("commit", flush=True)

    def rollback(self):
        print("rollback", flush=True)

    def close(self):
        print("connection closed", flush=True)


def open_store(url, job, threads, timeout):
    if "away" in url:
        raise UnavailableError("the store is not to be had")
    return Store(url)


def _module(name, **contents):
    module = ModuleType(name)
    vars(module).update(contents)
    sys.modules[name] = module
    parent, _, last = name.rpartition(".")
    setattr(sys.modules[parent], last, module)


import holdfast.model  # noqa: E402
import holdfast.worker  # noqa: E402

_module("holdfast.worker.engine", Engine=Engine)
_module("holdfast.model.breaker", Breaker=type("Breaker", (), {"__init__": lambda self: None}))
_module("holdfast.stores.letter_files", LetterFiles=lambda directory: directory)
holdfast.stores.open_store = open_store
