"""Errors of the Google and Azure stores, and sentences that explain them.

The texts and tracebacks of the stores' clients are not passed on. They quote addresses, which may contain a token, and they quote a damaged
key file with its key.
"""

from __future__ import annotations

ANONYMOUS = "anonymous"  # the value of `credentials` for a public bucket or an emulator
ENVIRONMENT = "(env)"  # the value of `credentials` for those of the environment, where leaving them out means something else
PIECE_BYTES = 8 << 20  # bytes of an object that one request reads or writes


class StoreError(Exception):
    """A failed request, with the HTTP status and the code of the store's answer. The status is None if the store did not answer."""

    def __init__(self, status: int | None, code: str) -> None:
        super().__init__(f"{status or 'no answer'} {code}".strip())
        self.status, self.code = status, code

    @property
    def is_refusal(self) -> bool:
        """Whether the store refused the request and so changed nothing."""
        return self.status is not None and (300 <= self.status < 500 or self.status == 501)


class CannotReach(Exception):
    """A store cannot be used. `why` is the cause and `advice` the fix; both are given without a full stop at the end."""

    def __init__(self, why: str, advice: str) -> None:
        super().__init__(f"{why}. {advice}.")
        self.why, self.advice = why, advice


def explain(error: StoreError, what: str, reader: str, setting: str) -> CannotReach:
    """Return an error that explains the store's answer and what to do.

    `what` names the bucket or container. `reader` is the right that reading needs. `setting` is the part of runspend.yaml that contains the
    address ("billing[]").
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
