"""How PyIceberg reads and writes metadata: by the storage of the lake, so durably, wherever that is."""

from typing import Final, cast

import msgspec
from pyiceberg.io import FileIO, InputFile, InputStream, OutputFile, OutputStream
from pyiceberg.table import Table
from pyiceberg.typedef import EMPTY_DICT, Properties

from profilelake.lake.storage import Storage, storage_of
from profilelake.settings import StorageOptions

_ROOT: Final = "profilelake.storage.root"
_OPTIONS: Final = "profilelake.storage.options"


class StorageFileIO(FileIO):
    """Files of one storage; catalogs make it from what `properties_of` says."""

    def __init__(self, properties: Properties = EMPTY_DICT) -> None:
        """Open the storage that the properties of a catalog name; without one, files of this machine."""
        super().__init__(properties)
        options = msgspec.json.decode(properties.get(_OPTIONS, "{}"), type=StorageOptions)
        self.storage: Storage = storage_of(properties.get(_ROOT, "/"), options)

    def new_input(self, location: str) -> InputFile:
        """Name a file to read."""
        return _Input(location, self.storage)

    def new_output(self, location: str) -> OutputFile:
        """Name a file to write."""
        return _Output(location, self.storage)

    def delete(self, location: str | InputFile | OutputFile) -> None:
        """Remove a file."""
        self.storage.remove([location if isinstance(location, str) else location.location])


def properties_of(warehouse: str, options: StorageOptions) -> dict[str, str]:
    """Return the properties of a catalog whose tables lie in a warehouse."""
    return {
        "py-io-impl": f"{StorageFileIO.__module__}.{StorageFileIO.__qualname__}",
        _ROOT: warehouse,
        _OPTIONS: msgspec.json.encode(options).decode(),
    }


def storage_behind(table: Table) -> Storage:
    """Return where the files of a table lie that was opened with these properties."""
    return cast(StorageFileIO, table.io).storage


class _Input(InputFile):
    def __init__(self, location: str, storage: Storage) -> None:
        super().__init__(location)
        self._storage = storage

    def __len__(self) -> int:
        size = self._storage.size(self.location)
        if size is None:
            raise FileNotFoundError(self.location)
        return size

    def exists(self) -> bool:
        return self._storage.size(self.location) is not None

    def open(self, seekable: bool = True) -> InputStream:  # noqa: ARG002
        return cast(InputStream, self._storage.input(self.location))


class _Output(OutputFile):
    def __init__(self, location: str, storage: Storage) -> None:
        super().__init__(location)
        self._storage = storage

    def __len__(self) -> int:
        return len(self.to_input_file())

    def exists(self) -> bool:
        return self._storage.size(self.location) is not None

    def to_input_file(self) -> InputFile:
        return _Input(self.location, self._storage)

    def create(self, overwrite: bool = False) -> OutputStream:
        return cast(OutputStream, self._storage.output(self.location, new=not overwrite))
