"""Print a page to PDF with a headless Chromium or Chrome, if one is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from runspend.core.own_files import write_whole

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
LONGEST = 120.0  # limit in seconds for printing one page


def find_browser() -> str | None:
    """Return the path of the first of BROWSERS that is installed, or None."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def print_pdf(browser: str, page: Path, pdf: Path) -> str | None:
    """Print a page to a PDF file, which is never partial. Return None, or the reason why it failed: then `pdf` is not changed."""
    with tempfile.TemporaryDirectory(prefix="runspend-print-") as folder:
        printed = Path(folder) / "page.pdf"
        command = [
            browser, "--headless", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--no-pdf-header-footer", "--disable-extensions",
            f"--user-data-dir={folder}/profile", f"--print-to-pdf={printed}",
            *(["--no-sandbox"] if os.geteuid() == 0 else []),  # Chromium does not start as root with a sandbox; the page has no script
            page.absolute().as_uri(),
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=LONGEST, check=False, env={**os.environ, "HOME": folder}
            )
        except subprocess.TimeoutExpired:
            return f"{browser} took longer than {LONGEST:.0f} s"
        except OSError as error:
            return f"{browser} does not start: {error.strerror}"
        made = printed.read_bytes() if printed.is_file() else b""
        if not made.startswith(b"%PDF-") or b"%%EOF" not in made[-1024:]:
            errors = done.stderr.decode("utf-8", "replace").strip().splitlines()
            return f"{browser} ended with code {done.returncode} and no PDF{f': {errors[-1][:200]}' if errors else ''}"
        write_whole(pdf, made)
    return None
