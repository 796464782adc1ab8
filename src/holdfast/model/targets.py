"""Where `db.publish` sends: a broker, an exchange there or a queue; and who we are at that broker.

    amqp://HOST:PORT/VHOST?exchange=fees     to an exchange, with `key` as the routing key
    amqp://HOST:PORT/VHOST?queue=email       to a queue by its name

What is to be sent lies in the database for a while, so the URL has no password: it is looked up when it is sent, among the brokers that
the job's configuration names.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote

from holdfast.errors import ConfigurationError
from holdfast.model.broker import BrokerAddress, parse_parts

_REMEMBERED = 1000  # URLs


@dataclass(frozen=True, slots=True)
class Target:
    """A place at a broker. `url` names it without user and password, the same way however it was written."""

    url: str
    exchange: str
    queue: str  # "" for an exchange

    def routing_key(self, key: str) -> str:
        """What the message is published with."""
        return self.queue or key


class Targets:
    """The brokers that a job may publish to: those of its `source` and `outbox` URLs."""

    def __init__(self, known: Iterable[BrokerAddress] = ()) -> None:
        self._known = {place: address for address in known for place in _places(address)}
        self._parsed: dict[str, Target] = {}
        self._brokers: dict[str, BrokerAddress] = {}

    def target(self, url: str) -> Target:
        """What the URL of a publication means; ConfigurationError when it cannot be sent to."""
        found = self._parsed.get(url)
        if found is None:
            found = self._parse(url)
            if len(self._parsed) < _REMEMBERED:
                self._parsed[url] = found
        return found

    def broker(self, target_url: str) -> BrokerAddress:
        """Whom to connect to; ConfigurationError when nothing in the configuration says who we are there."""
        found = self._brokers.get(target_url)
        if found is None:
            address, _given = parse_parts(target_url, ("exchange", "queue"))
            found = self._who(address)
            if len(self._brokers) < _REMEMBERED:
                self._brokers[target_url] = found
        return found

    def _parse(self, url: str) -> Target:
        if "@" in url.partition("?")[0]:
            raise ConfigurationError(
                "the URL to publish to has a user in it, and would lie in the database with its password",
                remedy='leave user and password out, and give the job outbox = "amqp://USER:PASSWORD@HOST/VHOST"',
            )
        address, given = parse_parts(url, ("exchange", "queue"))
        exchange, queue = given.get("exchange", ""), given.get("queue", "")
        if bool(exchange) == bool(queue):
            raise ConfigurationError("a URL to publish to names an exchange or a queue", remedy="write ?exchange=NAME or ?queue=NAME")
        self._who(address)
        scheme, vhost = "amqps" if address.tls else "amqp", quote(address.vhost, safe="")
        where = f"exchange={quote(exchange, safe='')}" if exchange else f"queue={quote(queue, safe='')}"
        return Target(f"{scheme}://{address.places}/{vhost}?{where}", exchange, queue)

    def _who(self, address: BrokerAddress) -> BrokerAddress:
        for place in _places(address):
            if place in self._known:
                return self._known[place]
        raise ConfigurationError(
            f"nothing says who we are at the broker {address.shown}",
            remedy='give the job outbox = "amqp://USER:PASSWORD@HOST/VHOST" with this host, port and virtual host',
        )


def is_queue(url: str) -> bool:
    """Whether a target's `url` names a queue; also of one that nobody knows any more."""
    return url.rpartition("?")[2].startswith("queue=")


def _places(address: BrokerAddress) -> list[tuple[str, int, str, bool]]:
    """Each node of a cluster stands for all of it."""
    return [(host, port, address.vhost, address.tls) for host, port in address.nodes]
