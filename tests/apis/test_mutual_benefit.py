"""The report on joint training: differences by hand, verdicts either way, nothing compared that is untrained."""

import json
import math

import pytest
from mmengine.config import Config

from pano3d.apis.mutual_benefit import Difference, paired_differences, regime_config, write_benefit_report

PQ, REL = 'scannet20/pq_scene_mean/pixels/PQ', 'depth_per_view/own_geometry/AbsRel'


def results(**changes):
    found = {
        'geometry_only': {0: {PQ: 0.0, REL: 0.20}, 1: {PQ: 0.0, REL: 0.22}, 2: {PQ: 0.0, REL: 0.24}},
        'segmentation_only': {0: {PQ: 0.40, REL: 3.0}, 1: {PQ: 0.40, REL: 3.1}, 2: {PQ: 0.46, REL: 3.2}},
        'joint': {0: {PQ: 0.50, REL: 0.21}, 1: {PQ: 0.52, REL: 0.22}, 2: {PQ: 0.57, REL: 0.23}},
    }
    return found | changes


def by_place(differences: list[Difference]) -> dict[tuple[str, str], Difference]:
    return {(d.metric, d.other): d for d in differences}


def test_differences_are_paired_by_seed():
    found = by_place(paired_differences(results()))
    pq = found[PQ, 'segmentation_only']  # 0.10, 0.12, 0.11: standard error 0.01 / sqrt(3), t = 11 sqrt(3)
    assert pq.mean == pytest.approx(0.11)
    assert pq.interval == pytest.approx(4.302653 * 0.01 / math.sqrt(3), rel=1e-5)
    # Student's t with 2 degrees of freedom has the closed form P(|T| > t) = 1 - t / sqrt(2 + t^2).
    t = 11 * math.sqrt(3)
    assert pq.p == pytest.approx(1 - t / math.sqrt(2 + t * t), rel=1e-6)
    assert pq.helps is True
    rel = found[REL, 'geometry_only']  # 0.01, 0, -0.01
    assert rel.mean == pytest.approx(0.0, abs=1e-12) and rel.helps is None


def test_a_smaller_error_is_better_and_a_larger_one_worse():
    found = by_place(paired_differences(results()))
    assert found[REL, 'segmentation_only'].helps is True
    worse = {seed: {PQ: 0.5, REL: 1.0 + 0.2 + 0.02 * seed} for seed in range(3)}
    found = by_place(paired_differences(results(joint=worse)))
    assert found[REL, 'geometry_only'].mean == pytest.approx(1.0)
    assert found[REL, 'geometry_only'].helps is False


def test_what_a_regime_never_trained_is_not_compared():
    assert (PQ, 'geometry_only') not in by_place(paired_differences(results()))


def test_seeds_that_are_missing_or_undefined_are_left_out():
    partial = results(segmentation_only={0: {PQ: 0.4, REL: 3.0}}, joint={0: {PQ: 0.5}, 1: {PQ: 0.5, REL: 0.1}})
    found = by_place(paired_differences(partial))
    single = found[PQ, 'segmentation_only']
    assert single.mean == pytest.approx(0.1) and math.isnan(single.p) and single.helps is None
    assert found[REL, 'geometry_only'].mean == pytest.approx(-0.12)
    assert (REL, 'segmentation_only') not in found


def test_the_report_says_what_was_found(tmp_path):
    gradients = [
        {
            'gradient_norm/decoder/geometry': [(0, 2.0), (50, 1.0)],
            'gradient_norm/decoder/segmentation': [(0, 20.0), (50, 30.0)],
            'gradient_cosine/geometry_segmentation/decoder': [(0, 0.1), (50, -0.2)],
            'gradient_overhead': [(50, 0.03)],
        }
    ]
    failed = {('joint', 7): 'the training failed, see x'}
    paths = write_benefit_report(tmp_path, results(), gradients, {'Seeds': 3}, failed)
    assert [path.name for path in paths] == ['report.md', 'report.json', 'report.png']
    text = paths[0].read_text()
    assert '| `scannet20/pq_scene_mean/pixels/PQ` ↑ | - | 0.420 ± 0.035 | 0.530 ± 0.036 |' in text
    assert 'segmentation (segmentation only as the measure): better in `scannet20/pq_scene_mean/pixels/PQ`' in text
    assert 'geometry (geometry only as the measure): undecided' in text
    assert '| `gradient_norm/decoder/segmentation` | 20 | 30 |' in text
    assert 'gradient_overhead' not in text
    assert 'joint, seed 7, failed' in text
    record = json.loads(paths[1].read_text())
    assert record['results']['joint']['2'][PQ] == 0.57
    assert len(record['differences']) == 3
    assert paths[2].stat().st_size > 10_000


def test_without_a_joint_run_there_is_no_report(tmp_path):
    with pytest.raises(ValueError, match="'joint' is finished"):
        write_benefit_report(tmp_path, results(joint={}), [], {}, {})


def test_a_regime_changes_the_model_the_seed_and_the_start_only():
    config = Config(dict(model=dict(a=1, joint_loss=dict(geometry=dict(type='X'))), randomness=dict(seed=0)))
    changed = regime_config(config, dict(frozen=True, joint_loss=dict(geometry=None)), seed=4, start='start.pth')
    assert changed.to_dict() == dict(
        model=dict(a=1, frozen=True, joint_loss=dict(geometry=None)), randomness=dict(seed=4), load_from='start.pth'
    )
    assert config.randomness.seed == 0
