"""What is wrong with a request, in words for whoever made it."""

from __future__ import annotations

from holdfast.errors import HoldfastError


class Problem(HoldfastError):
    """A request that can not be carried out: what is wrong, how to mend it, and whose it is.

    ``status`` is HTTP's: 400 not understood, 404 not there, 409 not now.
    """

    def __init__(self, status: int, error: str, hint: str = "") -> None:
        super().__init__(error + (f" ({hint})" if hint else ""))
        self.status, self.error, self.hint = status, error, hint
