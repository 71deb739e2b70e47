"""Settings for tests, from keys in memory or from a `runspend.yaml` that is written and then read as a command reads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from runspend.config.settings import Budget, Settings, load_settings
from runspend.core.errors import ConfigError

MAIL = {"from": "Runspend <runspend@acme.com>", "operators": ["oncall@acme.com"]}


def make_settings(home: Path, *budgets: Mapping[str, Any], mail: Mapping[str, Any] | None = None, **more: Any) -> Settings:
    """Return settings with a home, budgets, a mail sender and operators. `mail` adds to the sender; each other key is one of runspend.yaml."""
    return Settings.model_validate({"home": home, "budgets": [dict(b) for b in budgets], "mail": MAIL | dict(mail or {}), **more})


def read_settings(folder: Path, given: str | Mapping[str, Any], env: Mapping[str, str] | None = None) -> Settings:
    """Write YAML, or these keys, to the folder's `runspend.yaml`, and load it with only these environment variables."""
    text = given if isinstance(given, str) else yaml.safe_dump(dict(given))
    path = folder / "runspend.yaml"
    path.write_text(text, encoding="utf-8")
    return load_settings(path, env or {})


def refused(folder: Path, given: str | Mapping[str, Any], env: Mapping[str, str] | None = None) -> str:
    """Return the error message for these settings."""
    with pytest.raises(ConfigError) as caught:
        read_settings(folder, given, env)
    return str(caught.value)


def make_archive_settings(home: Path, source: Mapping[str, Any], archive: Mapping[str, Any], **limits: Any) -> Settings:
    """Return settings with two stores; the second is the archive. One archive run may move nearly everything."""
    return Settings.model_validate(
        {"home": home, "stores": [source, archive], "archive": {"to": archive["uri"], "max_percent": "99%", **limits}}
    )


def smtp_mail(port: int, **more: Any) -> dict[str, Any]:
    """Return the key `mail` for a server on this port of this machine, without TLS."""
    return {"backend": "smtp", "host": "127.0.0.1", "port": port, "tls": "none", **more}


def make_budget(amount: str = "1000", **more: Any) -> Budget:
    """Return a budget of all cost, with a recipient."""
    return Budget.model_validate({"name": "vision", "amount": amount, "notify": ["a@acme.com"], **more})
