"""Names that users write after --with, and how wrong ones are refused."""

import pytest

from tpscope.errors import UserError
from tpscope.frameworks import registry


def test_a_name_alone_is_the_newest_version():
    assert registry.parse("nemo").id == "nemo@0.7.0"


def test_a_variant_is_a_column_of_its_own():
    assert registry.parse("nemo@0.7.0+hf").id == "nemo@0.7.0+hf"
    assert registry.parse("nemo@0.7.0+hf").variant == "hf"


def test_any_published_version_can_be_named():
    assert registry.parse("nemo@0.4.0").version == "0.4.0"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nemmo@0.7.0", "did you mean nemo"),
        ("nemo@newest", "is not a version"),
        ("nemo@0.7.0+fast", "no variant 'fast'"),
        ("axolotl@0.19.0+hf", "no variant 'hf'"),
        ("nemo@./not-there", "is not a source checkout"),
    ],
)
def test_a_name_that_cannot_be_meant_is_refused_with_a_way_out(text, words):
    with pytest.raises(UserError, match=words):
        registry.parse(text)


def test_a_version_that_cannot_be_driven_is_no_crash_of_the_frameworks():
    from tpscope.frameworks.inside.trace import failure, ours
    from tpscope.frameworks.inside.world import start

    with pytest.raises(TypeError) as theirs:
        start("many", "ranks")
    assert not ours(theirs.value)
    with pytest.raises(TypeError) as mine:
        failure(ValueError("x"), "phase", 7)
    assert ours(mine.value)


def test_a_checkout_is_a_version(tmp_path, monkeypatch):
    (tmp_path / "nemo").mkdir()
    (tmp_path / "nemo" / "pyproject.toml").write_text("[project]\nname='nemo-automodel'\n")
    monkeypatch.chdir(tmp_path)
    target = registry.parse("nemo@./nemo")
    assert target.id == "nemo@./nemo"
    assert target.checkout == tmp_path / "nemo"
