"""Remembers that `runspend suggest` found nothing for these settings, so that advice does not send people back to it.

File: `<home>/suggested`, the digest of the settings. A bill or runs that change remove it.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from runspend.allocation.inputs import configuration_digest
from runspend.config.settings import Settings
from runspend.config.trial_folder import is_trial
from runspend.core.errors import RecordRefused
from runspend.core.own_files import read_bytes, write_whole

MOST_BYTES = 1 << 10


def note_nothing_found(settings: Settings) -> None:
    """Remember it. A person without the right to write there is only sent back to `runspend suggest`."""
    with suppress(OSError):
        write_whole(_path(settings), configuration_digest(settings).encode())


def forget_nothing_found(settings: Settings) -> None:
    """Forget it: a bill or runs have changed."""
    _path(settings).unlink(missing_ok=True)


def can_suggest(settings: Settings) -> bool:
    """Return whether `runspend suggest` may find pools. It may not after it found nothing, nor just after `runspend try` accepted all."""
    if is_trial(settings):
        return False
    try:
        noted = read_bytes(_path(settings), most_bytes=MOST_BYTES)
    except (OSError, RecordRefused):  # a note that cannot be read counts as missing
        return True
    return noted != configuration_digest(settings).encode()


def _path(settings: Settings) -> Path:
    return settings.home / "suggested"
