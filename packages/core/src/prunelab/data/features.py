"""Features of pictures behind one interface: a folder of NumPy files, an HDF5 file, or a store of our own."""

# B images of a batch, S rows of the longest, n rows of an image, F width

from __future__ import annotations

import contextlib
import io
import math
import os
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from prunelab.data.store import FeatureStore, FeatureWriter, is_store
from prunelab.errors import UserError
from prunelab.util import StrPath, atomic_write


class FeatureSource(Protocol):
    """Features by image id."""

    def __contains__(self, image_id: int, /) -> bool:
        """Whether there are features of this image."""
        ...

    def get(self, image_id: int, /) -> np.ndarray:
        """The features of one image, (n, F) float32.

        Raises:
            UserError: they are missing or damaged, or not an array of numbers.
        """
        ...


@runtime_checkable
class BatchSource(Protocol):
    """Features that can be read for several images at once."""

    def get_batch(self, ids: Sequence[int], /) -> tuple[np.ndarray, np.ndarray]:
        """See `read_batch`."""
        ...


def read_batch(source: FeatureSource, ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The features of several images in one array, padded with zeros to the longest.

    Args:
        source: where they are.
        ids: images, at least one.

    Returns:
        The batch (B, S, F) float32, or float16 where all of it is kept so, and each image's rows (B,) int64.

    Raises:
        UserError: some are missing or damaged, or they are of differing widths.
    """
    if isinstance(source, BatchSource):
        return source.get_batch(ids)
    items = [source.get(image_id) for image_id in ids]
    counts = np.array([len(item) for item in items], np.int64)
    _expect_one_width(None, ids, [item.shape[1] for item in items])
    batch = np.zeros((len(items), counts.max(), items[0].shape[1]), np.float32)
    for target, item in zip(batch, items, strict=True):
        target[: len(item)] = item
    return batch, counts


@runtime_checkable
class ListedSource(Protocol):
    """Features whose images can be listed faster than asked for one by one."""

    def ids(self) -> Collection[int]:
        """The images that there are features of."""
        ...


def check_features(source: FeatureSource, ids: Iterable[int], *, where: StrPath) -> None:
    """See whether there are features of all images.

    Raises:
        UserError: some have none; with their number and the first five.
    """
    wanted = list(dict.fromkeys(ids))
    known = set(source.ids()) if isinstance(source, ListedSource) else source
    missing = [image_id for image_id in wanted if image_id not in known]
    if missing:
        more = ", ..." if len(missing) > 5 else ""
        raise UserError(
            f"{where}: no features of {len(missing)} of {len(wanted)} images: "
            f"{', '.join(map(str, missing[:5]))}{more}"
        )


def _expect_one_width(path: Path | None, ids: Sequence[int], widths: Sequence[int]) -> None:
    other = next((place for place, width in enumerate(widths) if width != widths[0]), None)
    if other is not None:
        where = f"{path}: " if path else ""
        raise UserError(
            f"{where}features of image {ids[other]} are {widths[other]} values wide; expected {widths[0]}, "
            f"as those of image {ids[0]}"
        )


def _expect_numbers(kind: np.dtype, shape: tuple[int, ...], where: str) -> None:
    if kind.kind not in "fiu" or not shape:
        raise UserError(f"{where}: holds {kind} of shape {shape}; expected rows of numbers")
    if 0 in shape:
        raise UserError(f"{where}: holds no values (shape {shape}); expected at least one row")


def _as_rows(values: Any, where: str) -> np.ndarray:
    """An array as it was stored, as (n, F) float32; a single vector becomes one row."""
    array = np.asarray(values)
    _expect_numbers(array.dtype, array.shape, where)
    return array.reshape(-1, array.shape[-1]).astype(np.float32, copy=False)  # (..., F) -> (n, F)


class FolderFeatures:
    """A folder of ``<image id>.npy`` or ``.npz`` (its array ``feat``, else its only one)."""

    def __init__(self, path: StrPath) -> None:
        self.path = Path(path)
        self._first = ".npy"

    def ids(self) -> set[int]:
        """The images that have a file, from one look at the folder."""
        with os.scandir(self.path) as entries:
            stems = (e.name[:-4] for e in entries if e.name.endswith((".npy", ".npz")))
            return {int(stem) for stem in stems if stem.isascii() and stem.isdigit()}

    def _file(self, image_id: int) -> Path | None:
        endings = (self._first, ".npz" if self._first == ".npy" else ".npy")
        for ending in endings:
            file = self.path / f"{image_id}{ending}"
            if file.is_file():
                self._first = ending  # the next one will most likely be of the same kind
                return file
        return None

    def __contains__(self, image_id: int) -> bool:
        """Whether the image's file is there."""
        return self._file(image_id) is not None

    def get(self, image_id: int) -> np.ndarray:
        """Read one file; see `FeatureSource.get`."""
        file = self._file(image_id)
        if file is None:
            raise UserError(f"{self.path / str(image_id)}.npy: no features of image {image_id} (nor .npz)")
        try:
            with open(file, "rb") as opened:
                loaded = np.load(opened, allow_pickle=False)
                return _as_rows(_only_array(loaded, file), str(file))
        except (ValueError, OSError, EOFError, KeyError, SyntaxError, zipfile.BadZipFile) as error:
            raise UserError(f"{file}: not a whole NumPy file of numbers ({_first_line(error)})") from error


def _only_array(loaded: Any, file: Path) -> np.ndarray:
    """The array of a ``.npy`` file, or the one that counts of a ``.npz`` file."""
    if isinstance(loaded, np.ndarray):
        return loaded
    names = loaded.files
    name = "feat" if "feat" in names else names[0] if len(names) == 1 else None
    if name is None:
        raise UserError(f"{file}: holds the arrays {', '.join(names)}; expected 'feat' or a single one")
    return loaded[name]


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:120]


class Hdf5Features:
    """An HDF5 file with one data set an image, named by its id and a suffix that all of them share.

    The file is opened by each process when it first reads: a handle that was carried over a fork reads
    garbage.

    Args:
        path: the file.
        suffix: what follows the id; None: ``_features`` or nothing, as the file has it.
    """

    def __init__(self, path: StrPath, *, suffix: str | None = None) -> None:
        self.path = Path(path)
        self._handle: Any = None
        self._process = -1
        first = self._any_key()
        self._suffix = suffix if suffix is not None else "_features" if "_" in first else ""
        self.close()  # so that no handle is carried over a fork

    def _file(self) -> Any:
        if self._process != os.getpid():
            import h5py

            try:
                self._handle = h5py.File(self.path, "r")
            except OSError as error:
                raise UserError(f"{self.path}: not a whole HDF5 file ({_first_line(error)})") from error
            self._process = os.getpid()
        return self._handle

    def _any_key(self) -> str:
        try:
            return next(iter(self._file()))
        except StopIteration:
            raise UserError(f"{self.path}: holds no data set; expected one an image") from None

    def close(self) -> None:
        """Close this process's handle; the next read opens it again."""
        if self._process == os.getpid():
            self._handle.close()
        self._handle, self._process = None, -1

    def __contains__(self, image_id: int) -> bool:
        """Whether the image's data set is there."""
        return f"{image_id}{self._suffix}" in self._file()

    def ids(self) -> set[int]:
        """The images that have a data set."""
        ending = len(self._suffix)
        stems = (name[: len(name) - ending] for name in self._file() if name.endswith(self._suffix))
        return {int(stem) for stem in stems if stem.isascii() and stem.isdigit()}

    def _name(self, image_id: int) -> str:
        name = f"{image_id}{self._suffix}"
        if name not in self._file():
            raise UserError(f"{self.path}: no features of image {image_id}; expected a data set {name!r}")
        return name

    def array(self, image_id: int) -> np.ndarray:
        """Read one data set in the shape and type that it has.

        Raises:
            UserError: it is missing or damaged.
        """
        name = self._name(image_id)
        try:
            return np.asarray(self._file()[name][()])
        except (OSError, RuntimeError, TypeError, AttributeError) as error:
            raise self._unreadable(name, error) from error

    def get(self, image_id: int) -> np.ndarray:
        """Read one data set; see `FeatureSource.get`."""
        return _as_rows(self.array(image_id), f"{self.path}: data set '{image_id}{self._suffix}'")

    def get_batch(self, ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Read several data sets into one array; see `read_batch`.

        Below h5py's objects, which take longer than reading does.
        """
        found = [self._open(image_id) for image_id in ids]
        shapes = [dataset.shape for dataset in found]
        counts = np.array([np.prod(shape[:-1], dtype=np.int64) for shape in shapes], np.int64)
        _expect_one_width(self.path, ids, [shape[-1] for shape in shapes])
        half = all(dataset.dtype == np.float16 for dataset in found)
        batch = np.empty((len(ids), counts.max(), shapes[0][-1]), np.float16 if half else np.float32)
        from h5py import h5s

        for place, (dataset, shape, count) in enumerate(zip(found, shapes, counts, strict=True)):
            try:
                dataset.read(
                    h5s.ALL, h5s.ALL, batch[place, :count].reshape(shape)
                )  # a view: it is in one piece
            except (OSError, RuntimeError, TypeError) as error:
                raise self._unreadable(f"{ids[place]}{self._suffix}", error) from error
            batch[place, count:] = 0
        return batch, counts

    def _open(self, image_id: int) -> Any:
        """An image's data set, seen to hold rows of numbers."""
        from h5py import h5d  # pyright: ignore[reportAttributeAccessIssue] - a module in C

        name = self._name(image_id)
        try:
            dataset = h5d.open(self._file().id, name.encode())
            shape, kind = dataset.shape, dataset.dtype
        except (OSError, RuntimeError, TypeError, ValueError, KeyError) as error:
            raise self._unreadable(name, error) from error
        _expect_numbers(kind, shape, f"{self.path}: data set {name!r}")
        return dataset

    def _unreadable(self, name: str, error: Exception) -> UserError:
        return UserError(f"{self.path}: data set {name!r} cannot be read ({_first_line(error)})")


def open_features(path: StrPath) -> FeatureSource:
    """Open features, recognised by what is there: a store, a folder of NumPy files, or an HDF5 file.

    Raises:
        UserError: nothing is there, or nothing that is known.
    """
    place = Path(path)
    if place.is_dir():
        if is_store(place):
            return FeatureStore(place)
        with os.scandir(place) as entries:
            if any(entry.name.endswith((".npy", ".npz")) for entry in entries):
                return FolderFeatures(place)
        raise UserError(f"{place}: no features found; expected <image id>.npy, .npz or feature shards")
    if not place.is_file():
        raise UserError(f"{place}: no such file or folder; expected features of the pictures")
    with open(place, "rb") as file:
        if file.read(8) == b"\x89HDF\r\n\x1a\n":
            return Hdf5Features(place)
    raise UserError(f"{place}: not a file of features; expected HDF5, or a folder")


def copy_to_store(
    source: FeatureSource, ids: Iterable[int], path: StrPath, *, dtype: str = "float16", rank: int = 0
) -> int:
    """Copy features into a store of our own, which reads faster.

    What is there already is left out, so a killed copy goes on when it is started again.

    Returns:
        The number of items copied now.

    Raises:
        UserError: features are missing, damaged or of differing widths, or the store cannot be written.
    """
    writer, copied = None, 0
    try:
        for image_id in ids:
            if writer is not None and image_id in writer:
                continue
            rows = source.get(image_id)
            if writer is None:
                writer = FeatureWriter(path, width=rows.shape[1], dtype=dtype, rank=rank)
                if image_id in writer:
                    continue
            writer.add(image_id, rows)
            copied += 1
    finally:
        if writer is not None:
            writer.close()
    return copied


class FeatureSink(Protocol):
    """Where features are written to, image by image."""

    def __contains__(self, image_id: int, /) -> bool:
        """Whether this image's features are there, whole."""
        ...

    def add(self, image_id: int, rows: np.ndarray, /) -> None:
        """Write one image's features.

        Raises:
            UserError: they cannot be written.
        """
        ...


class FolderWriter:
    """Writes a folder of ``<image id>.npy``, the layout of published features.

    A file is there whole or not at all, also when the writer is killed. What a power failure cut off counts
    as missing, so nothing waits for the disk.

    Args:
        path: the folder; made where it is missing.
        dtype: what arrays are stored as.
    """

    def __init__(self, path: StrPath, *, dtype: str = "float32") -> None:
        self.path, self._dtype = Path(path), np.dtype(dtype)
        with self._faults(self.path):
            self.path.mkdir(parents=True, exist_ok=True)

    def __contains__(self, image_id: int) -> bool:
        """Whether the image's file is there, with as many bytes as its header says."""
        try:
            with open(self.path / f"{image_id}.npy", "rb") as file:
                np.lib.format.read_magic(file)
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
                size = file.tell() + dtype.itemsize * math.prod(shape)
                return os.fstat(file.fileno()).st_size == size
        except (OSError, ValueError):
            return False

    def add(self, image_id: int, rows: np.ndarray) -> None:
        """Write an array of any shape; see `FeatureSink.add`."""
        target = self.path / f"{image_id}.npy"
        temporary = self.path / f".{image_id}.{os.getpid()}.tmp"
        with self._faults(target):
            try:
                with open(temporary, "wb") as file:
                    np.save(file, rows.astype(self._dtype, copy=False))
                os.replace(temporary, target)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise

    @contextlib.contextmanager
    def _faults(self, place: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(f"{place}: cannot be written: {error.strerror}") from error


@contextlib.contextmanager
def writing_features(
    path: StrPath, *, store: bool, width: int, dtype: str = "float32", rank: int = 0
) -> Iterator[FeatureSink]:
    """Open a folder of NumPy files, or a store, to write features into.

    Args:
        path: the folder.
        store: a store of our own, (n, F) an image; else a folder of ``.npy`` files.
        width: F.
        dtype: what values are stored as.
        rank: this process; each writes parts of its own.

    Raises:
        UserError: it cannot be written, or is a store of another width or dtype.
    """
    if not store:
        yield FolderWriter(path, dtype=dtype)
        return
    with FeatureWriter(path, width=width, dtype=dtype, rank=rank) as writer:
        yield writer


def write_hdf5(path: StrPath, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an HDF5 file of arrays, which appears complete or not at all.

    Raises:
        UserError: it cannot be written.
    """
    import h5py

    content = io.BytesIO()
    with h5py.File(content, "w") as target:
        for name, array in arrays.items():
            target.create_dataset(name, data=array)
    with atomic_write(path) as file:
        file.write(content.getbuffer())
