import pytest

from utilities.errors import UserError
from utilities.flags.registry import Registry


def registry():
    things = Registry("thing")

    @things.register("round", prefix="circle")
    class Round:
        def __init__(self, *, radius, wired):
            self.radius, self.wired = radius, wired

    return things


def test_build_takes_flags_by_prefix_and_wiring_by_name():
    made = registry().build("round", {"circle_radius": 3, "circle_wired": 0}, wired=5, unused=1)
    assert (made.radius, made.wired) == (3, 5)
    assert registry().flags("round", {"wired"}) == ["circle_radius"]


def test_unknown_and_duplicate_names():
    things = registry()
    with pytest.raises(UserError, match="unknown thing 'square'; choices: round"):
        things["square"]
    with pytest.raises(ValueError, match="registered twice"):
        things.register("round")(int)


def test_a_flag_that_nobody_added_is_named():
    with pytest.raises(KeyError, match=r"thing 'round' takes 'radius': add Flag\('circle_radius', ...\)"):
        registry().build("round", {}, wired=5)
