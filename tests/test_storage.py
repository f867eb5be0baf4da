"""Saved maps come back to the bit, hold no pickle, and other files are refused."""

from __future__ import annotations

import copy
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rfx
from rfx._xp import to_numpy
from rfx.features import ALL, Positive, Spec, load, save
from rfx.kernels import ExponentialKernel, Gaussian, Kernel, Softmax
from rfx.testing import ArrayLibrary, array_libraries, drawn

LIBRARIES = array_libraries()
EACH_LIBRARY = pytest.mark.parametrize("library", LIBRARIES, ids=str)
EACH_SPEC = pytest.mark.parametrize("spec", ALL, ids=repr)
LIKE = np.zeros(1)


def same(first: rfx.features.DrawnMap, second: rfx.features.DrawnMap) -> bool:
    """Whether two maps have the same arrays, to the bit."""
    one, two = first.arrays(), second.arrays()
    return one.keys() == two.keys() and all(
        np.array_equal(to_numpy(one[name]), to_numpy(two[name])) for name in one
    )


@EACH_LIBRARY
@EACH_SPEC
@pytest.mark.parametrize("kernel", [Softmax(), Softmax(0.3), Gaussian(2.5)], ids=repr)
def test_a_saved_map_is_loaded_to_the_bit_on_any_library(
    library: ArrayLibrary, spec: Spec, kernel: Kernel, tmp_path: Path
) -> None:
    if isinstance(spec.kernel, ExponentialKernel):
        spec = spec.replace(kernel=kernel)
    like = library.convert(LIKE)
    phi = drawn(spec, 8, seed=4, like=like, heads=2)
    save(phi, tmp_path / "map")
    for path in (tmp_path / "map", str(tmp_path / "map")):
        found = load(path, like=like)
        assert same(found, phi)
        assert found.spec == spec
        assert type(found) is type(phi)
        assert found.statics() == phi.statics()
    host = load(tmp_path / "map", like=np.zeros(1, dtype=np.float32))
    for name, array in phi.arrays().items():
        assert np.array_equal(host.arrays()[name], to_numpy(array).astype(np.float32))


def test_a_saved_map_holds_no_pickle(tmp_path: Path) -> None:
    save(Positive(8).draw(8, seed=4, like=LIKE), tmp_path / "map")
    with np.load(tmp_path / "map", allow_pickle=False) as archive:
        assert {archive[name].dtype.kind for name in archive.files} == {"f", "U"}
        assert json.loads(str(archive["header"]))["form"] == "ExponentialMap"


def test_a_spec_of_numpys_numbers_is_the_spec_of_pythons(tmp_path: Path) -> None:
    """In its fingerprint and on disk, as it is in ==."""
    ours = Positive(np.int64(8), Softmax(np.float32(0.5)))  # type: ignore[arg-type]
    plain = Positive(8, Softmax(0.5))
    assert ours == plain
    phi = ours.draw(8, seed=4, like=LIKE)
    assert same(phi, plain.draw(8, seed=4, like=LIKE))
    save(phi, tmp_path / "map")
    assert load(tmp_path / "map", like=LIKE).spec == plain


class Trap:
    """Unpickled, it touches a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_loading_runs_nothing_that_a_file_holds(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    trap = np.asarray([Trap(sprung)], dtype=object)
    (tmp_path / "pickle").write_bytes(pickle.dumps(trap))
    with (tmp_path / "header").open("wb") as file:
        np.savez(file, header=trap)
    save(Positive(8).draw(8, seed=4, like=LIKE), tmp_path / "array")
    with np.load(tmp_path / "array") as archive:
        arrays = {name: archive[name] for name in archive.files}
    with (tmp_path / "array").open("wb") as file:
        np.savez(file, **arrays | {"query_weight": trap})
    for name in ("pickle", "header", "array"):
        with pytest.raises(ValueError):  # noqa: PT011, the sentence is tested below
            load(tmp_path / name, like=LIKE)
        assert not sprung.exists()


def header(**changes: Any) -> Callable[[Path], None]:
    """Damage to the header of a saved map."""

    def damage(path: Path) -> None:
        with np.load(path) as archive:
            arrays = {name: archive[name] for name in archive.files}
        arrays["header"] = np.asarray(json.dumps(json.loads(str(arrays["header"])) | changes))
        with path.open("wb") as file:
            np.savez(file, **arrays)

    return damage


def without(name: str) -> Callable[[Path], None]:
    """A saved map with an array taken out."""

    def damage(path: Path) -> None:
        with np.load(path) as archive:
            arrays = {key: archive[key] for key in archive.files if key != name}
        with path.open("wb") as file:
            np.savez(file, **arrays)

    return damage


def object_array(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, header=np.asarray([{}], dtype=object))


def plain_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def other_archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme", "no arrays")


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "text": lambda path: path.write_text("a file of another kind"),
    "nothing": lambda path: path.write_bytes(b""),
    "half an archive": lambda path: path.write_bytes(path.read_bytes()[:200]),
    "a plain array": plain_array,
    "an archive of other things": other_archive,
    "objects": object_array,
    "no header": without("header"),
    "no frequencies": without("query_weight"),
    "no fingerprint": without("fingerprint"),
    "another format": header(format=1),
    "an unknown form": header(form="NoMap"),
    "a form that is a function": header(form="named"),
    "a form that is a spec": header(form="Positive"),
    "unknown statics": header(statics={"anything": 1}),
    "an unknown spec": header(spec={"class": "Nothing", "fields": {}}),
    "a spec that is a function": header(
        spec={"class": "named", "fields": {"name": "favor+", "num_features": 8}}
    ),
    "a spec that is a list": header(spec=[1]),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_file_that_save_did_not_write_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "map"
    save(Positive(8).draw(8, seed=4, like=LIKE), path)
    DAMAGE[name](path)
    message = r"`path` must be a map written by rfx.features.save, got .*map' .*; save it again"
    with pytest.raises(ValueError, match=message):
        load(path, like=LIKE)


def test_loading_needs_a_file_and_an_array(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "map", like=LIKE)
    save(Positive(8).draw(8, seed=4, like=LIKE), tmp_path / "map")
    with pytest.raises(TypeError, match=r"`like` must be an array .*, got int"):
        load(tmp_path / "map", like=3)


def test_only_drawn_maps_are_saved(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"`features` must be a drawn map, got Positive"):
        save(Positive(8), tmp_path / "map")  # type: ignore[arg-type]


def test_maps_are_copied_and_pickled() -> None:
    phi = Positive(8).draw(8, seed=4, like=LIKE)
    for other in (copy.deepcopy(phi), pickle.loads(pickle.dumps(phi))):
        assert same(phi, other)
        assert other.spec == phi.spec
