"""Fields for the network's files: weights, and a metric of the user's own."""

from __future__ import annotations

from collections.abc import Callable

from .networks import WEIGHTS


class NetworkFields:
    """The two path fields, and the parameters that keep them in the scene.

    Parameters
    ----------
    ui : object
        Has the fields `weightsPath` and `extraPath`.
    on_change : callable(name, path)
        Called with "weights" or "extra" when a path changes.
    """

    def __init__(self, ui, on_change: Callable[[str, str], None]) -> None:
        self._fields = {"weights": ui.weightsPath, "extra": ui.extraPath}
        for name, field in self._fields.items():
            field.connect(
                "currentPathChanged(QString)", lambda path, name=name: on_change(name, path)
            )

    def show(self, kept) -> None:
        """Show the paths that the scene keeps."""
        for name, field in self._fields.items():
            field.setCurrentPath(getattr(kept, name))

    @property
    def weights(self) -> str:
        """Path of the weights; empty for those that come with the library."""
        return self._fields["weights"].currentPath

    @property
    def weights_name(self) -> str:
        """Path or name of the weights, as the logic takes it."""
        return self.weights or WEIGHTS

    @property
    def extra(self) -> list[str]:
        """Files of the codebook's further metrics."""
        extra = self._fields["extra"].currentPath
        return [extra] if extra else []
