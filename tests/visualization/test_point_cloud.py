"""Point clouds: written, read back with other tools, and equal to the sample they come from."""

import json
import struct

import numpy as np
import pytest
import trimesh
from plyfile import PlyData

from pano3d.visualization import LabelledPoints, palette, write_glb, write_ply


def test_ply_holds_every_valid_pixel(scene, label_space, tmp_path):
    path = write_ply(LabelledPoints.from_sample(scene), label_space, tmp_path / 'scene.ply')
    ply = PlyData.read(path)
    vertices = ply['vertex'].data
    valid = scene.pred_reconstruction.valid
    assert len(vertices) == int(valid.sum()) == 3 * (48 * 64 - 4)
    xyz = np.stack([vertices[axis] for axis in 'xyz'], axis=1)
    np.testing.assert_array_equal(xyz, scene.pred_reconstruction.points[valid].numpy())
    rgb = np.stack([vertices[channel] for channel in ('red', 'green', 'blue')], axis=1)
    np.testing.assert_array_equal(rgb, (scene.images * 255).round().byte().permute(0, 2, 3, 1)[valid].numpy())
    np.testing.assert_array_equal(vertices['category'], scene.pred_panoptic.category[valid].numpy())
    np.testing.assert_array_equal(vertices['instance'], scene.pred_panoptic.instance[valid].numpy())
    np.testing.assert_array_equal(vertices['confidence'], 1.0)
    assert [p.name for p in ply['vertex'].properties] == [
        *('x', 'y', 'z', 'red', 'green', 'blue', 'category', 'instance', 'confidence')
    ]
    assert 'category 2 chair' in ply.comments


def test_ply_is_read_by_trimesh(scene, label_space, tmp_path):
    cloud = LabelledPoints.from_sample(scene, source='gt')
    loaded = trimesh.load(write_ply(cloud, label_space, tmp_path / 'scene.ply'))
    np.testing.assert_allclose(loaded.vertices, cloud.points)
    np.testing.assert_array_equal(loaded.colors[:, :3], cloud.colors)


def test_known_geometry_of_an_object(scene):
    cloud = LabelledPoints.from_sample(scene, source='gt')
    chair = cloud.points[cloud.instance == 9]
    # Painted on the wall at z = 4 between x = 0.3 and 1.5; pixels there are 4 / 45 m wide.
    np.testing.assert_allclose(chair[:, 2], 4.0, atol=1e-5)
    assert chair[:, 0].min() == pytest.approx(0.3, abs=4 / 45) and chair[:, 0].max() == pytest.approx(1.5, abs=4 / 45)


def test_glb_has_a_node_per_object_and_stuff_class(scene, label_space, tmp_path):
    scene.pred_reconstruction.points.fill_(1.0)
    cloud = LabelledPoints.from_sample(scene)
    loaded = trimesh.load(write_glb(cloud, label_space, tmp_path / 'scene.glb'))
    assert set(loaded.graph.nodes_geometry) == {'wall', 'floor', 'chair_1', 'chair_2'}


def test_glb_points_and_colours(scene, label_space, tmp_path):
    cloud = LabelledPoints.from_sample(scene)
    loaded = trimesh.load(write_glb(cloud, label_space, tmp_path / 'scene.glb'))
    expected = {
        'wall': ((cloud.category == 0), palette()[0]),
        'floor': ((cloud.category == 1), palette()[1]),
        'chair_1': ((cloud.instance == 1), palette()[0]),
        'chair_2': ((cloud.instance == 2), palette()[1]),
    }
    for name, (mask, color) in expected.items():
        transform, geometry = loaded.graph[name]
        node = loaded.geometry[geometry]
        points = trimesh.transform_points(node.vertices, transform)
        # y up and z backward: half a turn about x.
        np.testing.assert_allclose(points, cloud.points[mask] * [1, -1, -1], atol=1e-6)
        assert (node.colors[:, :3] == color).all()


def test_glb_is_up_in_the_file_itself(scene, label_space, tmp_path):
    """Without trimesh: the floor lies at y = +0.6 (down) in the scene, so at y = -0.6 in glTF."""
    cloud = LabelledPoints.from_sample(scene)
    data = write_glb(cloud[cloud.category == 1], label_space, tmp_path / 'floor.glb').read_bytes()
    magic, version, _, json_length = struct.unpack('<4sIII', data[:16])
    assert (magic, version) == (b'glTF', 2)
    header = json.loads(data[20 : 20 + json_length])
    [mesh] = header['meshes']
    accessor = header['accessors'][mesh['primitives'][0]['attributes']['POSITION']]
    assert mesh['primitives'][0]['mode'] == 0  # points
    assert accessor['min'][1] == pytest.approx(-0.6, abs=1e-5) and accessor['max'][2] < 0
    assert all('matrix' not in node or np.allclose(node['matrix'], np.eye(4).ravel()) for node in header['nodes'])


def test_void_points_have_their_own_node(scene, label_space, tmp_path):
    scene.pred_panoptic.category[0] = -1
    scene.pred_panoptic.instance[0] = 0
    loaded = trimesh.load(write_glb(LabelledPoints.from_sample(scene), label_space, tmp_path / 'scene.glb'))
    assert len(loaded.geometry['void'].vertices) == 48 * 64 - 4


def test_confidence_filter_and_non_finite_points(scene):
    confidence = scene.pred_reconstruction.confidence
    confidence[1] = 0.2
    scene.pred_reconstruction.points[2, 10:12] = float('nan')
    cloud = LabelledPoints.from_sample(scene, min_confidence=0.5)
    assert len(cloud) == (48 * 64 - 4) + (46 * 64 - 4)
    assert cloud.confidence.min() == 1.0 and np.isfinite(cloud.points).all()


def test_cap_keeps_rows_together_and_is_repeatable(scene):
    full, capped = LabelledPoints.from_sample(scene), LabelledPoints.from_sample(scene, max_points=500)
    assert len(capped) == 500
    rows = {(*point, *color) for point, color in zip(full.points.tolist(), full.colors.tolist(), strict=True)}
    assert all(
        (*point, *color) in rows for point, color in zip(capped.points.tolist(), capped.colors.tolist(), strict=True)
    )
    np.testing.assert_array_equal(capped.points, LabelledPoints.from_sample(scene, max_points=500).points)


def test_a_missing_field_is_named(scene):
    scene.pop('pred_panoptic')
    with pytest.raises(ValueError, match=r"not set: \['pred_panoptic'\]"):
        LabelledPoints.from_sample(scene)


def test_an_empty_cloud(scene, label_space, tmp_path):
    cloud = LabelledPoints.from_sample(scene, min_confidence=9.0)
    assert len(PlyData.read(write_ply(cloud, label_space, tmp_path / 'empty.ply'))['vertex'].data) == 0
    with pytest.raises(ValueError, match='min_confidence'):
        write_glb(cloud, label_space, tmp_path / 'empty.glb')
