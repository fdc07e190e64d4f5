"""Learning-rate schedules by their formulas."""

import math

import numpy as np
import pytest

from minidl.optimizers import schedules


@pytest.mark.parametrize("step", [0, 1, 9, 10, 11, 25, 1000])
def test_schedules_equal_their_formulas(step):
    assert schedules.ExponentialDecay(0.1, 10, 0.5)(step) == 0.1 * 0.5 ** (step / 10)
    staircase = schedules.ExponentialDecay(0.1, 10, 0.5, staircase=True)
    assert staircase(step) == 0.1 * 0.5 ** (step // 10)
    assert schedules.InverseTimeDecay(0.1, 10, 0.5)(step) == 0.1 / (1 + 0.5 * step / 10)
    staircase = schedules.InverseTimeDecay(0.1, 10, 0.5, staircase=True)
    assert staircase(step) == 0.1 / (1 + 0.5 * (step // 10))
    done = min(step, 10) / 10
    cosine = 0.1 * (0.8 * (1 + math.cos(math.pi * done)) / 2 + 0.2)
    assert schedules.CosineDecay(0.1, 10, alpha=0.2)(step) == pytest.approx(cosine, rel=1e-12)
    piecewise = schedules.PiecewiseConstantDecay([9, 20], [0.3, 0.2, 0.1])(step)
    assert piecewise == (0.3 if step <= 9 else 0.2 if step <= 20 else 0.1)


@pytest.mark.parametrize("power", [0.5, 1, 2])
@pytest.mark.parametrize(
    ("step", "left", "left_in_cycle"),
    [(0, 1, 1), (4, 0.6, 0.6), (10, 0, 0), (11, 0, 1 - 11 / 20), (20, 0, 0), (21, 0, 1 - 21 / 30)],
)
def test_polynomial_decay_equals_the_formula_of_keras(step, left, left_in_cycle, power):
    for cycle, share in ((False, left), (True, left_in_cycle)):
        rate = schedules.PolynomialDecay(0.5, 10, 0.1, power, cycle)(step)
        assert rate == pytest.approx(0.4 * share**power + 0.1, rel=1e-12)


def test_polynomial_decay_may_grow_from_zero():
    found = [schedules.PolynomialDecay(0.0, 4, 0.5)(step) for step in range(6)]
    assert found == [0.0, 0.125, 0.25, 0.375, 0.5, 0.5]


def test_repr_of_a_schedule_shows_its_arguments():
    schedule = schedules.PiecewiseConstantDecay([2], [0.1, 0.2])
    assert repr(schedule) == "PiecewiseConstantDecay(boundaries=[2], values=[0.1, 0.2])"


def test_cosine_decay_ends_at_alpha():
    assert schedules.CosineDecay(0.1, 10)(10) == 0
    assert schedules.CosineDecay(0.1, 10, alpha=0.5)(11) == pytest.approx(0.05)


def test_piecewise_decay_rejects_values_that_do_not_fit_boundaries():
    message = "^PiecewiseConstantDecay: expected 2 values for 1 boundaries, got 1"
    with pytest.raises(ValueError, match=message):
        schedules.PiecewiseConstantDecay([5], [0.1])


@pytest.mark.parametrize("steps", [0, -1, float("nan")])
@pytest.mark.parametrize(
    ("kind", "more"),
    [
        (schedules.ExponentialDecay, {"decay_rate": 0.5}),
        (schedules.InverseTimeDecay, {"decay_rate": 0.5}),
        (schedules.CosineDecay, {}),
        (schedules.PolynomialDecay, {}),
    ],
)
def test_decay_steps_that_are_not_above_zero_are_rejected(kind, more, steps):
    message = rf"^{kind.__name__}: expected decay_steps in \(0, inf\), got {steps}"
    with pytest.raises(ValueError, match=message):
        kind(0.1, decay_steps=steps, **more)


def test_base_class_does_not_define_a_rate():
    with pytest.raises(NotImplementedError):
        schedules.LearningRateSchedule()(0)


@pytest.mark.parametrize(
    ("value", "rate"),
    [
        *((value, 0.5) for value in (0.5, np.float32(0.5), np.array(0.5))),
        *((value, 0.0) for value in (0, -0.0, np.int64(0))),
        *(
            (value, None)
            for value in (-1, False, math.inf, math.nan, "0.5", None, 1j, np.array([0.5]))
        ),
    ],
)
def test_as_rate_returns_float_of_valid_number_only(value, rate):
    assert schedules.as_rate(value) == rate
    assert type(schedules.as_rate(value)) is type(rate)


def test_returned_rate_names_who_returned_it():
    assert schedules.returned_rate("Warmup", 1, "update 3") == 1.0
    with pytest.raises(ValueError, match=r"^Warmup: expected it to return .*got -1 for update 3"):
        schedules.returned_rate("Warmup", -1, "update 3")


# ------------------------------------------------------------------------------ invalid rates


STEPS = [0, 1, 10**6, 2**40, 2**63]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "schedule",
    [
        schedules.ExponentialDecay(0.1, 1, 0.5),
        schedules.ExponentialDecay(0.1, 3, 0.5, staircase=True),
        schedules.ExponentialDecay(0.1, 1, 0.0),
        schedules.ExponentialDecay(0.1, 1, 1.0),
        schedules.InverseTimeDecay(0.1, 7, 0.5),
        schedules.InverseTimeDecay(0.1, 7, 0.0, staircase=True),
        schedules.PiecewiseConstantDecay([5], [0.1, 0.0]),
        schedules.CosineDecay(0.1, 10),
        schedules.CosineDecay(0.1, 10**6, alpha=2.0),
    ],
)
def test_schedules_return_valid_rates_at_all_steps(schedule, step):
    assert schedules.as_rate(schedule(step)) is not None


@pytest.mark.parametrize("wrong", [-0.5, math.nan, math.inf, "0.5", None, 1j])
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("ExponentialDecay: expected decay_rate", lambda v: schedules.ExponentialDecay(0.1, 1, v)),
        ("InverseTimeDecay: expected decay_rate", lambda v: schedules.InverseTimeDecay(0.1, 1, v)),
        ("CosineDecay: expected alpha", lambda v: schedules.CosineDecay(0.1, 10, alpha=v)),
        ("CosineDecay: expected initial_l", lambda v: schedules.CosineDecay(v, 10)),
        ("CosineDecayRestarts: expected t_mul", lambda v: schedules.CosineDecayRestarts(1, 9, v)),
        ("ExponentialDecay: expected initial_l", lambda v: schedules.ExponentialDecay(v, 1, 0.5)),
        (
            "PiecewiseConstantDecay: expected values",
            lambda v: schedules.PiecewiseConstantDecay([5], [0.1, v]),
        ),
    ],
)
def test_schedules_reject_arguments_of_invalid_rates(name, make, wrong):
    with pytest.raises((TypeError, ValueError), match=rf"^{name}.*got {wrong!r}"):
        make(wrong)


def test_decay_steps_of_text_are_rejected():
    with pytest.raises(TypeError, match=r"^CosineDecay: expected decay_steps in .*, got '9'"):
        schedules.CosineDecay(0.1, "9")


def test_warm_up_without_its_target_is_rejected():
    with pytest.raises(ValueError, match=r"^CosineDecay: expected warmup_target .*=5, got None"):
        schedules.CosineDecay(0.1, 10, warmup_steps=5)


@pytest.mark.parametrize("t_mul", [1, 1.5, 2])
def test_restarts_begin_where_the_lengths_add_up(t_mul):
    schedule = schedules.CosineDecayRestarts(0.1, 4, t_mul=t_mul, m_mul=0.5)
    starts = {1: [0, 4, 8, 12], 1.5: [0, 4, 10, 19], 2: [0, 4, 12, 28]}[t_mul]
    assert [schedule(step) for step in starts] == [0.1, 0.05, 0.025, 0.0125]
    assert all(schedule(step - 1) < schedule(step) for step in starts[1:])
