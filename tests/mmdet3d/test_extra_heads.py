"""Heads of mmdet3d on the demo model: gradients, training, layout, and scores by mmdet3d's own metrics."""

import copy
import logging
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from mmengine.registry import DefaultScope

from pano3d.engine.config import load_config
from pano3d.evaluation.state_file import read_state, write_state
from pano3d.models import ViewFeatures
from pano3d.models.parts import part_of
from pano3d.registry import METRICS, MODELS
from pano3d.structures import PanopticMap, Reconstruction, SceneSample

MISSING = [name for name in ('mmdet3d', 'mmdet', 'mmcv', 'spconv') if find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f'not installed: {MISSING}')
CONFIGS = Path(__file__).parents[2] / 'configs/mmdet3d'
DETECTION, GIVEN, POINTS = 'vggt_demo_detection', 'vggt_demo_detection_given_cameras', 'vggt_demo_points'
TASKS = {DETECTION: 'detection', GIVEN: 'detection', POINTS: 'point_semantics'}
VIEWS, HEIGHT, WIDTH = 2, 28, 42
CHAIR, TABLE = 4, 6


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.INFO)
    yield
    logging.disable(logging.NOTSET)


def build(name: str, **options):
    """The model of a config, with few and large voxels."""
    torch.manual_seed(0)
    few = {} if name == POINTS else {'model.extra_heads.detection.num_voxels': (16, 12, 8)}
    config = load_config(CONFIGS / f'{name}.py', few | options)
    with DefaultScope.overwrite_default_scope('pano3d'):
        model = MODELS.build(config.model)
    model.init_weights()
    return model


def scenes(number: int = 1) -> tuple[torch.Tensor, list[SceneSample]]:
    """A wall 2.5 m away with a chair and a table before it, seen twice."""
    category, instance = torch.zeros(VIEWS, HEIGHT, WIDTH).long(), torch.zeros(VIEWS, HEIGHT, WIDTH).long()
    depth = torch.full((VIEWS, HEIGHT, WIDTH), 2.5)
    for label, object_id, near, rows, columns in (
        (CHAIR, 1, 2.0, (4, 18), (3, 19)),
        (TABLE, 2, 1.8, (8, 26), (22, 40)),
    ):
        place = (slice(None), slice(*rows), slice(*columns))
        category[place], instance[place] = label, object_id
        depth[place] = near + torch.linspace(0, 0.4, columns[1] - columns[0])
    category[:, :2] = -1
    intrinsics = torch.tensor([[36.0, 0, 20.5], [0, 36, 13.5], [0, 0, 1]]).expand(VIEWS, 3, 3)
    poses = torch.eye(4).repeat(VIEWS, 1, 1)
    poses[1, 0, 3] = 0.1
    sample = SceneSample(metainfo=dict(scene_id='a', frame_ids=['0', '1'], label_space='scannet20'))
    sample.gt_panoptic = PanopticMap(category, instance)
    sample.gt_reconstruction = Reconstruction.from_depth(depth, intrinsics, poses)
    images = torch.rand(number, VIEWS, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    return images, [sample.clone() for _ in range(number)]


def loss_of(losses: dict[str, torch.Tensor], task: str) -> torch.Tensor:
    return sum(value for name, value in losses.items() if name.startswith(f'loss_{task}'))


def decoder_gradient(model, task: str) -> torch.Tensor:
    model.zero_grad()
    loss_of(model.loss(*scenes()), task).backward()
    return torch.cat(
        [p.grad.flatten() for n, p in model.named_parameters() if part_of(model, n) == 'decoder' and p.grad is not None]
    )


@pytest.mark.parametrize('name', [DETECTION, POINTS])
def test_the_gradient_reaches_the_decoder_with_factor_gamma(name):
    full = decoder_gradient(build(name, **{'model.segmentation_gradient': 1.0}), TASKS[name])
    tenth = decoder_gradient(build(name), TASKS[name])
    assert full.norm() > 0
    torch.testing.assert_close(tenth, full / 10, rtol=1e-3, atol=1e-3 * float(full.norm()) / 10)


@pytest.mark.parametrize('name', [DETECTION, POINTS])
def test_what_the_head_sends_is_not_counted_for_the_segmentation(name):
    model = build(name)
    model.gradient_meter.enabled = True
    loss_of(model.loss(*scenes()), TASKS[name]).backward()
    norms = model.gradient_meter.collect()
    assert set(norms) == {TASKS[name]}
    assert norms[TASKS[name]] > 0


@pytest.mark.parametrize('name', [DETECTION, GIVEN, POINTS])
def test_all_tasks_train_together(name):
    model, (images, samples) = build(name), scenes(2)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    totals = []
    for _ in range(7):
        losses = model.loss(images, samples)
        totals.append({task: float(losses[f'raw_{task}']) for task in ('geometry', 'segmentation', TASKS[name])})
        optimizer.zero_grad()
        sum(value for key, value in losses.items() if 'loss' in key).backward()
        optimizer.step()
    assert all(parameter.grad is not None for parameter in model.extra_heads.parameters())
    assert totals[-1][TASKS[name]] < 0.97 * totals[0][TASKS[name]]
    assert totals[-1]['segmentation'] < totals[0]['segmentation']


@pytest.mark.parametrize('name', [DETECTION, GIVEN])
def test_boxes_come_in_mmdet3ds_layout_and_are_scored(name):
    model, (images, samples) = (
        build(name, **{'model.extra_heads.detection.bbox_head.test_cfg': {'score_thr': 0.0}}),
        scenes(),
    )
    model.eval()
    [result] = model.predict(images, samples)
    found = result.pred_detection
    assert type(found.bboxes_3d).__name__ == 'DepthInstance3DBoxes'
    assert len(found) == len(found.bboxes_3d) == len(found.scores_3d) == len(found.labels_3d) <= 100
    assert len(found)
    assert (found.scores_3d.diff() <= 0).all()
    assert not found.bboxes_3d.yaw.any()
    assert {'pred_panoptic', 'pred_reconstruction'} <= set(result.keys())
    config = load_config(CONFIGS / f'{name}.py').val_evaluator[-1]
    metric = METRICS.build(config)
    metric.process({}, [result.to_dict()])
    scores = metric.evaluate(1)
    geometry = 'own_geometry' if name == DETECTION else 'gt_depth'
    assert 0 <= scores[f'scannet20/indoor_eval/{geometry}/mAP_0.25'] <= 1


def true_prediction(sample: SceneSample, **changes: torch.Tensor):
    from mmengine.structures import InstanceData

    from pano3d.mmdet3d.box_detection import as_depth_boxes, true_boxes

    options = dict(unit='mean_distance', frame='aligned', min_points=20)
    boxes, labels = true_boxes(sample, **options)
    found = InstanceData(labels_3d=labels, scores_3d=torch.ones(len(labels)), bboxes_3d=as_depth_boxes(boxes))
    found.set_metainfo(options)
    return found


def test_true_boxes_score_one_and_shifted_ones_their_overlap(tmp_path):
    from mmengine.structures import InstanceData

    _, [sample] = scenes()
    found = true_prediction(sample)
    assert sorted(found.labels_3d.tolist()) == [CHAIR, TABLE]
    boxes = found.bboxes_3d.clone()
    boxes.translate((*(boxes.dims[0, :1] / 2).tolist(), 0, 0))  # the chair by half its width: IoU 1/3
    shifted = InstanceData(labels_3d=found.labels_3d, scores_3d=found.scores_3d, bboxes_3d=boxes)
    shifted = InstanceData.cat([shifted, shifted[:1]])
    shifted.labels_3d[-1] = 0  # a class that no scene has: no score, and no NaN
    shifted.set_metainfo({name: found.get(name) for name in ('unit', 'frame', 'min_points')})
    for prediction, expected in ((found, (1.0, 1.0)), (shifted, (1.0, 0.0))):
        metric = METRICS.build(dict(type='pano3d.BoxMetric', label_space='scannet20'))
        result = sample.clone()
        result.pred_detection = prediction
        metric.process({}, [result.to_dict()])
        write_state(tmp_path / 'state.npz', metric.results[0])
        metric.results = [read_state(tmp_path / 'state.npz')]
        scores = metric.evaluate(1)
        for threshold, value in zip((0.25, 0.5), expected, strict=True):
            assert scores[f'scannet20/indoor_eval/own_geometry/AP_{threshold:.2f}/chair'] == pytest.approx(value)
        assert scores['scannet20/indoor_eval/own_geometry/mAP_0.25'] == 1.0


def test_a_scene_without_boxes_trains_and_is_no_error():
    model, (images, [sample]) = build(DETECTION), scenes()
    sample.gt_panoptic = PanopticMap(sample.gt_panoptic.category, torch.zeros_like(sample.gt_panoptic.instance))
    losses = model.loss(images, [sample])
    assert loss_of(losses, 'detection').isfinite()
    assert losses['loss_detection_bbox'] == 0


def test_voxel_centres_are_where_the_volume_says():
    centres = (
        build(DETECTION, **{'model.extra_heads.detection.num_voxels': (40, 32, 16)})
        .extra_heads['detection']
        .centres(torch.device('cpu'))
    )
    assert centres.shape == (40, 32, 16, 3)
    torch.testing.assert_close(centres[0, 0, 0], torch.tensor([-1.4 + 0.035, -0.6 + 0.035, -0.9 + 0.04]))
    torch.testing.assert_close(
        centres[3, 5, 7], torch.tensor([-1.4 + 3.5 * 0.07, -0.6 + 5.5 * 0.07, -0.9 + 7.5 * 0.08])
    )


def test_given_cameras_are_asked_for():
    with pytest.raises(ValueError, match=r"given cameras are metric .* set `unit='metres'`"):
        build(DETECTION, **{'model.extra_heads.detection.cameras': 'given'})
    model, (images, [sample]) = build(GIVEN), scenes()
    del sample.gt_reconstruction
    with pytest.raises(ValueError, match="needs `gt_reconstruction` in the sample; take 'predicted' without"):
        model.eval().predict(images, [sample])


def test_weights_are_loaded_as_they_were_saved():
    saved = build(POINTS, **{'model.head.refinement': dict(type='SparseRefinement', dim=128)})
    loaded = copy.deepcopy(saved)
    for parameter in loaded.parameters():
        parameter.data.zero_()
    loaded.load_state_dict(dict(saved.state_dict()))  # without the version numbers of modules, as plain checkpoints
    for name, value in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_every_pixel_has_the_class_of_its_voxel():
    model, (images, samples) = build(POINTS).eval(), scenes(2)
    results = model.predict(images, samples)
    head = model.extra_heads['point_semantics']
    for result in results:
        assert result.pred_point_semantics.category.shape == (VIEWS, HEIGHT, WIDTH)
        assert result.pred_point_semantics.category.min() >= 0
    reconstruction = Reconstruction.stack([result.pred_reconstruction for result in results])
    generator = torch.Generator().manual_seed(0)
    sources = {
        name: torch.randn(2, VIEWS, 6, dim, generator=generator) for name, dim in (('encoder', 128), ('decoder', 256))
    }
    valid = reconstruction.valid.clone()
    valid[1, 0, 3, 4] = False
    reconstruction.points[1, 0, 3, 5] = torch.nan
    holes = Reconstruction(**{**vars(reconstruction), 'valid': valid})
    with torch.no_grad():
        both = head.predict(ViewFeatures(sources, (2, 3)), holes, samples)
        alone = head.predict(ViewFeatures({n: v[1:] for n, v in sources.items()}, (2, 3)), holes[1:], samples[1:])
    assert both[1].category[0, 3, 4:6].tolist() == [-1, -1]
    assert (both[1].category >= 0).sum() == VIEWS * HEIGHT * WIDTH - 2
    assert (both[1].category == alone[0].category).float().mean() > 0.99  # round-off may part scores that are close


def test_true_points_score_one_and_missing_ones_are_wrong(tmp_path):
    from mmengine.structures import PixelData

    _, [sample] = scenes()
    truth = sample.gt_panoptic.category
    missing = torch.where(truth == CHAIR, -1, truth)
    for category, chair, table in ((truth.clamp_min(0), 1.0, 1.0), (missing, 0.0, 1.0)):
        result = sample.clone()
        result.pred_point_semantics = PixelData(category=category)
        metric = METRICS.build(dict(type='pano3d.PointSegMetric', label_space='scannet20'))
        metric.process({}, [result.to_dict()])
        write_state(tmp_path / 'state.npz', metric.results[0])
        metric.results = [read_state(tmp_path / 'state.npz')]
        scores = metric.evaluate(1)
        assert scores['scannet20/seg_eval/pixels/IoU/chair'] == chair
        assert scores['scannet20/seg_eval/pixels/IoU/table'] == table
        present = [0, CHAIR, TABLE]
        expected = sum({0: 1.0, CHAIR: chair, TABLE: table}[c] for c in present) / len(present)
        assert scores['scannet20/seg_eval/pixels/mIoU'] == pytest.approx(expected)
