"""Features of DINOv2 on the grid of a backbone; `test_pano3d.py` has them in the model."""

import pytest
import torch

from pano3d.models import DINOv2Features
from pano3d.models.layers import DinoEncoder

TINY = dict(dim=16, depth=2, num_heads=2, patch_size=14, position_grid=3)


def build(**changes) -> DINOv2Features:
    torch.manual_seed(0)
    return DINOv2Features(**(TINY | changes))


def random_images(size, views: int = 2) -> torch.Tensor:
    return torch.rand(1, views, 3, *size, generator=torch.Generator().manual_seed(0))


def test_on_its_own_grid_it_is_the_encoder_on_normalised_images():
    network, images = build(), random_images((28, 42))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = (images[0] - mean[:, None, None]) / std[:, None, None]
    found = network(images, (2, 3))
    assert found.shape == (1, 2, 6, 16)
    torch.testing.assert_close(found[0], network.encoder(normalised)[:, 5:])


def test_a_patch_covers_what_a_patch_of_the_backbone_covers():
    """A picture of flat 16x16 patches has, at patch 14, the tokens of the same picture of flat 14x14 patches.

    Up to what resizing blurs at their borders: the token of each place is nearest to that of the same place.
    """
    network = build(depth=0)
    colours = torch.rand(1, 1, 3, 4, 6, generator=torch.Generator().manual_seed(1))
    large = colours.repeat_interleave(16, 3).repeat_interleave(16, 4)
    small = colours.repeat_interleave(14, 3).repeat_interleave(14, 4)
    positions = network.encoder.patch_positions((4, 6)) * 0  # their own places do not count
    network.encoder.patch_positions = lambda grid: positions
    found, expected = network(large, (4, 6))[0, 0], network(small, (4, 6))[0, 0]
    assert torch.equal(torch.cdist(found, expected).argmin(1), torch.arange(24))


@pytest.mark.parametrize('register_tokens', [4, 0])
def test_an_official_file_loads_by_name(register_tokens, tmp_path):
    torch.manual_seed(5)
    state = DinoEncoder(**TINY, register_tokens=register_tokens).state_dict()
    if not register_tokens:
        del state['register_tokens']  # as released
    torch.save(state, tmp_path / 'dinov2.pth')
    network = build(
        register_tokens=register_tokens, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'dinov2.pth'))
    )
    network.init_weights()
    for name, value in state.items():
        assert torch.equal(network.encoder.state_dict()[name], value), name
    state.pop('cls_token')
    torch.save(state, tmp_path / 'dinov2.pth')
    network.is_init = False
    with pytest.raises(ValueError, match='cls_token'):
        network.init_weights()
