"""Errors of the Google and Azure stores, in words.

Neither text nor traceback of their clients is passed on: they quote addresses, which may contain a token, and from a damaged key file the
key.
"""

from __future__ import annotations

ANONYMOUS = "anonymous"  # `credentials` of a public bucket, or of an emulator
ENVIRONMENT = "(env)"  # the same as no `credentials`; where leaving them out means something else
PIECE_BYTES = 8 << 20  # of an object, in one request


class StoreError(Exception):
    """A request that failed: the status and code that the store answered with; status None if it did not answer."""

    def __init__(self, status: int | None, code: str) -> None:
        super().__init__(f"{status or 'no answer'} {code}".strip())
        self.status, self.code = status, code

    @property
    def is_refusal(self) -> bool:
        """Whether the store answered that it did nothing."""
        return self.status is not None and (300 <= self.status < 500 or self.status == 501)


class CannotReach(Exception):
    """Why a store cannot be used, and what to do about it; neither ends in a full stop."""

    def __init__(self, why: str, advice: str) -> None:
        super().__init__(f"{why}. {advice}.")
        self.why, self.advice = why, advice


def explain(error: StoreError, what: str, reader: str, setting: str) -> CannotReach:
    """Return what a store answered, in words.

    `what` is the bucket or container, `reader` the right that reading needs, `setting` the key of the address in runspend.yaml
    ("billing[]").
    """
    if error.status in (401, 403):
        return CannotReach(
            f"the credentials lack the rights to read it ({error})",
            f"Check the credentials, whether they have expired, and their rights: {reader}",
        )
    if error.status == 404:
        return CannotReach(f"there is no {what} ({error})", f"Check {setting}.uri and endpoint")
    if error.status is None:
        return CannotReach("the store, or the server that issues its tokens, did not answer", "Check the network, endpoint and credentials")
    if error.status == 200:
        return CannotReach("the answer is not in the form of this kind of store", f"Check {setting}.uri and endpoint")
    if 300 <= error.status < 400:
        return CannotReach(f"the store redirects ({error}), and Runspend does not follow redirects", "Check endpoint")
    return CannotReach(f"the store answered {error}", f"Check {setting}.uri and endpoint, or try again later")
