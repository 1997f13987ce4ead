"""Panels: cells lie where the layout says, and their pixels have exactly the colours of the labels."""

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from pano3d.structures import PanopticMap, Reconstruction, SceneSample
from pano3d.visualization import category_colors, draw_panels, instance_colors, save_panels, spread_views
from pano3d.visualization.panels import GAP, LINE, match_instances

HEIGHT, WIDTH, FACTOR = 48, 64, 4


def cell(page: np.ndarray, row: int, column: int) -> np.ndarray:
    """One cell at its original resolution."""
    top = LINE + row * (LINE + HEIGHT * FACTOR + GAP) + LINE
    left = GAP + column * (WIDTH * FACTOR + GAP)
    block = page[top : top + HEIGHT * FACTOR, left : left + WIDTH * FACTOR]
    small = block[::FACTOR, ::FACTOR]
    np.testing.assert_array_equal(block, small.repeat(FACTOR, 0).repeat(FACTOR, 1))
    return small


def test_cells_show_image_and_labels(scene, label_space):
    page = draw_panels(scene, label_space, [0, 2])
    for row, view, labels in ((0, 0, 'pred'), (2, 2, 'pred'), (1, 0, 'gt'), (3, 2, 'gt')):
        category = scene.get(f'{labels}_panoptic').category[view].numpy()
        # Ground truth and prediction cover each other exactly, so both have the colours of the prediction.
        instance = scene.pred_panoptic.instance[view].numpy()
        image = (scene.images[view] * 255).round().byte().permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(cell(page, row, 0), image)
        np.testing.assert_array_equal(cell(page, row, 2), category_colors(category))
        np.testing.assert_array_equal(cell(page, row, 3), instance_colors(category, instance))


def test_one_instance_has_one_colour_in_all_views(scene, label_space):
    page = draw_panels(scene, label_space, [0, 1, 2])
    colors_of = {1: set(), 2: set()}
    for view in range(3):
        picture = cell(page, 2 * view, 3)
        for identifier, colors in colors_of.items():
            seen = picture[scene.pred_panoptic.instance[view].numpy() == identifier]
            assert len(seen)
            colors.update(map(tuple, seen.tolist()))
    assert len(colors_of[1]) == len(colors_of[2]) == 1
    assert colors_of[1] != colors_of[2]


def test_depth_has_one_range_per_row_and_black_where_unknown(scene, label_space):
    page = draw_panels(scene, label_space, [0, 1, 2])
    depths = np.stack([cell(page, 2 * view, 1) for view in range(3)])
    truths = np.stack([cell(page, 2 * view + 1, 1) for view in range(3)])
    # The prediction is the truth at half the scale: with a range of its own it looks the same.
    np.testing.assert_array_equal(depths, truths)
    valid = scene.pred_reconstruction.valid.numpy()
    assert (depths[~valid] == 0).all()
    assert (depths[valid] > 0).any(axis=-1).all()
    # Far is dark and near is bright, in every view.
    depth = scene.pred_reconstruction.depth.numpy()
    far, near = depths[valid & (depth > 1.99)], depths[valid & (depth < 1.2)]
    assert far.astype(int).sum(-1).max() < near.astype(int).sum(-1).min()


def test_depth_range_by_hand(label_space):
    """Depths 1 to 101 over two views: the 2nd and the 98th percentile are 3 and 99."""
    depth = torch.cat([torch.zeros(1), torch.arange(1.0, 102)]).view(2, 1, 51)
    eye = torch.eye(4).repeat(2, 1, 1)
    sample = SceneSample(metainfo={'frame_ids': ['0', '1']})
    sample.images = torch.zeros(2, 3, 1, 51)
    sample.pred_reconstruction = Reconstruction.from_depth(depth, eye[:, :3, :3], eye)
    page = draw_panels(sample, label_space, [0, 1])
    left, factor = GAP + 51 * 6 + GAP, 6  # 6 * 51 is the first multiple of the width above 256
    tops = [LINE + view * (LINE + factor + GAP) + LINE for view in range(2)]
    cells = np.concatenate([page[top, left : left + 51 * factor : factor] for top in tops])
    colors = matplotlib.colormaps['viridis_r'](np.array([0.0, 0.5, 1.0]), bytes=True)[:, :3]
    assert (cells[0] == 0).all()
    assert (cells[1:4] == colors[0]).all() and (cells[4] != colors[0]).any()
    assert (cells[51] == colors[1]).all()
    assert (cells[99:] == colors[2]).all() and (cells[97] != colors[2]).any()


def test_more_views_do_not_change_colours(scene, label_space):
    np.testing.assert_array_equal(
        cell(draw_panels(scene, label_space, [1]), 0, 1), cell(draw_panels(scene, label_space, [0, 1]), 2, 1)
    )


def test_without_ground_truth_there_is_one_row(scene, label_space):
    both = draw_panels(scene, label_space, [0])
    for name in ('gt_panoptic', 'gt_reconstruction'):
        scene.pop(name)
    single = draw_panels(scene, label_space, [0])
    # One row with its caption, and the line of the legend that held the other depth bar.
    assert len(both) - len(single) == (LINE + HEIGHT * FACTOR + GAP) + LINE
    np.testing.assert_array_equal(cell(single, 0, 3), cell(both, 0, 3))


def test_geometry_alone_leaves_label_cells_black(scene, label_space):
    for name in ('gt_panoptic', 'gt_reconstruction', 'pred_panoptic'):
        scene.pop(name)
    page = draw_panels(scene, label_space, [0])
    assert cell(page, 0, 1).any()
    assert not cell(page, 0, 2).any() and not cell(page, 0, 3).any()


def test_save_panels_writes_scene_and_views(scene, label_space, tmp_path):
    scene.set_metainfo({'frame_ids': ['a/b', '000020', '000040']})
    paths = save_panels(scene, label_space, tmp_path / 'panels', max_views=2)
    assert [path.name for path in paths] == [
        'scene.png',
        'view_0000_a_b.png',
        'view_0001_000020.png',
        'view_0002_000040.png',
    ]
    np.testing.assert_array_equal(np.asarray(Image.open(paths[0])), draw_panels(scene, label_space, [0, 2]))
    np.testing.assert_array_equal(np.asarray(Image.open(paths[2])), draw_panels(scene, label_space, [1]))


def test_nothing_to_draw_is_refused(label_space):
    sample = SceneSample(metainfo={'frame_ids': ['0']})
    with pytest.raises(ValueError, match='images'):
        draw_panels(sample, label_space, [0])
    sample.images = torch.zeros(1, 3, 4, 4)
    with pytest.raises(ValueError, match='neither a prediction nor ground truth'):
        draw_panels(sample, label_space, [0])


def test_large_images_are_not_enlarged(label_space):
    sample = SceneSample(metainfo={'frame_ids': ['0']})
    sample.images = torch.zeros(1, 3, 20, 300)
    labels = torch.zeros(1, 20, 300, dtype=torch.long)
    sample.pred_panoptic = PanopticMap(labels, labels)
    assert draw_panels(sample, label_space, [0]).shape[1] == GAP + 4 * (300 + GAP)


@pytest.mark.parametrize(
    ('num_views', 'max_views', 'expected'),
    [(1, 6, [0]), (5, 6, [0, 1, 2, 3, 4]), (11, 3, [0, 5, 10]), (100, 2, [0, 99]), (7, 1, [0])],
)
def test_spread_views(num_views, max_views, expected):
    assert spread_views(num_views, max_views) == expected


def test_spread_views_refuses_none():
    with pytest.raises(ValueError, match='max_views'):
        spread_views(3, 0)


def test_match_instances_by_hand():
    #                     void    covered by 5 (IoU 3/4)  half of 7 (IoU 1/2)  nothing
    instance = np.array([9, 9,    1, 1, 1, 1,             2, 2,                3, 3])  # fmt: skip
    reference = np.array([7, 7,   5, 5, 5, 0,             7, 0,                0, 0])  # fmt: skip
    known = np.arange(10) >= 2
    renamed = match_instances(instance, reference, known)
    # 2 overlaps 7 with exactly 1/2, which is not more than a half; unmatched ids get new numbers above 7.
    np.testing.assert_array_equal(renamed, [0, 0, 5, 5, 5, 5, 8, 8, 9, 9])
