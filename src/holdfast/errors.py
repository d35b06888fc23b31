"""The errors people meet. A message says what happened, where, and how to mend it."""

from __future__ import annotations


class HoldfastError(Exception):
    """Base of all errors Holdfast raises on purpose."""


class ConfigError(HoldfastError):
    """The configuration can not be used.

    ``where`` names the place (file and key), ``problem`` what is wrong, ``hint`` how to mend it.
    """

    def __init__(self, where: str, problem: str, hint: str = "") -> None:
        super().__init__(f"{where}: {problem}" + (f" ({hint})" if hint else ""))
        self.where, self.problem, self.hint = where, problem, hint


class AccountInUse(ConfigError):
    """Another process on this machine uses an account's credentials; it may yet give them up."""


class StoreError(HoldfastError):
    """The journal can not be written or read: full disk, lost permission, damaged file.

    Whoever was about to acknowledge a message must not do so. Trouble may pass, and the call be
    repeated; a refusal is `final`.
    """

    REFUSALS = frozenset({"store_refused", "store_wrong_state", "store_not_mendable"})
    """Codes that speak of the one call, and not of the journal."""

    def __init__(self, code: str, problem: str, hint: str = "") -> None:
        super().__init__(f"{problem}" + (f" ({hint})" if hint else ""))
        self.code, self.problem, self.hint = code, problem, hint

    @property
    def final(self) -> bool:
        """Whether the same call fails for ever, however well the journal is."""
        return self.code in self.REFUSALS
