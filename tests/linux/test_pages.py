from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sqlite3, ssl
from holdfast.linux.pages import give_back_code

def mapped():
    with open("/proc/self/smaps") as file:
        lines = file.read().splitlines()
    name, total = "", 0
    for line in lines:
        if "-" in line.partition(" ")[0]:
            name = line
        elif line.startswith("Rss:") and "libcrypto" in name and "r-xp" in name:
            total += int(line.split()[1])
    return total

before = mapped()
give_back_code()
after = mapped()
sqlite3.connect(":memory:").execute("SELECT 1")
ssl.create_default_context()
print(before > 0, after == 0, mapped() > 0)
"""


def test_code_that_was_read_is_given_back_and_comes_again_when_it_is_used() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "True"], done.stderr
