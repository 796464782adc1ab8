"""Chaos: a real daemon under load, something that happens to it again and again, and an oracle. `./scripts/chaos --list`."""
