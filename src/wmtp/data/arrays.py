"""Arrays that took long to make, on disk beside the fingerprints of what they were made from."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wmtp.errors import WMTPError
from wmtp.storage import new_directory, read_json, write_json


@dataclass(frozen=True)
class KeptArray:
    """A one-dimensional array in a folder of its own.

    Attributes:
        folder: where it is, or will be.
        name: of its files: `<name>.<dtype>` holds the values as they are in memory, `<name>.json` the fingerprints.
        dtype: of the values, in numpy's words.
        length: how many values there are.
        made_from: fingerprints by kind; None where any will do, which only a reader may say.
    """

    folder: Path
    name: str
    dtype: str
    length: int
    made_from: Mapping[str, str | None]

    @contextmanager
    def writing(self) -> Iterator[NDArray[Any]]:
        """[length], to fill; the folder appears, or is replaced, when the block ends well."""
        with new_directory(self.folder) as aside:
            values = np.memmap(
                aside / f"{self.name}.{self.dtype}", dtype=self.dtype, mode="w+", shape=(self.length,)
            )
            yield values
            values.flush()
            write_json(aside / f"{self.name}.json", dict(self.made_from))

    def read(self) -> NDArray[Any]:
        """[length], memory-mapped.

        Raises:
            WMTPError: there is none, it was made from something else, or it is damaged.
        """
        header, path = self.folder / f"{self.name}.json", self.folder / f"{self.name}.{self.dtype}"
        found = read_json(header)
        if not isinstance(found, dict):
            raise WMTPError(f"{header}: damaged: should hold fingerprints by kind")
        for kind, wanted in self.made_from.items():
            if wanted is not None and found.get(kind) != wanted:
                raise WMTPError(
                    f"made with another {kind}: fingerprint {str(found.get(kind))[:16]} there, {wanted[:16]} here"
                )
        size = path.stat().st_size if path.exists() else 0
        expected = self.length * np.dtype(self.dtype).itemsize
        if size != expected:
            raise WMTPError(f"{path.name} truncated: {size} bytes instead of {expected}")
        return np.memmap(path, dtype=self.dtype, mode="r", shape=(self.length,))
