"""Tables of options that go together, shared by the command line, Python and recipes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass

from clipdre.errors import UsageError


@dataclass(frozen=True)
class OnlyWith:
    """An option that has no effect without another one.

    Attributes
    ----------
    option : str
    needs : tuple of str
        Options of which at least one must be given.
    value : str or None
        The value that option must have; None allows any.
    because : str
        A clause with the reason, such as "which sets the number of bins".
    """

    option: str
    needs: tuple[str, ...]
    value: str | None = None
    because: str = ""

    def check(self, given: Mapping[str, object]) -> None:
        """Raise `UsageError` if `option` is given without what it needs."""
        if not _is_given(given, self.option) or any(
            _is_given(given, name, self.value) for name in self.needs
        ):
            return
        if self.value is not None:
            cure = f"set {_either(self.needs)} to {self.value}"
        else:
            cure = f"add {_either(self.needs) if len(self.needs) == 1 else 'one of them'}"
        needs = _either(self.needs, self.value, self.because)
        raise UsageError(
            f"`{self.option}` can only be used with {needs}", f"{cure}, or drop `{self.option}`"
        )


@dataclass(frozen=True)
class NotWith:
    """An option that another one rules out.

    Attributes
    ----------
    option : str
    others : tuple of str
        Options of which none may be given.
    value : str or None
        The value of those options that rules `option` out; None means any.
    because : str
        A clause with the reason, such as "which says how to rank".
    """

    option: str
    others: tuple[str, ...]
    value: str | None = None
    because: str = ""

    def check(self, given: Mapping[str, object]) -> None:
        """Raise `UsageError` if `option` is given along with one of `others`."""
        if not _is_given(given, self.option):
            return
        for other in self.others:
            if _is_given(given, other, self.value):
                cure = f" or `{other}`" if self.value is None else f", or change `{other}`"
                raise UsageError(
                    f"`{self.option}` cannot be used with "
                    f"{_either((other,), self.value, self.because)}",
                    f"drop `{self.option}`{cure}",
                )


Pairing = OnlyWith | NotWith
# Options that many commands share.
WITH_RAY = tuple(OnlyWith(name, ("engine",), "ray") for name in ("address", "cpus_per_worker"))


def without_ray(option: str) -> NotWith:
    """Return the row of an option that says how many workers this machine has."""
    return NotWith(option, ("engine",), "ray", because="which has `cpus_per_worker`")


def check(given: Mapping[str, object], table: Sequence[Pairing]) -> None:
    """Refuse the first option that breaks a row of `table`.

    Parameters
    ----------
    given : mapping
        Option to value. None, False and empty collections count as not given.
    table : sequence of OnlyWith and NotWith

    Raises
    ------
    UsageError
        If an option would have no effect or contradicts another one.
    """
    for row in table:
        row.check(given)


def _is_given(given: Mapping[str, object], name: str, value: str | None = None) -> bool:
    found = given.get(name)
    if value is not None:
        return found == value
    empty = isinstance(found, Sized) and not isinstance(found, str) and len(found) == 0
    return not (found is None or found is False or empty)


def _either(names: Sequence[str], value: str | None = None, because: str = "") -> str:
    """Names in backticks, as a clause: "`a`, `b` or `c`"."""
    quoted = [f"`{name}`" for name in names]
    listed = " or ".join(part for part in (", ".join(quoted[:-1]), quoted[-1]) if part)
    return listed + (f" {value}" if value else "") + (f", {because}" if because else "")
