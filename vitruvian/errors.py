"""What a user can mend: every error that ends a command with one clear line."""

from __future__ import annotations

from typing import Final

from vitruvian.controls import escaped

MISUNDERSTOOD: Final = (AttributeError, LookupError, TypeError, ValueError, RecursionError)
"""What reading something of another shape than is expected ends with: an answer, a file."""


class VitruvianError(Exception):
    """An error with a place and a remedy, printed as one line: `where: what; hint`."""

    exit_code = 1

    def __init__(self, what: str, *, where: object = None, hint: str | None = None) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.hint = hint
        super().__init__(what, where, hint)

    def __str__(self) -> str:
        if self.where is None and self.hint is None:
            # Where several things are wrong, there is a line for each.
            return "\n".join(map(escaped, self.what.split("\n")))
        line = self.what if self.where is None else f"{self.where}: {self.what}"
        # A name with a line break would tear the one line apart.
        return escaped(line if self.hint is None else f"{line}; {self.hint}")

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword arguments would be lost on the way from a Ray worker to the driver.
        return _rebuild, (type(self), self.what, self.where, self.hint)


def _rebuild(kind: type[VitruvianError], what: str, where: str | None, hint: str | None) -> VitruvianError:
    return kind(what, where=where, hint=hint)


class SpecError(VitruvianError):
    """A declaration that can't be carried out as written."""

    exit_code = 2


class DataError(VitruvianError):
    """Training data or an input that can't be used."""


class StoreError(VitruvianError):
    """A store that can't be reached, or refuses."""


class Conflict(StoreError):
    """A conditional write that lost: somebody else wrote first."""


class NotFound(StoreError):
    """A key that isn't in the store."""


class NotAllowed(VitruvianError):
    """Something on a cluster that this user may not see or do."""


class NoCredentials(StoreError):
    """A store that can't be asked by anybody who isn't known to it."""


class ArtifactError(VitruvianError):
    """An artifact whose bytes don't match its manifest."""


class BundleError(ArtifactError):
    """A bundle that must not be served."""


class TrainingError(VitruvianError):
    """Training that can't go on."""


class Terminated(VitruvianError):
    """Work that SIGTERM ended."""

    exit_code = 143


class Interrupted(VitruvianError):
    """Work that Ctrl-C ended, with what is kept of it."""

    exit_code = 130


class Unwatched(Interrupted):
    """Work on a cluster that goes on after Ctrl-C."""


class ExportError(VitruvianError):
    """An export that doesn't answer as the trained model does."""


class GateFailed(VitruvianError):
    """A bundle that isn't good enough to be published."""

    exit_code = 3
