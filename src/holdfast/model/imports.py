"""What a Python file imports, told from its text. Pure."""

from __future__ import annotations

import ast
from collections.abc import Iterator


def imported(text: str) -> set[str]:
    """Every module that the text may import, by its absolute name; of `from a import b` both `a` and `a.b`, and their packages.

    What stands under `if TYPE_CHECKING` is never run, and left out. SyntaxError when the text is not Python.
    """
    found: set[str] = set()
    for node in _nodes(ast.parse(text)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found | {package for name in found for package in _packages(name)}


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        yield node
        yield from _nodes(node)


def _packages(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name
