"""A network as a plan: one file a family of networks."""

from __future__ import annotations

from torch import nn

from ...base.errors import BuildError
from ...kernels.launch import Configure
from ...kernels.record import heuristic
from ...models.prenet import PReNet, VRGNetDerainer
from ...models.semi_derain_gan import SemiDerainGAN
from ...models.ssid_kd import SSIDKD
from ..cost import NOMINAL
from ..program import Dtype, Plan
from .prenet import lower_prenet
from .semi_derain_gan import lower_semi_derain_gan
from .ssid_kd import lower_ssid_kd


def lower(
    network: nn.Module,
    dtype: Dtype = "fp16",
    *,
    nominal: tuple[int, int] = NOMINAL,
    code: bool = False,
    configure: Configure = heuristic,
) -> Plan:
    """Return the launches of a network for pictures of any size that is a multiple of the plan's granularity.

    Args:
        nominal: height and width that launches are cut for; the plan runs at any size.
        code: keep the innermost map (``Plan.code``) to compare it.
        configure: the configuration of a kernel for a number of channels at a level. Where it is the heuristic's,
            the convolutions of a PFFB are cut into the tiles that the cost model finds best.

    Raises:
        BuildError: a network, option or width that the fused kernels do not know.
    """
    if isinstance(network, PReNet | VRGNetDerainer):
        return lower_prenet(network, dtype, configure=configure, code=code)
    if isinstance(network, SemiDerainGAN):
        return lower_semi_derain_gan(network, dtype, configure=configure, code=code)
    if isinstance(network, SSIDKD):
        return lower_ssid_kd(network, dtype, nominal=nominal, configure=configure, code=code)
    raise BuildError(
        f"The fused kernels know no {type(network).__name__} network; build with another backend."
    )
