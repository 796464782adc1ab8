"""What the URL says of TLS, in mysqlclient's words; that PyMySQL verifies is seen on a real server in test_servers.py."""

import pytest
import sqlalchemy

from holdfast.stores.mysql import _mysqlclient_tls, _wanted


@pytest.mark.parametrize(
    ("query", "arguments"),
    [
        ("", {}),
        ("isolation=READ COMMITTED", {}),
        ("ssl=false", {"ssl_mode": "DISABLED"}),
        ("ssl=true", {"ssl_mode": "VERIFY_IDENTITY"}),
        ("ssl_ca=/ca", {"ssl_mode": "VERIFY_IDENTITY", "ssl": {"ca": "/ca"}}),
        ("ssl_ca=/ca&ssl_check_hostname=false", {"ssl_mode": "VERIFY_CA", "ssl": {"ca": "/ca"}}),
        ("ssl=true&ssl_cert=/c&ssl_key=/k", {"ssl_mode": "VERIFY_IDENTITY", "ssl": {"cert": "/c", "key": "/k"}}),
    ],
)
def test_mysqlclient_verifies_whenever_tls_is_asked_for(query: str, arguments: dict[str, object]) -> None:
    assert _mysqlclient_tls(_wanted(sqlalchemy.make_url(f"mysql+mysqldb://u@h/d?{query}"))) == arguments
