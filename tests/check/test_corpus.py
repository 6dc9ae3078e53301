"""Every seeded mistake is found with its remedy, and nothing alarming is said of the good half."""

import pytest
from corpus import BAD, GOOD, SEEDED, asked, found, name_of

from tpscope.check.result import Severity
from tpscope.check.run import check

pytestmark = [pytest.mark.frameworks, pytest.mark.xdist_group("check")]


def test_the_corpus_is_half_and_half():
    assert len(GOOD) == len(BAD) == 15
    assert {name_of(path) for path in BAD} == set(SEEDED)


@pytest.mark.parametrize("path", BAD, ids=name_of)
def test_a_seeded_mistake_is_found_with_its_remedy(path):
    result = check(asked(path, False))
    assert found(result, SEEDED[name_of(path)]), [(item.key, item.what, item.remedy) for item in result.findings]
    assert result.bad


@pytest.mark.parametrize("path", GOOD, ids=name_of)
def test_nothing_alarming_is_said_of_a_good_file(path):
    result = check(asked(path, False))
    assert [item for item in result.findings if item.severity is not Severity.NOTE] == []
    assert not result.bad


@pytest.mark.parametrize("path", BAD, ids=name_of)
def test_where_is_the_line_of_the_key(path):
    result = check(asked(path, False))
    lines = path.read_text(encoding="utf-8").splitlines()
    for finding in result.findings:
        file, _, line = finding.where.rpartition(":")
        if file and finding.key:
            leaf = finding.key.rpartition(".")[2]
            part = finding.key.split(".")[-2] if "." in finding.key else leaf
            assert leaf in lines[int(line) - 1] or part in lines[int(line) - 1] or leaf not in "\n".join(lines)
