"""What a reload has changed, in words. Secrets are masked already in what is compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

Shown = Mapping[tuple[str, str], str]


class Configured(Protocol):
    """As far as a configuration is compared."""

    @property
    def shown(self) -> Shown: ...


class Loaded(Protocol):
    """As far as a generation is compared."""

    settings_text: str | None

    @property
    def configuration(self) -> Configured | None: ...
    @property
    def digest(self) -> str: ...


def changes(old: Loaded, new: Loaded) -> list[str]:
    """One line a change: options with both values, jobs that came or went, settings, code."""
    found = compare(old.configuration.shown if old.configuration else {}, new.configuration.shown if new.configuration else {})
    if old.settings_text != new.settings_text:
        found.append("settings")
    if old.digest != new.digest:
        found.append("code")
    return found


def compare(old: Shown, new: Shown) -> list[str]:
    """What is different between two configurations."""
    sections_before, sections_after = {section for section, _key in old}, {section for section, _key in new}
    found = [f"{section} is new" for section in sorted(sections_after - sections_before)]
    found += [f"{section} is removed" for section in sorted(sections_before - sections_after)]
    for section, key in sorted(old.keys() & new.keys()):
        before, after = old[section, key], new[section, key]
        if before != after:
            found.append(f"{section}.{key}: {before} -> {after}")
    return found
