import pytest

from wmtp.errors import WMTPError
from wmtp.registry import Registry, did_you_mean


def make_registry() -> Registry[object]:
    return Registry(
        "shape",
        {
            "fraction": "fractions:Fraction",
            "float-fraction": "fractions:Fraction.from_float",
            "broken-module": "no_such_module:Thing",
            "broken-attribute": "fractions:Fraction.no_such_method",
        },
    )


def test_creates_by_name_with_the_arguments_given():
    assert str(make_registry().create("fraction", 1, 3)) == "1/3"


def test_a_builtin_may_be_a_method_of_a_class():
    assert str(make_registry().create("float-fraction", 0.25)) == "1/4"


def test_creates_by_path():
    assert make_registry().create("collections:Counter", "aab") == {"a": 2, "b": 1}
    assert make_registry().create("collections:OrderedDict.fromkeys", "ab") == {"a": None, "b": None}


def test_registered_factories_are_listed_and_found():
    registry = make_registry()
    registry.register("triple", lambda x: 3 * x)
    assert "triple" in list(registry.names())
    assert registry.create("triple", 2) == 6


def test_a_name_is_taken_only_once():
    with pytest.raises(WMTPError, match=r"^shape 'fraction' is registered already$"):
        make_registry().register("fraction", dict)


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(WMTPError, match=r"^unknown shape 'fractoin'; did you mean 'fraction'"):
        make_registry().create("fractoin")


@pytest.mark.parametrize("name", ["broken-module", "broken-attribute", "fractions:"])
def test_what_cannot_be_loaded_is_one_line_with_the_path(name):
    with pytest.raises(WMTPError, match=r"^shape '[^']+' cannot be loaded: ") as caught:
        make_registry().create(name)
    assert "\n" not in str(caught.value)


def test_a_factory_of_ones_own_that_fails_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("def make():\n    raise KeyError('no\\nsuch')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(WMTPError, match=r"^shape 'mine:make' cannot be built: KeyError: 'no\\nsuch'$"):
        make_registry().create("mine:make")


def test_without_a_near_name_all_are_listed():
    assert did_you_mean("zzz", ["b", "a"]) == "known: a, b"
