"""A rank is held on cores that nobody else uses, and says when one of them was shared."""

from tpscope.frameworks.inside.bench.quiet import SLOWER, WANTED, Cores


def test_the_quietest_cores_of_a_ranks_own_half_are_held():
    shared = {17, 18}
    cores = Cores(1, 2, every=range(1000, 1032), probe=lambda core: 2.0 if core - 1000 in shared else 1.0 + core / 1e6)
    cores.settle()
    assert cores.held == [1016, 1019, 1020, 1021]
    assert cores.slowdown() < SLOWER


def test_a_core_that_turns_slow_disturbs_a_repeat():
    slow = set()
    cores = Cores(0, 1, every=range(1000, 1016), probe=lambda core: 1.8 if core in slow else 1.0)
    cores.settle()
    assert cores.slowdown() < SLOWER
    slow.add(cores.held[0])
    assert cores.slowdown() > SLOWER
    cores.settle()
    assert not slow & set(cores.held)
    assert cores.slowdown() < SLOWER


def test_a_machine_without_cores_to_spare_is_left_as_it_is():
    cores = Cores(0, 2, every=range(1000, 1000 + 2 * WANTED))
    cores.settle()
    assert cores.held == []
    assert cores.slowdown() < SLOWER
