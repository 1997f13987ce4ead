"""The inferencer: what reaches the network, what comes back, and what is refused."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from pano3d.apis import Pano3DInferencer


def half_red(height: int, width: int) -> np.ndarray:
    """Red in the right half, green in the upper half."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, width // 2 :, 0], image[: height // 2, :, 1] = 255, 255
    return image


def test_landscape_image_of_the_same_shape_is_only_scaled(config):
    sample = Pano3DInferencer(config)([half_red(40, 60)] * 2)
    assert sample.images.shape == (2, 3, 20, 30)
    np.testing.assert_array_equal(sample.images[1].permute(1, 2, 0) * 255, half_red(20, 30))
    assert (sample.pred_panoptic.category[:, :, 15:] == 4).all() and (
        sample.pred_panoptic.category[:, :, :15] == 0
    ).all()
    depth = sample.pred_reconstruction.depth
    assert (depth[:, :10] == 2).all() and (depth[:, 10:] == 1).all()


def test_portrait_image_covers_the_size_and_is_cropped_in_the_middle(config):
    # 60 x 30 has the right width: only rows are cut, 20 on either side.
    image = half_red(60, 30)
    image[:20, :, 2] = image[40:, :, 2] = 255
    sample = Pano3DInferencer(config)([image])
    np.testing.assert_array_equal(sample.images[0].permute(1, 2, 0) * 255, half_red(20, 30))


def test_folder_of_images(config, tmp_path):
    folder = tmp_path / 'kitchen'
    folder.mkdir()
    for number in (10, 9, 1):
        Image.fromarray(np.full((20, 30, 3), number, np.uint8)).save(folder / f'{number}.png')
    sample = Pano3DInferencer(config)(folder)
    assert sample.scene_id == 'kitchen' and sample.frame_ids == ['1', '9', '10'] and sample.label_space == 'scannet20'
    assert (sample.images[:, 0, 0, 0] * 255).tolist() == [1, 9, 10]
    assert Pano3DInferencer(config)(folder, max_views=2).frame_ids == ['1', '10']


def test_images_of_different_sizes_become_one_size(config):
    sample = Pano3DInferencer(config)([half_red(40, 60), half_red(480, 640), half_red(300, 200)])
    assert sample.pred_panoptic.shape == (3, 20, 30)


def test_checkpoint_is_loaded(config, tmp_path):
    weights = {'classifier.weight': torch.rand(20, 2), 'classifier.bias': torch.rand(20)}
    torch.save({'state_dict': weights}, tmp_path / 'model.pth')
    inferencer = Pano3DInferencer(config, tmp_path / 'model.pth', device='cpu')
    assert torch.equal(inferencer.model.classifier.weight, weights['classifier.weight'])
    assert not inferencer.model.training


def test_checkpoint_of_other_classes_is_refused(config, tmp_path):
    config_200 = copy.deepcopy(config)
    config_200.model.label_space = 'scannet200'
    torch.save(Pano3DInferencer(config_200).model.state_dict(), tmp_path / 'model.pth')
    with pytest.raises(ValueError, match=r'(?s)model\.pth.*classifier.*\(20, 2\).*\(200, 2\)'):
        Pano3DInferencer(config, tmp_path / 'model.pth')


def test_config_from_a_file(config, tmp_path):
    config.dump(tmp_path / 'config.py')
    sample = Pano3DInferencer(tmp_path / 'config.py')([half_red(20, 30)])
    assert sample.pred_panoptic.shape == (1, 20, 30)


def test_config_is_not_changed_and_can_be_used_twice(config):
    before = config.pretty_text
    Pano3DInferencer(config)
    Pano3DInferencer(config)
    assert config.pretty_text == before


def test_incomplete_configs_are_refused(config, tmp_path):
    with pytest.raises(ValueError, match='no such config'):
        Pano3DInferencer(tmp_path / 'nowhere.py')
    without_crop = copy.deepcopy(config)
    without_crop.test_dataloader.dataset.pipeline = [{'type': 'PackScene'}]
    with pytest.raises(ValueError, match=r"needs a ResizeCrop.*has \['PackScene'\]"):
        Pano3DInferencer(without_crop)
    without_model = copy.deepcopy(config)
    without_model.pop('model')
    with pytest.raises(ValueError, match='no `model`'):
        Pano3DInferencer(without_model)


@pytest.mark.parametrize(('device', 'message'), [('cuda:99', 'not available'), ('gpu', 'is unknown')])
def test_missing_devices_are_refused(config, device, message):
    with pytest.raises(ValueError, match=message):
        Pano3DInferencer(config, device=device)
