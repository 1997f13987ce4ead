"""With mmdet3d itself: detectors on our networks, samples in both directions, its metrics beside ours, its infos."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from pano3d.engine import load_config
from pano3d.evaluation import PointInstanceMetric, PointPanopticMetric, PointSemanticMetric
from pano3d.evaluation.state_file import read_state, write_state
from pano3d.mmdet3d import Det3DMetric, from_det3d, require, scene_points, to_det3d
from pano3d.structures import LabelSpace, PanopticMap, Reconstruction, SceneSample

try:
    require('mmdet3d')
except ImportError as error:
    pytest.skip(str(error), allow_module_level=True)

from mmdet3d.evaluation import panoptic_seg_eval, seg_eval
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes, PointData
from mmengine.structures import InstanceData

CONFIGS = Path(__file__).parents[2] / 'configs'
SPACE = LabelSpace.load('scannet20')
NAMES = {'vggt': 'VGGTFeatures', 'pi3': 'Pi3Features', 'must3r': 'MUSt3RFeatures', 'dust3r': 'DUSt3RFeatures'}
KITTI = """
_base_ = 'mmdet3d::imvoxelnet/imvoxelnet_8xb4_kitti-3d-car.py'
custom_imports = dict(imports=['pano3d'])
model = dict(
    data_preprocessor=dict(mean=[0, 0, 0], std=[255, 255, 255], pad_size_divisor={patch}),
    backbone=dict(_delete_=True, type='pano3d.{name}', network={network}),
    neck=dict(in_channels=[{channels}], out_channels=8, num_outs=1),
    neck_3d=dict(in_channels=8, out_channels=16),
    bbox_head=dict(in_channels=16, feat_channels=16,
                   anchor_generator=dict(ranges=[[2, -8, -1, 18, 8, -1]])),
    n_voxels=[8, 8, 12],
    prior_generator=dict(ranges=[[2, -8, -2, 18, 8, 1]]),
)
"""

# --- detectors -----------------------------------------------------------------------------------------------------


def street(size: tuple[int, int]) -> Det3DDataSample:
    """A car 8 m ahead of a camera that looks along x; z is up."""
    height, width = size
    to_camera = torch.tensor([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    to_image = torch.tensor([[20.0, 0, width / 2, 0], [0, 20, height / 2, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    sample = Det3DDataSample(
        metainfo=dict(img_shape=size, lidar2img=(to_image @ to_camera).numpy(), box_type_3d=LiDARInstance3DBoxes)
    )
    box = LiDARInstance3DBoxes(torch.tensor([[8.0, 0, -1.8, 3.9, 1.6, 1.56, 0]]))
    sample.gt_instances_3d = InstanceData(bboxes_3d=box, labels_3d=torch.tensor([0]))
    return sample


def detector(family: str, folder: Path, **changes: object) -> torch.nn.Module:
    """ImVoxelNet from a config that inherits mmdet3d's, on the tiny network of a demo."""
    from mmdet3d.registry import MODELS

    network = load_config(CONFIGS / f'pano3d_{family}_demo.py').model.backbone.to_dict()
    del network['type']
    backbone = MODELS.get(f'pano3d.{NAMES[family]}')(network=network)
    path = folder / 'detector.py'
    path.write_text(
        KITTI.format(
            name=NAMES[family],
            network=network,
            channels=backbone.out_channels[0],
            patch=backbone.network.patch_size,
        )
    )
    config = Config.fromfile(path)
    assert config.default_scope == 'mmdet3d'
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet3d'):
        model = MODELS.build({**config.model, **changes})
        model.init_weights()
    return model


def check_training_and_prediction(model: torch.nn.Module, images: list[torch.Tensor], samples: list) -> None:
    data = {'inputs': {'img': images}, 'data_samples': samples}
    with DefaultScope.overwrite_default_scope('mmdet3d'):
        losses = model(**model.data_preprocessor(data, training=True), mode='loss')
        sum(sum(value) if isinstance(value, list) else value for value in losses.values()).backward()
        model.eval()
        with torch.no_grad():
            predictions = model(**model.data_preprocessor(data), mode='predict')
    gradients = [parameter.grad for parameter in model.backbone.parameters() if parameter.requires_grad]
    assert gradients and all(value is not None and value.isfinite().all() for value in gradients)
    assert any(value.abs().max() > 0 for value in gradients)
    assert len(predictions) == len(samples)
    for found in (prediction.pred_instances_3d for prediction in predictions):
        assert found.bboxes_3d.tensor.shape == (len(found.scores_3d), 7)


@pytest.mark.parametrize('family', NAMES)
def test_a_detector_of_mmdet3d_trains_and_predicts_on_our_network(family, tmp_path):
    images = [torch.randint(0, 255, (3, 26, 40), dtype=torch.uint8) for _ in range(2)]
    check_training_and_prediction(detector(family, tmp_path), images, [street((26, 40)) for _ in images])


def test_several_views_fill_one_volume(tmp_path):
    from pano3d.mmdet3d import multi_view_imvoxelnet

    model = detector('vggt', tmp_path, type=multi_view_imvoxelnet.MultiViewImVoxelNet.__name__)
    samples = [street((28, 42)) for _ in range(2)]
    turned = torch.diag(torch.tensor([-1.0, -1, 1, 1])).numpy()  # the second camera looks back
    aside = np.eye(4, dtype=np.float32)
    aside[1, 3] = 1.5
    ahead = samples[0].lidar2img
    for sample in samples:
        sample.set_metainfo({'lidar2img': np.stack([ahead, ahead @ turned, ahead @ aside])})
    maps = torch.rand(3, 8, 2, 3)
    places = torch.rand(200, 3) * torch.tensor([20.0, 20, 4]) - torch.tensor([2.0, 10, 2])
    found, known = model._lift(maps, samples[0].metainfo, places, (28, 42))
    expected, seen = torch.zeros(200, 8), torch.zeros(200)
    for view, projection in zip(maps, torch.tensor(samples[0].lidar2img), strict=True):
        for index, place in enumerate(places):
            x, y, depth = (projection @ torch.cat([place, torch.ones(1)]))[:3].tolist()
            column, row = x / depth, y / depth
            if depth > 0 and 0 < column < 42 and 0 < row < 28:
                expected[index] += view[:, round(row / 28), round(column / 42 * 2)]
                seen[index] += 1
    assert seen.unique().tolist() == [0, 1, 2]
    assert torch.equal(known, seen > 0)
    torch.testing.assert_close(found, expected / seen.clamp(min=1)[:, None])
    images = [torch.randint(0, 255, (3, 3, 28, 42), dtype=torch.uint8) for _ in samples]
    check_training_and_prediction(model, images, samples)
    samples[0].set_metainfo({'lidar2img': ahead[None]})
    with pytest.raises(ValueError, match=r'must be \(3, 4, 4\), one for each view, got \(1, 4, 4\)'):
        check_training_and_prediction(model, images, samples)


def test_the_config_for_sun_rgbd_binds():
    from mmdet3d.registry import MODELS

    config = Config.fromfile(CONFIGS / 'mmdet3d/detectors/imvoxelnet_vggt_sunrgbd.py')
    with torch.device('meta'), DefaultScope.overwrite_default_scope('mmdet3d'):
        backbone, neck = MODELS.build(config.model.backbone), MODELS.build(config.model.neck)
        preprocessor = MODELS.build(config.model.data_preprocessor)
    assert list(backbone.out_channels) == neck.in_channels
    assert preprocessor.pad_size_divisor == backbone.network.patch_size
    assert preprocessor.mean.shape == (3, 1, 1) and config.model.data_preprocessor.bgr_to_rgb
    assert config.model.type == 'ImVoxelNet' and config.model.bbox_head.n_classes == 10


# --- samples -------------------------------------------------------------------------------------------------------


def labelled_points(seed: int, *, ids: int = 1, void: float = 0.1) -> SceneSample:
    """Points of stuff, things and void, with a prediction that is partly wrong and partly void."""
    generator = torch.Generator().manual_seed(seed)
    owner = torch.arange(4800) // 240  # 20 segments
    category = torch.randperm(19, generator=generator)[owner % 16]
    category = torch.where(owner == 19, -1, category)
    wrong = torch.rand(4800, generator=generator)
    guess = torch.randint(0, 20, (4800,), generator=generator)
    found = torch.where(wrong < torch.where(owner % 4 == 1, 0.6, 0.1), guess, category)
    found = torch.where((owner % 4 == 2) & (torch.arange(4800) % 240 < 130), (category + 1) % 19, found)
    found = torch.where(wrong > 1 - void, -1, found)
    sample = SceneSample(metainfo={'scene_id': f'scene{seed:04d}_00', 'label_space': 'scannet20'})
    is_thing = torch.cat([~SPACE.is_stuff, torch.zeros(1, dtype=torch.bool)])
    sample.gt_panoptic = PanopticMap(category, torch.where(is_thing[category], ids * (owner + 1), 0))
    parts = torch.where(owner % 5 == 0, owner // 2, owner)  # some are merged
    sample.pred_panoptic = PanopticMap(found, torch.where(is_thing[found], ids * (parts + 30), 0))
    pairs = torch.stack([found, sample.pred_panoptic.instance]).unique(dim=1).T.tolist()
    scores = torch.randperm(len(pairs), generator=generator).tolist()
    segments = [
        {'category': c, 'instance': i, 'score': (s + 1) / 1024} for (c, i), s in zip(pairs, scores, strict=True)
    ]
    sample.set_field([segment for segment in segments if segment['category'] >= 0], 'pred_segments')
    return sample


def same(found: PanopticMap, expected: PanopticMap) -> bool:
    return torch.equal(found.category, expected.category) and torch.equal(found.instance, expected.instance)


def by_segment(segments: list[dict]) -> dict[tuple[int, int], float]:
    return {(segment['category'], segment['instance']): segment['score'] for segment in segments}


def test_samples_come_back_as_they_went():
    sample = labelled_points(0)
    there = to_det3d(sample, SPACE)
    assert there.scene_id == 'scene0000_00'
    assert there.gt_pts_seg.pts_semantic_mask.max() == 20  # void
    assert np.array_equal(there.eval_ann_info['pts_instance_mask'], sample.gt_panoptic.instance.numpy())
    index, labels = there.pred_pts_seg.pts_instance_mask, there.pred_pts_seg.instance_labels
    assert torch.equal(labels[index[index >= 0]], sample.pred_panoptic.category[index >= 0])
    back = from_det3d(there, SPACE)
    assert same(back.gt_panoptic, sample.gt_panoptic)
    assert same(back.pred_panoptic, sample.pred_panoptic)
    assert by_segment(back.pred_segments) == by_segment(sample.pred_segments)


def test_what_others_predict_can_be_read():
    other = Det3DDataSample()
    other.pred_pts_seg = PointData(  # a chair, a wall with a number, a table without, and nothing
        pts_semantic_mask=np.array([4, 0, 6, 20, 255]),
        pts_instance_mask=np.array([0, 1, -1, -1, -1]),
        instance_labels=np.array([4, 0]),
        instance_scores=np.array([0.5, 0.25]),
    )
    found = from_det3d(other, SPACE)
    assert found.pred_panoptic.category.tolist() == [4, 0, 6, -1, -1]
    assert found.pred_panoptic.instance.tolist() == [1, 0, 0, 0, 0]
    assert by_segment(found.pred_segments) == {(4, 1): 0.5, (0, 0): 0.25, (6, 0): 1.0}
    with pytest.raises(ValueError, match='expected `gt_pts_seg`'):
        from_det3d(Det3DDataSample(), SPACE)


def test_views_become_points_in_depth_coordinates_with_boxes():
    depth = torch.full((2, 4, 6), 2.0)
    depth[1, 0] = 0  # unknown
    intrinsics = torch.tensor([[2.0, 0, 2.5], [0, 2, 1.5], [0, 0, 1]]).expand(2, 3, 3)
    poses = torch.eye(4).repeat(2, 1, 1)
    poses[:, 0, 3] = torch.tensor([5.0, 6.0])  # the first camera is not at the origin
    category, instance = torch.full((2, 4, 6), 4), torch.zeros(2, 4, 6, dtype=torch.int64)
    category[0, :, :3], instance[0, :, 3:], instance[1, :, :] = 0, 7, 7
    category[1, :, 0], instance[1, :, 0] = -1, 0
    sample = SceneSample(metainfo={'scene_id': 'a', 'label_space': 'scannet20'})
    sample.gt_reconstruction = Reconstruction.from_depth(depth, intrinsics, poses)
    sample.gt_panoptic = PanopticMap(category, instance)
    points, labelled = scene_points(sample)
    assert points.shape == (24 + 18, 3) and labelled.gt_panoptic.shape == (42,)
    first, seventh = torch.tensor([-2.5, 2, 1.5]), torch.tensor([-2.5, 2, 0.5])  # x right, y forward, z up
    torch.testing.assert_close(points[[0, 6]], torch.stack([first, seventh]))
    torch.testing.assert_close(points[24], torch.tensor([-1.5, 2, 0.5]))  # second view: 1 m to the right, second row
    there = to_det3d(labelled, SPACE, points=points)
    boxes = there.gt_instances_3d.bboxes_3d
    assert there.gt_instances_3d.labels_3d.tolist() == [4]
    torch.testing.assert_close(boxes.gravity_center, torch.tensor([[1.5, 2, 0]]))  # x from -0.5 to 3.5
    torch.testing.assert_close(boxes.dims, torch.tensor([[4.0, 0, 3]]))
    with pytest.raises(ValueError, match=r'`gt_panoptic` must be of points \(N,\), got \(2, 4, 6\)'):
        to_det3d(sample, SPACE)


# --- metrics -------------------------------------------------------------------------------------------------------


def scores(metric, samples: list[SceneSample]) -> dict[str, float]:
    metric.process({}, [sample.to_dict() for sample in samples])
    found = metric.evaluate(size=len(samples))
    return {key.removeprefix(f'{metric.prefix}/'): value for key, value in found.items()}


@pytest.fixture(params=[1, 70000], ids=['small ids', 'large ids'])
def scenes(request: pytest.FixtureRequest) -> list[SceneSample]:
    return [labelled_points(seed, ids=request.param) for seed in (1, 2)]


def close(found: float, expected: float) -> bool:
    return found == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_semantic_scores_are_ours(scenes):
    ours = scores(PointSemanticMetric(label_space='scannet20'), scenes)
    theirs = scores(Det3DMetric(metric='semantic', label_space='scannet20'), scenes)
    assert 0.3 < theirs['miou'] < 0.95
    assert close(theirs['miou'], ours['mIoU']) and close(theirs['acc_cls'], ours['mAcc'])
    assert 'void' not in theirs and len([key for key in theirs if key.startswith('iou/')]) == 20


def test_panoptic_scores_are_ours(scenes):
    ours = scores(PointPanopticMetric(label_space='scannet20'), scenes)
    theirs = scores(Det3DMetric(metric='panoptic', label_space='scannet20'), scenes)
    assert 0.05 < theirs['pq'] < 0.95
    for name, own in (('pq', 'PQ'), ('sq_mean', 'SQ'), ('rq_mean', 'RQ')):
        assert close(theirs[name], ours[own])
    for name in ('pq', 'sq', 'rq'):
        assert close(theirs[f'{name}_things'], ours[f'{name.upper()}_things'])
        assert close(theirs[f'{name}_stuff'], ours[f'{name.upper()}_stuff'])


def test_instance_scores_are_ours(scenes):
    ours = scores(PointInstanceMetric(label_space='scannet20', per_class=True), scenes)
    theirs = scores(Det3DMetric(metric='instance', label_space='scannet20'), scenes)
    assert 0.1 < theirs['all_ap_50%'] < 0.95
    for name, own in (('all_ap', 'AP'), ('all_ap_50%', 'AP50'), ('all_ap_25%', 'AP25')):
        assert close(theirs[name], ours[own])
    assert close(theirs['ap/chair'], ours['AP/chair'])


def test_views_are_scored_on_the_mesh_and_states_are_kept(tmp_path):
    """The mesh's vertices are the points of the pixels."""
    points = labelled_points(5)
    depth = torch.full((1, 60, 80), 2.0)
    intrinsics = torch.tensor([[[40.0, 0, 39.5], [0, 40, 29.5], [0, 0, 1]]])
    sample = SceneSample(metainfo=dict(points.metainfo_items()))
    sample.gt_reconstruction = Reconstruction.from_depth(depth, intrinsics, torch.eye(4)[None])
    sample.pred_reconstruction = sample.gt_reconstruction
    predicted = points.pred_panoptic
    sample.pred_panoptic = PanopticMap(*(part.view(1, 60, 80) for part in (predicted.category, predicted.instance)))
    sample.set_field(points.pred_segments, 'pred_segments')
    owner = np.arange(4800) // 240 + 1
    categories = {i: int(points.gt_panoptic.category[240 * (i - 1)]) for i in range(1, 21)}
    vertices = sample.gt_reconstruction.points.view(-1, 3).numpy()
    np.savez(tmp_path / 'mesh.npz', vertices=vertices, instance=owner.astype(np.int32))
    sample.set_metainfo({'mesh_path': str(tmp_path / 'mesh.npz'), 'instance_categories': categories})
    pairs = (
        ('semantic', 'miou', PointSemanticMetric, 'mIoU'),
        ('panoptic', 'pq', PointPanopticMetric, 'PQ'),
        ('instance', 'all_ap_25%', PointInstanceMetric, 'AP25'),
    )
    for kind, name, ours, own in pairs:
        metric = Det3DMetric(metric=kind, label_space='scannet20', geometry='gt_depth')
        assert metric.prefix == f'scannet20/mmdet3d_{kind}/gt_depth'
        state = metric.scene_state(sample.to_dict())
        write_state(tmp_path / 'state.npz', state)
        found = metric.summarize([read_state(tmp_path / 'state.npz')])[name]
        expected = scores(ours(label_space='scannet20', geometry='gt_depth'), [sample])[own]
        assert 0 < expected < 1 and close(found, expected)


@pytest.mark.parametrize('kind', ['semantic', 'panoptic', 'instance'])
def test_truth_fed_back_is_perfect(kind):
    sample = labelled_points(3)
    sample.pred_panoptic = sample.gt_panoptic
    pairs = torch.stack([sample.gt_panoptic.category, sample.gt_panoptic.instance]).unique(dim=1).T.tolist()
    sample.set_field([{'category': c, 'instance': i, 'score': 1.0} for c, i in pairs if c >= 0], 'pred_segments')
    found = scores(Det3DMetric(metric=kind, label_space='scannet20'), [sample])
    present = len({c for c, _ in pairs if c >= 0})
    expected = {'semantic': ('miou', 1), 'panoptic': ('pq', present / 20), 'instance': ('all_ap', 1)}  # absent count 0
    name, value = expected[kind]
    assert found[name] == pytest.approx(value, abs=1e-12)


def test_what_the_adapter_is_for():
    """The defects of mmdet3d 1.4.0 themselves; when these fail, the adapter can go."""
    true, found = np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1])  # 2 is void
    scored = seg_eval([true], [found], {0: 'a', 1: 'b'}, 2)
    assert scored['b'] != 1  # the void point was booked as b taken for a
    masks = {'pts_semantic_mask': np.zeros(4), 'pts_instance_mask': np.full(4, 65535)}
    with pytest.raises(KeyError):
        panoptic_seg_eval([masks], [masks], ['a', 'b'], ['a'], ['b'], 1, 2**16, {0: 'a', 1: 'b'}, [1])


def test_metric_refusals(monkeypatch):
    with pytest.raises(ValueError, match='`metric` must be one of'):
        Det3DMetric(metric='boxes', label_space='scannet20')
    monkeypatch.setattr(np, '__version__', '2.4.6')
    with pytest.raises(
        ImportError, match=r"numpy>=1\.26,<2\.4 expected, found numpy 2\.4\.6: pip install 'numpy<2\.4'"
    ):
        Det3DMetric(metric='instance', label_space='scannet20')
    sample = labelled_points(4, ids=2**28)
    with pytest.raises(ValueError, match='instance ids must lie in'):
        scores(Det3DMetric(metric='panoptic', label_space='scannet20'), [sample])


# --- infos ---------------------------------------------------------------------------------------------------------


def test_infos_of_mmdet3d_are_read_by_both(tmp_path):
    from mmdet3d.datasets import ScanNetSegDataset

    from pano3d.conversion.mmdet3d_scannet import read_infos

    assert ScanNetSegDataset.METAINFO['seg_valid_class_ids'] == SPACE.source_ids
    semantic = np.array([1, 1, 5, 5, 13, 39, 0])  # NYU40: wall, chair, none of the 20, other furniture, nothing
    instance = np.array([3, 3, 9, 9, 4, 12, 0])
    files = {'points': np.zeros((7, 6), np.float32), 'semantic_mask': semantic, 'instance_mask': instance}
    for kind, array in files.items():
        (tmp_path / kind).mkdir()
        array.tofile(tmp_path / kind / 'scene0000_00.bin')
    alignment = np.diag([1.0, -1, 1, 1])
    entry = {'lidar_points': {'num_pts_feats': 6, 'lidar_path': 'scene0000_00.bin'}, 'instances': []}
    entry |= {'axis_align_matrix': alignment, 'pts_semantic_mask_path': 'scene0000_00.bin'}
    entry |= {'pts_instance_mask_path': 'scene0000_00.bin'}
    content = {'metainfo': {'dataset': 'scannet', 'info_version': '1.1'}, 'data_list': [entry]}
    (tmp_path / 'infos.pkl').write_bytes(pickle.dumps(content))
    with DefaultScope.overwrite_default_scope('mmdet3d'):
        data = ScanNetSegDataset(
            data_root=str(tmp_path),
            ann_file='infos.pkl',
            metainfo={'classes': ScanNetSegDataset.METAINFO['classes']},
            data_prefix=dict(pts='points', pts_semantic_mask='semantic_mask', pts_instance_mask='instance_mask'),
            test_mode=True,
            pipeline=[
                dict(type='LoadPointsFromFile', coord_type='DEPTH', use_color=True, load_dim=6, use_dim=6),
                dict(
                    type='LoadAnnotations3D',
                    with_bbox_3d=False,
                    with_label_3d=False,
                    with_mask_3d=True,
                    with_seg_3d=True,
                ),
                dict(type='PointSegClassMapping'),
                dict(type='Pack3DDetInputs', keys=['points']),
            ],
        )
        [theirs] = [from_det3d(item['data_samples'], SPACE) for item in data]
    [ours] = read_infos(tmp_path / 'infos.pkl')
    assert ours.scene_id == 'scene0000_00' and ours.axis_alignment == alignment.tolist()
    assert theirs.gt_panoptic.category.tolist() == [SPACE.category_of({'nyu40_id': n}) for n in semantic.tolist()]
    assert theirs.gt_panoptic.category.tolist() == [0, 0, 4, 4, -1, 19, -1]
    assert theirs.gt_panoptic.instance.tolist() == [0, 0, 9, 9, 0, 12, 0]  # a wall is not counted
