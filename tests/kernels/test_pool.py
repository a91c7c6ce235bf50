from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from derain_engine.base.errors import InputError
from derain_engine.kernels import pool
from derain_engine.kernels.launch import LaunchConfig

pytestmark = pytest.mark.usefixtures("interpreter")


@pytest.mark.parametrize("channels", [8, 24])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 13), (17, 33)])
def test_the_largest_of_four(height, width, dtype, channels, device):
    torch.manual_seed(0)
    image = torch.randn(2 * height, 2 * width, channels).to(dtype)
    found = pool.maximum(image.to(device), LaunchConfig(4, 8, 16, 4, 1))
    expected = F.max_pool2d(image.float().permute(2, 0, 1)[None], 2)
    assert torch.equal(found.cpu(), expected[0].permute(1, 2, 0).to(dtype))


def test_odd_sides_are_refused(device):
    for shape in ((3, 4, 8), (4, 3, 8)):
        with pytest.raises(InputError, match="cannot be halved"):
            pool.maximum(torch.zeros(shape, device=device))
