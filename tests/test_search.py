"""The search proposes where the moving image lies, and the close-up shows what both images have in common."""

from dataclasses import replace

import numpy as np
import pytest

from retina_kp import PairOptions, draw_pair
from retina_kp.core.geometry import corner_error, similarity, translation, warp_points
from retina_kp.registration import search
from retina_kp.registration.closeup import common_window, whole_window
from retina_kp.registration.options import SearchOptions, registrar_options
from retina_kp.registration.search import STEP, hypotheses, search_stages, settle, strength_nearby, try_view


@pytest.fixture(scope="module")
def upright():
    """A pair in which the moving image lies as the fixed one does, but for small things."""
    return draw_pair(11, 4, ("CF", "FA"), PairOptions(size_px=512, rotation_deg=5, scale=(0.95, 1.05), min_overlap=0.8))


def views_and_truth(registrar, pair, quarter_turns=0):
    """Both images' views, the moving one turned counter-clockwise, and the true transform in base px."""
    moving = np.ascontiguousarray(np.rot90(pair.moving, quarter_turns))
    middle = ((pair.moving.shape[1] - 1) / 2, (pair.moving.shape[0] - 1) / 2)
    H_1to0 = np.linalg.inv(similarity(-90 * quarter_turns, 1, middle, middle) @ pair.H_0to1)
    views0, views1 = registrar.views(pair.fixed), registrar.views(moving)
    return views0, views1, views0.base_from_original @ H_1to0 @ np.linalg.inv(views1.base_from_original)


def test_stages_go_from_likely_to_unlikely_and_repeat_nothing():
    stages = search_stages(0.6)
    views = [view for stage in stages for view in stage]
    ratios = sorted({round(scale1 / scale0, 6) for _, scale0, scale1 in views})
    assert (
        views[0] == (0.0, 0.6, 0.6)
        and {view[1:] for view in stages[0]} == {(0.6, 0.6)}
        and len(set(views)) == len(views)
    )
    assert ratios == pytest.approx([STEP**-2, 1 / STEP, 1, STEP, STEP**2], rel=1e-5)
    for ratio in ratios:
        turns = {turn for turn, scale0, scale1 in views if abs(scale1 / scale0 - ratio) < 1e-5}
        assert turns == {0.0, 45.0, 90.0, 135.0, 180.0, -45.0, -90.0, -135.0}


def test_fewer_stages_are_the_first_ones_and_none_takes_the_images_as_they_lie():
    everything = search_stages(0.6)
    assert [search_stages(0.6, count) for count in (1, 2, 4)] == [everything[:1], everything[:2], everything]
    assert search_stages(0.6, 0) == [[(0.0, 0.6, 0.6)]]
    with pytest.raises(ValueError, match="stages: the search has 0 to 4, not 5"):
        SearchOptions(stages=5)


@pytest.mark.parametrize("quarter_turns", [0, 1, 2])
def test_the_first_hypothesis_is_right(registrar, upright, quarter_turns):
    views0, views1, truth = views_and_truth(registrar, upright, quarter_turns)
    first = next(hypotheses(views0, views1, registrar.options.search, search_stages(registrar.options.search.coarse)))
    assert first.strength >= registrar.options.search.promising_strength and 0 < first.share <= 1
    assert corner_error(first.fit.H_1to0, truth, views1.base_hw) < 8


def test_a_clear_hypothesis_ends_the_search_and_others_are_settled_only_on_demand(registrar, upright, monkeypatch):
    views0, views1, _ = views_and_truth(registrar, upright, 1)
    calls = {"try_view": [], "settle": []}
    for name, found in calls.items():
        function = getattr(search, name)
        monkeypatch.setattr(search, name, lambda *args, f=function, found=found: found.append(args[3:]) or f(*args))
    options = registrar.options.search
    found = hypotheses(views0, views1, options, search_stages(options.coarse)[:1])
    next(found)
    turns = [turn for turn, *_ in calls["try_view"]]
    assert turns == [0.0, 90.0] and len(calls["settle"]) == 1
    rest = list(found)  # whoever is not satisfied gets what is left
    assert len(calls["try_view"]) == 8 and len(calls["settle"]) <= options.settled_per_stage
    assert len(rest) <= options.settled_per_stage - 1


def test_nothing_promising_still_ends_with_the_best_of_all_stages(registrar, upright):
    views0, views1, truth = views_and_truth(registrar, upright)
    options = registrar_options(
        promising_strength=1e6, nearby_strength=0.0, judged_strength=0.0, judged_at_end=2
    ).search
    found = list(hypotheses(views0, views1, options, search_stages(options.coarse)[:1]))
    assert len(found) == 2 and found[0].strength >= found[1].strength
    assert corner_error(found[0].fit.H_1to0, truth, views1.base_hw) < 8


def test_settling_mends_a_hypothesis_that_is_somewhat_off(registrar):
    # a hypothesis is a similarity
    unsheared = PairOptions(size_px=512, rotation_deg=5, scale=(0.95, 1.05), min_overlap=0.8, shear=0)
    views0, views1, truth = views_and_truth(registrar, draw_pair(11, 4, ("CF", "FA"), unsheared))
    raw = try_view(views0, views1, registrar.options.search, 0.0, 0.6, 0.6)
    raw.fit.H_1to0[:2, 2] += (9, -7)
    settled = settle(views0, views1, registrar.options.search, raw)
    assert (
        corner_error(raw.fit.H_1to0, truth, views1.base_hw)
        > 8
        > 5
        > corner_error(settled.fit.H_1to0, truth, views1.base_hw)
    )


def test_matching_nearby_tells_a_right_place_from_a_wrong_one_without_a_picture(registrar, upright, monkeypatch):
    views0, views1, _ = views_and_truth(registrar, upright)
    options, view = registrar.options.search, (0.0, 0.6, 0.6)
    raw = try_view(views0, views1, options, *view)
    monkeypatch.setattr(type(views0), "picture", None)
    raw.fit.H_1to0[:2, 2] += (9, -7)
    assert strength_nearby(views0, views1, options, raw, view) > 3 * options.nearby_strength
    raw.fit.H_1to0[:2, 2] += (90, 60)
    assert strength_nearby(views0, views1, options, raw, view) < options.nearby_strength


def test_few_hypotheses_of_two_eyes_are_looked_at(registrar, upright):
    other = draw_pair(12, 1, ("CF", "FA"), PairOptions(size_px=512))
    views0, views1 = registrar.views(upright.fixed), registrar.views(other.moving)
    found = list(hypotheses(views0, views1, registrar.options.search, search_stages(0.6)))
    assert len(found) <= registrar.options.search.judged_at_end
    assert all(hypothesis.strength >= registrar.options.search.judged_strength for hypothesis in found)


def test_maps_tell_a_right_place_from_one_by_chance(registrar, upright):
    """Of a settled hypothesis, at any scale of the fixed picture; what chance brought is not handed on."""
    views0, views1, _ = views_and_truth(registrar, upright)
    options = registrar.options.search
    for scale in (options.coarse, options.coarse * STEP):
        settled = settle(views0, views1, options, try_view(views0, views1, options, 0.0, scale, options.coarse))
        assert settled.agreement > 0.4
    stages = search_stages(options.coarse)
    everything = replace(options, judged_agreement=-1.0, judged_strength=0.0, judged_at_end=99)
    strangers = registrar.views(draw_pair(12, 1, ("CF", "FA"), PairOptions(size_px=512)).moving)
    found = list(hypotheses(views0, strangers, everything, stages))
    low = options.judged_agreement
    assert len(found) > 1 and np.median([each.agreement for each in found]) < low
    handed_on = list(hypotheses(views0, strangers, replace(everything, judged_agreement=low), stages))
    assert [each.agreement for each in handed_on] == [each.agreement for each in found if each.agreement >= low]


def test_a_map_moves_with_its_picture(registrar, upright):
    """The upright view's map in a window that lies 10 cells off is that map, 10 cells off; beyond it is nothing."""
    views = registrar.views(upright.fixed)
    whole = whole_window(views, 0.6)
    hw = (whole.hw[0] // 2 + 30, whole.hw[1] // 2 + 30)
    here, there = (views.upright_map(0.6, translation(*by) @ whole.from_base, hw) for by in ((0, 0), (20, 20)))
    assert there[10:, 10:] == pytest.approx(here[:-10, :-10], abs=1e-4)
    assert there[12:, 12:].max() > 0.2 and not there[:8].any() and not there[:, :8].any() and not here[-25:].any()


def test_a_part_of_a_window_shows_the_same_places(registrar, upright):
    """Cropped around places, with a margin in px, at a multiple of 32 px and never beyond the window."""
    window = whole_window(registrar.views(upright.fixed), 0.6)
    middle = warp_points([[60.0, 50.0], [90.0, 110.0]], np.linalg.inv(window.from_base))
    part = window.around(middle, 6.5)
    assert part.hw == (85, 65)
    assert warp_points(middle, part.from_base) == pytest.approx(np.array([[28.0, 18.0], [58.0, 78.0]]), abs=1e-6)
    shift = window.features0.keypoints_xy - part.features0.keypoints_xy
    assert shift == pytest.approx(np.broadcast_to([32.0, 32.0], shift.shape), abs=1e-3)
    assert window.around(warp_points([[-1e5, -1e5], [1e5, 1e5]], np.eye(3)), 7.0).hw == window.hw
    beyond = window.around(np.full((3, 2), 1e5), 7.0)
    assert min(beyond.hw) >= 1 and window.features0.image_hw == window.hw


@pytest.mark.parametrize(("scale", "offset"), [(1.0, (0, 0)), (0.35, (150, -60)), (2.5, (80, 40))])
def test_the_closeup_holds_what_both_images_show(registrar, upright, scale, offset):
    views0, views1, _ = views_and_truth(registrar, upright)
    middle = views0.outline.mean(0)
    H = similarity(20, scale, views1.outline.mean(0), middle + offset)
    closeup = common_window(views0, views1, H, registrar.options.closeup.close_px)
    grid = np.stack(np.meshgrid(*(np.linspace(0, n - 1, 60) for n in views0.base_hw[::-1])), -1).reshape(-1, 2)
    base1 = np.rint(warp_points(warp_points(grid, np.linalg.inv(H)), np.linalg.inv(views1.base_from_original))).astype(
        int
    )
    base0 = np.rint(warp_points(grid, np.linalg.inv(views0.base_from_original))).astype(int)
    seen = [
        (xy >= 0).all(1) & (xy < np.array(v.valid.shape[::-1])).all(1) for xy, v in ((base0, views0), (base1, views1))
    ]
    both = seen[0] & seen[1]
    for xy, v in ((base0, views0), (base1, views1)):
        both[both] &= v.valid[xy[both, 1], xy[both, 0]]
    common = warp_points(grid[both], closeup.from_base)
    assert both.sum() > 20 and common.min() >= 0 and (common <= np.array(closeup.hw[::-1])).all()
    assert np.prod(common.max(0) - common.min(0)) > 0.6 * np.prod(closeup.hw)  # and little else but its margin
    assert np.prod(closeup.hw) <= (registrar.options.closeup.close_px + 2) ** 2
    assert closeup.zoom <= views0.finest and closeup.zoom * scale <= views1.finest + 1e-9


def test_no_closeup_of_images_that_share_nothing(registrar, upright):
    views0, views1, _ = views_and_truth(registrar, upright)
    assert common_window(views0, views1, similarity(0, 1, (0, 0), (3000, 0)), 560.0) is None
