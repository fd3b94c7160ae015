from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layermerge.errors import InputError, MeasurementError
from layermerge.latency import rotation
from layermerge.latency.protocol import Precision, Unit, measure_units
from layermerge.latency.sentinel import Sentinel
from layermerge.latency.summary import summarise
from layermerge.store import Measurement


class Machine:
    """Units whose durations are scripted, on a clock that advances by them."""

    def __init__(self, **durations):
        self.durations = {name: itertools.cycle(values) for name, values in durations.items()}
        self.calls: list[str] = []
        self.laps: list[list[str]] = []
        self.now_ns = 0
        self.slowdown = lambda: 1

    def unit(self, name):
        def run():
            self.calls.append(name)
            duration = round(next(self.durations[name]) * self.slowdown())
            self.now_ns += duration
            return duration

        run.name = name
        return run

    def clock(self, calls):
        self.laps.append([call.name for call in calls])
        return [call() for call in calls]

    def measure(self, *names, **options):
        return self.outcome(*names, **options).measurements

    def outcome(self, *names, target_rsd=0.02, max_seconds=1.0, **options):
        return measure_units(
            {name: Unit(self.unit(name)) for name in names},
            reference=self.unit("reference"),
            clock=self.clock,
            precision=Precision(target_rsd, max_seconds),
            now=lambda: self.now_ns / 1e9,
            **options,
        )


def counted(lap):
    """The units of a lap, without the sentinel and the one that only goes before the first."""
    _, _, *units, _, _ = lap
    if len(units) > 1:
        assert units[0] == units[-1]
        return units[1:]
    return units


def noisy(median, deviation, seed):
    generator = random.Random(seed)
    return [max(1, round(generator.gauss(median, deviation))) for _ in range(5000)]


def test_a_constant_unit_needs_the_fewest_repeats():
    measured = Machine(reference=[100], conv=[1000]).measure("conv")
    assert measured["conv"] == Measurement(1000, 0.0, rotation.MIN_REPEATS, 6e-6)


def test_a_noisy_unit_is_repeated_until_its_median_is_known():
    machine = Machine(reference=[100], steady=[500], noisy=noisy(1000, 100, seed=1))
    measured = machine.measure("steady", "noisy")
    assert measured["noisy"].spread <= 0.02
    assert measured["noisy"].median_ns == pytest.approx(1000, rel=0.03)
    assert measured["noisy"].repeats > 3 * measured["steady"].repeats


def test_time_runs_out_for_a_unit_that_never_settles():
    machine = Machine(reference=[100], wild=[10**6, 10**8])
    measured = machine.measure("wild", max_seconds=2.0)
    assert measured["wild"].spread > 0.02
    assert 2.0 <= machine.now_ns / 1e9 < 2.5


def test_every_unit_gets_the_fewest_repeats_even_after_the_time():
    machine = Machine(reference=[100], slow=[10**9], slower=[2 * 10**9])
    measured = machine.measure("slow", "slower", max_seconds=0.1)
    assert {m.repeats for m in measured.values()} == {rotation.MIN_REPEATS}


def test_laps_in_which_the_reference_is_slow_do_not_count():
    machine = Machine(reference=[100], conv=[1000])
    machine.slowdown = lambda: 3 if machine.now_ns // 2_500 % 5 in (3, 4) else 1
    measured = machine.measure("conv")
    assert measured["conv"].median_ns == 1000
    assert measured["conv"].spread < 0.02
    assert machine.calls.count("conv") > measured["conv"].repeats + 1


def test_a_machine_that_is_always_disturbed_still_gives_results():
    machine = Machine(reference=[100, 300, 900], conv=[1000])
    assert machine.measure("conv", max_seconds=1e-3)["conv"].median_ns == 1000


def test_what_any_call_takes_is_no_part_of_a_network():
    """Nor of each of its copies; a whole network is called, too."""
    machine = Machine(reference=[100], conv=[1000], empty=[40, 30, 20])
    units = {
        "part": Unit(machine.unit("conv")),
        "copies": Unit(machine.unit("conv"), copies=4),
        "whole": Unit(machine.unit("conv"), is_part=False),
        "nothing": Unit(machine.unit("empty")),
    }
    measured = measure_units(
        units,
        reference=machine.unit("reference"),
        clock=machine.clock,
        precision=Precision(0.02, 1.0),
        empty=machine.unit("empty"),
        now=lambda: machine.now_ns / 1e9,
    ).measurements
    assert measured["part"].median_ns == pytest.approx(970, abs=5)
    assert measured["copies"].median_ns == pytest.approx(970 / 4, abs=2)
    assert measured["whole"].median_ns == 1000
    assert 0 < measured["nothing"].median_ns < 15  # everything takes some time


def test_units_take_turns():
    machine = Machine(reference=[100], a=[1000], b=[1000], c=[1000])
    machine.measure("a", "b", "c")
    for lap in (lap for lap in machine.laps if len(set(lap)) > 1):
        assert sorted(counted(lap)) == ["a", "b", "c"]
        assert {*lap[:2], *lap[-2:]} == {"reference"}


def test_equal_units_take_equally_long_wherever_they_stand():
    """Behind another kernel a unit takes longer: none may be the one that always does."""
    machine, last = Machine(reference=[100], a=[1000], b=[1000]), [""]

    def slower_behind_the_reference():
        name = machine.calls[-1]
        is_slow = name != "reference" and last[0] == "reference"
        last[0] = name
        return 2 if is_slow else 1

    machine.slowdown = slower_behind_the_reference
    measured = machine.measure("a", "b")
    assert measured["a"].median_ns == measured["b"].median_ns == 1000


def test_units_run_among_those_that_take_as_long_in_the_order_given():
    slow, quick = ([f"{pace}{n}" for n in range(rotation.LAP)] for pace in ("slow", "quick"))
    durations = {name: [9000] for name in slow} | {name: [1000] for name in quick}
    machine = Machine(reference=[100], **durations)
    machine.measure(*itertools.chain(*zip(slow, quick, strict=True)))
    laps = [counted(lap) for lap in machine.laps if len(set(lap)) > 1]
    assert all(lap in (slow, quick) for lap in laps[2:])
    assert laps.count(slow) == laps.count(quick) >= rotation.MIN_REPEATS
    assert not all(lap in (slow, quick) for lap in laps[:2])  # nothing is known yet


def test_a_last_noisy_unit_does_not_run_alone():
    steady = {f"steady{number}": [1000] for number in range(50)}
    machine = Machine(reference=[100], noisy=noisy(1000, 150, seed=2), **steady)
    machine.measure("noisy", *steady)
    last_turn = [name for lap in machine.laps[-2:] for name in counted(lap)]
    assert len(last_turn) == rotation.COMPANY
    assert "noisy" in last_turn


def test_what_is_known_is_not_measured_again():
    known = {"a": Measurement(5, 0.0, 9, 0.0)}
    kept = []
    machine = Machine(reference=[100], a=[1000], b=[2000])
    measured = machine.measure("a", "b", known=known, keep=kept.append)
    assert measured["a"] == known["a"]
    assert [list(final) for final in kept] == [["b"]]


def test_nothing_runs_when_all_is_known():
    known = {"a": Measurement(5, 0.0, 9, 0.0), "other": Measurement(6, 0.0, 9, 0.0)}
    machine = Machine(reference=[100], a=[1000])
    assert machine.measure("a", known=known) == {"a": known["a"]}
    assert machine.calls == []


def test_results_are_kept_as_soon_as_they_are_final():
    machine = Machine(reference=[100], steady=[500], noisy=noisy(1000, 100, seed=3))
    turns_when_kept = {}
    machine.measure(
        "steady",
        "noisy",
        keep=lambda final: turns_when_kept.update(dict.fromkeys(final, len(machine.laps))),
    )
    assert turns_when_kept["steady"] < turns_when_kept["noisy"] == len(machine.laps)


def test_units_that_are_too_slow_to_matter_keep_the_few_timings_they_have():
    machine = Machine(
        reference=[100], quick=noisy(1000, 100, seed=5), slow=noisy(9000, 900, seed=6)
    )
    estimates = []

    def give_up(estimates_ns):
        estimates.append(estimates_ns)
        return [name for name in estimates_ns if estimates_ns[name] > 2 * estimates_ns["quick"]]

    measured = machine.measure("quick", "slow", give_up=give_up)
    assert machine.calls.count("slow") == 4  # two of them uncounted, in front of a lap
    assert measured["slow"].repeats == 1  # the first run does not count
    assert measured["slow"].median_ns == pytest.approx(9000, rel=0.3)
    assert measured["quick"].repeats >= rotation.MIN_REPEATS
    assert all(estimate.keys() == {"quick", "slow"} for estimate in estimates)


def test_results_are_looked_at_ever_more_rarely():
    machine, looks = Machine(reference=[100], wild=[1000, 9000]), []
    measured = machine.measure("wild", max_seconds=0.05, show=lambda done: looks.append(done))
    assert measured["wild"].repeats > 9000
    assert len(looks) < 120


def test_progress_ends_at_the_number_of_units():
    shown = []
    machine = Machine(reference=[100], a=noisy(1000, 100, seed=4), b=[500])
    machine.measure("a", "b", show=shown.append)
    assert shown[-1] == pytest.approx(2)
    assert all(0 <= done <= 2 + 1e-9 for done in shown)


@pytest.mark.parametrize("repeats", [6, 7, 20, 101, 1000, 1001, 2000, 5000])
def test_the_interval_has_the_confidence_that_it_claims(repeats):
    summary = summarise(range(2, 2 * repeats + 1, 2))
    enclosed = round(summary.spread * summary.median_ns) + 1
    rank = (repeats - enclosed) // 2 + 1
    one_more = rank + 1 + (repeats > 1000)  # where the normal approximation may cost a rank
    outside = sum(math.comb(repeats, below) for below in range(rank))
    assert 2 * outside / 2**repeats <= 0.05
    assert 2 * sum(math.comb(repeats, below) for below in range(one_more)) / 2**repeats > 0.05


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=60), st.randoms())
def test_a_summary_does_not_depend_on_the_order(timings, generator):
    shuffled = generator.sample(timings, len(timings))
    assert summarise(shuffled) == summarise(timings)
    assert min(timings) <= summarise(timings).median_ns <= max(timings)


@pytest.mark.parametrize("target_rsd", [0, -0.1, 1, math.nan])
def test_a_target_that_is_no_fraction_is_refused(target_rsd):
    with pytest.raises(InputError, match=rf"target_rsd must be between 0 and 1, got {target_rsd}"):
        Precision(target_rsd=target_rsd)


@pytest.mark.parametrize("max_seconds", [0, -1, math.nan])
def test_a_time_that_is_not_positive_is_refused(max_seconds):
    with pytest.raises(InputError, match=f"max_seconds must be greater than 0, got {max_seconds}"):
        Precision(max_seconds=max_seconds)


def raising(error):
    def run():
        raise error

    run.name = "broken"
    return run


def test_a_unit_that_raises_is_given_up_and_the_others_are_measured():
    machine = Machine(reference=[100], a=[1000], b=[2000])
    units = {"a": Unit(machine.unit("a")), "broken": Unit(raising(MemoryError("no space")))}
    outcome = measure_units(
        units | {"b": Unit(machine.unit("b"))},
        reference=machine.unit("reference"),
        clock=machine.clock,
        precision=Precision(),
        now=lambda: machine.now_ns / 1e9,
    )
    assert outcome.failures == {"broken": "MemoryError: no space"}
    assert {name: m.median_ns for name, m in outcome.measurements.items()} == {"a": 1000, "b": 2000}


def test_a_unit_that_raises_in_the_middle_is_given_up():
    machine, calls = Machine(reference=[100], a=noisy(1000, 100, seed=7)), itertools.count()

    def run():
        if next(calls) > 5:
            raise RuntimeError("CUDA error: out of memory\nmore")
        return 500

    run.name = "b"
    outcome = measure_units(
        {"a": Unit(machine.unit("a")), "b": Unit(run)},
        reference=machine.unit("reference"),
        clock=machine.clock,
        precision=Precision(),
        now=lambda: machine.now_ns / 1e9,
    )
    assert outcome.failures == {"b": "RuntimeError: CUDA error: out of memory"}
    assert outcome.measurements["a"].spread <= 0.02


def test_a_device_that_is_gone_ends_the_run_and_what_was_final_is_kept():
    machine, kept = Machine(reference=[100], a=[1000], b=noisy(1000, 200, seed=8)), {}
    runs = itertools.count()
    alive = machine.unit("reference")

    def reference():
        if next(runs) > 200:
            raise RuntimeError("the GPU has fallen off the bus")
        return alive()

    reference.name = "reference"
    with pytest.raises(MeasurementError, match=r"not even the reference.*fallen off the bus"):
        measure_units(
            {name: Unit(machine.unit(name)) for name in "ab"},
            reference=reference,
            clock=machine.clock,
            precision=Precision(1e-6, 10.0),
            keep=kept.update,
            now=lambda: machine.now_ns / 1e9,
        )
    assert kept["a"].median_ns == 1000


def test_a_program_of_several_copies_counts_as_one():
    machine = Machine(reference=[100], conv=[4000])
    outcome = measure_units(
        {"conv": Unit(machine.unit("conv"), copies=4)},
        reference=machine.unit("reference"),
        clock=machine.clock,
        precision=Precision(),
        now=lambda: machine.now_ns / 1e9,
    )
    assert outcome.measurements["conv"].median_ns == 1000


def test_latencies_are_at_the_pace_of_the_first_run():
    machine = Machine(reference=[130], conv=[1300])
    measured = machine.measure("conv", sentinel=Sentinel(baseline_ns=100))
    assert measured["conv"].median_ns == 1000


def test_a_machine_that_slows_down_for_good_does_not_bias_what_comes_late():
    machine = Machine(reference=[1000], a=[5000], b=noisy(5000, 1500, seed=9))
    machine.slowdown = lambda: 1.2 if machine.now_ns > 500_000 else 1
    outcome = machine.outcome("a", "b", target_rsd=0.05)
    assert outcome.drift == pytest.approx(1.2, rel=0.01)
    assert outcome.measurements["b"].median_ns == pytest.approx(5000, rel=0.06)


def test_a_clock_that_jumps_ahead_does_not_end_the_measuring():
    machine, looks = Machine(reference=[100], noisy=noisy(1000, 100, seed=10)), itertools.count()

    def now():
        return machine.now_ns / 1e9 + (3600 if next(looks) > 3 else 0)

    jumped = measure_units(
        {"noisy": Unit(machine.unit("noisy"))},
        reference=machine.unit("reference"),
        clock=machine.clock,
        precision=Precision(0.02, 10.0),
        now=now,
    )
    assert jumped.measurements["noisy"].spread <= 0.02


def test_timings_that_a_clock_that_jumped_made_do_not_decide():
    jumps = [1000] * 20 + [-(10**12), 10**12]
    machine = Machine(reference=[100], conv=jumps)
    machine.now_ns = 10**15
    measured = machine.measure("conv")
    assert measured["conv"].median_ns == 1000
