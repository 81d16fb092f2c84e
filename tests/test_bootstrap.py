"""Intervals over eyes: small cases are enumerated by hand, large ones compared with theory."""

import numpy as np
import pytest

from retina_kp.evaluation import intervals as bootstrap

INF = float("inf")


def test_two_eyes_can_only_be_drawn_in_four_ways():
    values, eyes = [0.2] * 3 + [0.8] * 3, ["a"] * 3 + ["b"] * 3  # aa, ab, ba, bb: means 0.2, 0.5, 0.5, 0.8
    weights = bootstrap.eye_weights(eyes, rounds=4000)
    means = weights @ values / weights.sum(1)
    assert set(np.round(means, 9)) == {0.2, 0.5, 0.8} and np.mean(np.isclose(means, 0.5)) == pytest.approx(
        0.5, abs=0.03
    )
    assert bootstrap.interval(values, eyes) == pytest.approx((0.2, 0.8))
    assert bootstrap.interval(values, eyes, level=0.4) == pytest.approx((0.5, 0.5))  # the middle half of the four


def test_an_eye_comes_with_all_of_its_pairs():
    """Three pairs of an eye that agree say no more than one: the interval does not shrink; a bootstrap of pairs would
    shrink by √3."""
    rng = np.random.default_rng(1)
    values, eyes = rng.random(12), [f"eye {k}" for k in range(12)]
    once, thrice = bootstrap.interval(values, eyes), bootstrap.interval(np.repeat(values, 3), np.repeat(eyes, 3))
    assert once == pytest.approx(thrice)
    as_pairs = bootstrap.interval(np.repeat(values, 3), [str(k) for k in range(36)])
    assert np.ptp(as_pairs) == pytest.approx(np.ptp(once) / np.sqrt(3), rel=0.15)


def test_eyes_with_more_pairs_weigh_more():
    values, eyes = [1.0, 1, 1, 0.25], ["a", "a", "a", "b"]  # aa 1, ab 3.25 / 4, bb 0.25
    weights = bootstrap.eye_weights(eyes, 500)
    assert set(np.round(weights @ values / weights.sum(1), 9)) == {1.0, 0.8125, 0.25}


def test_many_eyes_give_the_normal_interval():
    values = np.random.default_rng(2).normal(3, 1, 400)
    low, high = bootstrap.interval(values, [str(k) for k in range(400)])
    assert (low + high) / 2 == pytest.approx(values.mean(), abs=0.01) and high - low == pytest.approx(
        2 * 1.96 * values.std() / 20, rel=0.06
    )


def test_where_all_agree_the_binomial_limit_stands():
    eyes = [f"eye {k // 2}" for k in range(20)]  # ten eyes: 0.025 ** (1 / 10) = 0.6915 (Clopper and Pearson)
    assert bootstrap.interval(np.ones(20), eyes, verdicts=True) == pytest.approx((0.6915, 1), abs=1e-4)
    assert bootstrap.interval(np.zeros(20), eyes, verdicts=True) == pytest.approx((0, 0.3085), abs=1e-4)
    assert bootstrap.interval(np.zeros(20), eyes) == (0, 0), (
        "areas under curves are no verdicts, even where all are nil"
    )
    assert np.isnan(bootstrap.interval([1.0, 1.0], ["a", "a"])).all() and np.isnan(bootstrap.interval([], [])).all()


def test_a_better_count_never_has_a_lower_limit():
    """With the binomial limit at 25 of 25 alone, 24 of 25 would have seemed surer."""
    eyes = [str(k) for k in range(25)]
    ends = np.array([bootstrap.interval(np.arange(25) < right, eyes, verdicts=True) for right in range(26)])
    # exact: [.7965, .9990]
    assert (np.diff(ends, axis=0) >= 0).all() and ends[24] == pytest.approx([0.7965, 1], abs=2e-3)


@pytest.mark.parametrize(
    ("share", "trials", "low", "high"), [(0.5, 10, 0.1871, 0.8129), (0.1, 20, 0.0123, 0.3170), (1, 5, 0.4782, 1)]
)
def test_exact_limits_are_those_of_the_tables(share, trials, low, high):
    assert bootstrap.binomial_limits(share, trials) == pytest.approx((low, high), abs=1e-4)
    assert bootstrap.binomial_limits(1 - share, trials) == pytest.approx((1 - high, 1 - low), abs=1e-4)


def test_the_median_stands_failures():
    eyes = [str(k) for k in range(9)]
    low, high = bootstrap.median_interval([1, 2, 3, 4, 5, 6, 7, INF, INF], eyes)
    assert 1 <= low < 5 < high and bootstrap.median_interval([INF] * 9, eyes) == (INF, INF)
    # even counts: the mean of the two in the middle
    two = {np.median(np.random.default_rng(k).choice([1.0, 4.0], 2)) for k in range(20)}
    weights = bootstrap.eye_weights(["a", "b"], 50)
    assert two == {1, 2.5, 4} and bootstrap.median_interval([1, 4], ["a", "b"]) == (1, 4) and weights.shape == (50, 2)


def test_differences_are_paired():
    """Two methods of which one is always 0.1 better: each alone is uncertain, the difference is not."""
    a, eyes = np.random.default_rng(3).random(15), [str(k) for k in range(15)]
    assert np.ptp(bootstrap.interval(a, eyes)) > 0.2
    assert bootstrap.paired_difference(a, a - 0.1, eyes) == pytest.approx((0.1, 0.1, 0.1))
    mean, low, high = bootstrap.paired_difference(a, a[::-1], eyes)
    assert mean == pytest.approx(0) and low < 0 < high


def test_verdicts_that_never_differ_leave_room_for_a_difference():
    eyes, ones = [str(k) for k in range(10)], np.ones(10)
    assert bootstrap.paired_difference(ones, ones, eyes, verdicts=True) == pytest.approx((0, -0.3085, 0.3085), abs=1e-4)
    wide = 1 - np.hypot(0.3085, 0.3085)  # both shares, 10 of 10 and 0 of 10, may be off by 0.3085
    assert bootstrap.paired_difference(ones, 0 * ones, eyes, verdicts=True) == pytest.approx((1, wide, 1), abs=1e-4)
    assert bootstrap.paired_difference(0 * ones, ones, eyes, verdicts=True) == pytest.approx((-1, -1, -wide), abs=1e-4)
    assert (
        bootstrap.paired_difference(ones, ones, eyes) == (0, 0, 0)
        and np.isnan(bootstrap.paired_difference([], [], [])).all()
    )


def test_differences_of_verdicts_do_not_contradict_each_other():
    """The more pairs only the first method has right, the farther right lie both ends."""
    eyes = [str(k) for k in range(25)]
    ends = np.array(
        [bootstrap.paired_difference(np.arange(25) < n, np.zeros(25), eyes, verdicts=True)[1:] for n in range(26)]
    )
    assert (np.diff(ends, axis=0) >= -1e-9).all() and ends[1, 0] < 0 < ends[8, 0]


def test_mean_of_groups_counts_groups_alike():
    values, groups = [0.9] * 8 + [0.3, 0.1], ["S"] * 8 + ["P"] * 2
    eyes = [str(k) for k in range(10)]
    mean, low, high = bootstrap.mean_of_groups(values, groups, eyes)
    # only P varies: 0.1, 0.2 or 0.3
    assert mean == pytest.approx((0.9 + 0.2) / 2) and (low, high) == pytest.approx((0.5, 0.6))
