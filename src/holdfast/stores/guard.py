"""What a handler may not send to a server, since the transaction is shared: refused before it is sent. Pure.

SQLite refuses by itself (see its authorizer). Here the first word of a statement tells. A stored procedure that commits is
noticed only afterwards, by the transaction's proof.
"""

from __future__ import annotations

import re
from functools import lru_cache

from holdfast.stores.statements import blanked

_ENDS = r"COMMIT|ROLLBACK|BEGIN|START|END|ABORT|SAVEPOINT|RELEASE|PREPARE\s+TRANSACTION|XA\b"
# MySQL commits before and after each of these.
_COMMITS = (
    r"ALTER|(?:CREATE|DROP)(?!\s+(?:OR\s+REPLACE\s+)?TEMPORARY)|RENAME|TRUNCATE|ANALYZE|CACHE|CHECK|FLUSH|INSTALL|UNINSTALL|OPTIMIZE"
    r"|REPAIR|RESET|GRANT|REVOKE|LOCK|UNLOCK|LOAD\s+INDEX|CHANGE|STOP|SET\s+PASSWORD|SET\s+(?:@@)?(?:SESSION|LOCAL|\s|\.)*AUTOCOMMIT"
)
_REFUSED = {
    "postgresql": re.compile(rf"[\s(;]*({_ENDS})\b", re.IGNORECASE),
    "mysql": re.compile(rf"[\s(;]*({_ENDS}|{_COMMITS})\b", re.IGNORECASE),
}
#: SQLAlchemy's own, for `db.savepoint()` and sessions.
_OURS = re.compile(r"\s*(?:SAVEPOINT|RELEASE SAVEPOINT|ROLLBACK TO SAVEPOINT) sa_savepoint_\d+\s*$")


@lru_cache(maxsize=2048)
def refusal(statement: str, dialect: str) -> str:
    """Why this statement may not be sent by a handler; empty when it may."""
    if _OURS.match(statement):
        return ""
    flat = blanked(statement, dialect)
    for part in flat.split(";"):
        if found := _REFUSED[dialect].match(part):
            return f"the handler tried to run {' '.join(found[1].upper().split())}, which would end the transaction that messages share"
    return ""
