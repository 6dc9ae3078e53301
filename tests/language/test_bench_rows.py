"""Of a case measured twice the quieter row counts."""

from tpscope.language.measured.bench import counted


def row(median, disturbed=None, date="2026-01-01", **more):
    flags = disturbed and {"repeats": sum(disturbed), "left_out": 0}
    times = None if median is None else {"median": median, "repeats": len(disturbed or [0])}
    case = {"framework": "nemo@0.7.0", "model": "llama-3.1-8b", "layout": {"tp": 2}, "sequence": 2048}
    return case | {"milliseconds": times, "disturbed": flags, "date": date} | more


def test_the_row_with_more_undisturbed_repeats_counts_whatever_its_time():
    quiet, shared = row(400.0, [False, False, True]), row(300.0, [True, True, True], date="2026-02-01")
    assert counted([quiet, shared]) == counted([shared, quiet]) == [quiet]


def test_a_row_of_before_the_watch_gives_way_and_of_equals_the_newest_counts():
    before, after = row(400.0), row(500.0, [True], date="2026-02-01")
    assert counted([after, before]) == [after]


def test_an_error_counts_only_where_nothing_was_measured():
    failed, worked = row(None, date="2026-02-01"), row(400.0)
    assert counted([worked, failed]) == [worked]
    assert counted([failed]) == [failed]


def test_other_cases_stay_in_their_order():
    cases = [row(1.0), row(2.0, sequence=4096), row(3.0, compiled=True), row(4.0, layout={"tp": 1}), row(5.0)]
    assert [case["milliseconds"]["median"] for case in counted(cases)] == [5.0, 2.0, 3.0, 4.0]
