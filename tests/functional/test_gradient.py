"""Forward identity, backward factor."""

import pytest
import torch

from pano3d.functional.gradient import scale_gradient


def test_values_are_the_same_and_gradients_are_scaled():
    x = torch.randn(4, dtype=torch.float64, requires_grad=True)
    y = scale_gradient(x, 0.1)
    assert torch.equal(x, y)
    (y**2).sum().backward()
    torch.testing.assert_close(x.grad, 0.1 * 2 * x.detach())


@pytest.mark.parametrize('factor', [-1.0, float('nan'), float('inf')])
def test_a_meaningless_factor_is_refused(factor):
    with pytest.raises(ValueError, match='gradient factor'):
        scale_gradient(torch.zeros(1), factor)
