"""A group norm that many cores can share when there are few images."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


class ChannelwiseGroupNorm(nn.GroupNorm):
    """Where it is compiled, takes mean and variance of each channel, then of the groups from those.

    torch and its compiler reduce a group in one piece. A decode has 32 pieces, a million pixels in eight channels each:
    they keep a quarter of a large GPU busy, for a third of the time (docs/benchmarks.md). Channels are four times as
    many pieces or more, lie side by side in the channels-last layout, and are cut further by the compiler.

    The variance of a group is the mean of its channels' variances plus the variance of their means (the law of total
    variance; all channels have as many pixels). Like torch's it is computed in fp32, and rounds differently.
    """

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the normalised images of shape (rows, channels, ...) in their own dtype."""
        if not torch.compiler.is_compiling():
            return super().forward(images)
        full = images.float()
        pixels = tuple(range(2, images.dim()))
        variances, means = torch.var_mean(full, dim=pixels, correction=0)
        grouped = (len(images), self.num_groups, -1)
        variances, means = variances.view(grouped), means.view(grouped)
        mean = means.mean(-1, keepdim=True)
        variance = variances.mean(-1, keepdim=True) + (means - mean).square().mean(-1, keepdim=True)
        scale = self.weight.float().view(1, self.num_groups, -1) * torch.rsqrt(variance + self.eps)
        shift = self.bias.float().view(1, self.num_groups, -1) - mean * scale
        broadcast = (*images.shape[:2], *(1 for _ in pixels))
        return (full * scale.view(broadcast) + shift.view(broadcast)).to(images.dtype)


def by_channels(modules: Iterable[nn.Module], *, on: bool) -> None:
    """Lets all group norms of some modules work by channels where they are compiled, or as torch's own again."""
    before, after = (nn.GroupNorm, ChannelwiseGroupNorm) if on else (ChannelwiseGroupNorm, nn.GroupNorm)
    for module in modules:
        for part in module.modules():
            if type(part) is before:
                part.__class__ = after
