import itertools
import re
from html.parser import HTMLParser

import pytest
import sample

from tpscope.language.answer import LogLine, PlanRow
from tpscope.language.verdict import Severity, Status
from tpscope.render.html import STATUS_WORDS, page

BIG_MODEL_BYTES = 1_500_000
LAYERS_405B = 126


class Document(HTMLParser):
    """Tags with their attributes, and the text outside of scripts and styles."""

    VOID = frozenset({"meta", "input", "wbr", "link", "br", "img"})

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


@pytest.fixture(scope="module")
def text() -> str:
    return page(sample.comparison())


@pytest.fixture(scope="module")
def document(text) -> Document:
    return Document(text)


def test_every_tag_is_closed(document):
    assert document.open == []


def test_nothing_is_fetched_from_anywhere(text, document):
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(", text)
    for tag, attributes in document.tags:
        assert tag not in ("link", "img", "iframe", "object", "base")
        for name in ("src", "href", "action", "data", "srcset", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, attributes)


def test_only_the_inlined_code_may_run(document):
    policy = next(found["content"] for tag, found in document.tags if found.get("http-equiv"))
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert not [found for _, found in document.tags for name in found if name.startswith("on") or name == "style"]


def test_every_difference_is_told_with_its_severity_as_a_word(document):
    for item in sample.differences():
        assert f"{item.severity.value} {item.meaning}" in document.words
        for identifier, value in item.values.items():
            assert f"{identifier} {value}" in document.words.replace(identifier, f"{identifier} ")


def test_differences_keep_the_order_of_the_result(document):
    places = [document.words.index(item.meaning) for item in sample.differences()]
    assert places == sorted(places)


def test_a_model_name_cannot_become_markup():
    name = '<script>alert("x")</script><img src=x onerror=alert(1)>'
    text = page(sample.comparison(name=name))
    assert name not in text
    assert Document(text).words.count(name) >= 2


def test_texts_of_a_framework_cannot_become_markup():
    column = sample.alpha()
    evil = "</li></ol><script>alert(1)</script>"
    column.selection.trail[0].text = evil
    column.selection.trail[0].path = evil
    column.log.append(LogLine("INFO", evil, evil))
    column.model_class = column.selection.function = evil
    column.parameters[0].name = evil
    text = page(sample.comparison(column, sample.beta()))
    assert "<script>alert" not in text
    assert Document(text).text.count("<script>alert(1)</script>") >= 6


def test_every_plan_level_and_every_step_of_selection_is_shown(document):
    for column in (sample.alpha(), sample.beta()):
        assert f"Plan level {column.selection.level} from {column.selection.function}" in document.words
        for step in column.selection.order:
            assert step.tried_when in document.words
            assert step.outcome in document.words


def test_a_framework_that_does_not_run_is_quoted_with_its_line():
    document = Document(page(sample.comparison(sample.alpha(), sample.refused())))
    assert "gamma@0.3 refuses" in document.words
    assert "ValueError: tied heads are not supported" in document.words
    assert "gamma/validate.py:17: check_model: raise ValueError(words)" in document.words
    assert "gamma@0.3 refuses: it has no plan and no parameters to show" in document.words


@pytest.mark.parametrize("status", list(Status))
def test_every_status_has_a_word(status):
    column = sample.refused()
    column.status = status
    assert f"{column.id} {STATUS_WORDS[status]}" in Document(page(sample.comparison(column))).words


@pytest.mark.parametrize("severity", list(Severity))
def test_every_severity_has_a_colour(severity, text):
    assert f".severity-{severity.value} {{ --word: var(--{severity.value}); }}" in text


def test_a_package_outside_its_declared_range_is_marked(document):
    assert "torch 2.13.0 outside its declared range <2.12" in document.words
    assert "torch 2.13.0 declared <2.14" in document.words


def test_ignored_settings_shims_and_the_stopped_loop_are_told(document):
    assert "sequence_parallel: asked for, and no rule shards the sequence" in document.words
    assert "build(device='cuda') is given 'cpu'" in document.words
    assert "Stops before the first optimizer step: RuntimeError: mixed tensors in clip" in document.words


def test_what_could_not_be_run_or_observed_is_told():
    column = sample.beta()
    failure = {"kind": "RuntimeError", "message": "no kernel", "phase": "forward", "where": None, "traceback": ""}
    column.forward = {"not_run": {"forward": failure}, "unobserved": "the small model does not run"}
    words = Document(page(sample.comparison(column))).words
    assert "Could not be run here, in forward: RuntimeError: no kernel" in words
    assert "Gradients in the loop are unobserved: the small model does not run" in words


def test_layers_are_collapsed(document):
    assert "model.layers.*.self_attn.q_proj.weight" in document.words
    assert "model.layers.0" not in document.text


def test_a_layer_that_is_not_like_the_others_is_shown_beside_them():
    column = sample.alpha()
    odd = next(row for row in column.parameters if row.name == "model.layers.1.self_attn.q_norm.weight")
    odd.placement = "Shard(dim=0)"
    words = Document(page(sample.comparison(column))).words
    row = words[words.index("model.layers.*.self_attn.q_norm.weight") :]
    assert "2 parameters" in row
    assert "1 parameter" in row


def test_rows_in_which_columns_differ_are_marked_and_only_those(text):
    rows = re.findall(r'<tr( data-differs)?>\n<th scope="row"><code>(.*?)</code>', text)
    assert [name.replace("<wbr>", "") for marked, name in rows if marked] == [
        "model.embed_tokens.weight",
        "model.layers.*.self_attn.q_norm.weight",
        "model.layers.*.self_attn",
    ]
    assert len(rows) == 5


def test_a_rule_without_a_parameter_has_a_row_of_its_own(document):
    assert "model.layers.*.self_attn module, no parameter of its own" in document.words
    assert "PrepareInput" in document.words


def test_a_style_that_is_not_known_is_marked():
    column = sample.beta()
    column.plan.append(PlanRow("model.norm", "Odd", "?", False, {}, None, None, [], [], "none", 1))
    assert "style not known" in Document(page(sample.comparison(column))).words


def test_evidence_is_grouped_by_file_and_keeps_the_order_of_execution(text, document):
    assert "alpha/distributed/plans.py:40: choose_plan: candidate = sources[0](model)" in document.words
    assert "17 lines in 2 files" in document.words
    numbers = [int(found) for found in re.findall(r'<li value="(\d+)"><b>alpha/distributed', text)]
    assert numbers == [*range(1, 13), 16, 17]


def test_a_repeated_log_message_is_told_once(document):
    assert document.words.count("mesh built") == 1
    assert "mesh built (4 times)" in document.words


def test_headings_do_not_skip_a_level(document):
    levels = [int(tag[1]) for tag, _ in document.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_identifiers_are_unique_and_labels_point_at_them(document):
    identifiers = [found["id"] for _, found in document.tags if "id" in found]
    assert len(identifiers) == len(set(identifiers))
    for _, found in document.tags:
        for name in ("aria-labelledby", "aria-describedby", "for"):
            assert set((found.get(name) or "").split()) <= set(identifiers)


def test_a_big_model_stays_small():
    columns = [sample.alpha(LAYERS_405B, lines=400), sample.beta(LAYERS_405B, lines=400)]
    size = len(page(sample.comparison(*columns, dp_shard=128, tp=8)).encode())
    assert size < BIG_MODEL_BYTES


def test_the_same_result_gives_the_same_page(text):
    assert page(sample.comparison()) == text


def test_a_comparison_without_columns_or_differences_is_still_a_page():
    result = sample.comparison(sample.refused())
    result.differences = []
    words = Document(page(result)).words
    assert "None found." in words
    assert "No column has a plan." in words


def test_the_page_says_how_it_was_found_out(document):
    assert "The frameworks' own code, run on CPU on meta tensors." in document.words
    assert "unconfirmed" in document.words
    assert "4 ranks: pp=1 dp_replicate=1 dp_shard=2 cp=1 tp=2" in document.words
