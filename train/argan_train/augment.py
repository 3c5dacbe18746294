"""Augmentations for the discriminator and for the depth network: on the device, all from one random
generator.

Images [N, 3, H, W] sRGB 0..1, disparities [N, 1, H, W] 0..1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def uniform(rng: torch.Generator, n: int, low: float, high: float) -> Tensor:
    """[N, 1, 1, 1] on the generator's device."""
    return low + (high - low) * torch.rand(n, 1, 1, 1, generator=rng, device=rng.device)


def chance(rng: torch.Generator, n: int, probability: float) -> Tensor:
    """bool [N, 1, 1, 1]."""
    return torch.rand(n, 1, 1, 1, generator=rng, device=rng.device) < probability


CHANGES = ("shift", "brightness", "saturation", "contrast")


def changes(n: int, probability: float, rng: torch.Generator) -> dict[str, Tensor]:
    """Random numbers of `change` for n images; each image is moved, and recoloured, with
    `probability`. The ranges of DiffAugment (Zhao et al. 2020): an eighth of the frame, +-0.5 of a
    -1..1 scale, 0..2 times the saturation, 0.5..1.5 times the contrast. Nothing that blurs, scales,
    adds noise or cuts out: those would leak into the depth of field."""
    moved = chance(rng, n, probability)[..., 0]
    recoloured = chance(rng, n, probability)

    def draw(low: float, high: float, neutral: float) -> Tensor:
        return torch.where(recoloured, uniform(rng, n, low, high), neutral)

    shift = (2 * torch.rand(n, 2, 1, generator=rng, device=rng.device) - 1) / 8
    return {"shift": shift * moved, "brightness": draw(-0.25, 0.25, 0),
            "saturation": draw(0, 2, 1), "contrast": draw(0.5, 1.5, 1)}  # fmt: skip


def change(image: Tensor, drawn: dict[str, Tensor]) -> Tensor:
    """Recolour and move by whole pixels, grey moving in; differentiable. [N, 3, S, S], 0..1 or
    slightly beyond."""
    image = image + drawn["brightness"]
    grey = image.mean(dim=1, keepdim=True)
    image = grey + (image - grey) * drawn["saturation"]
    level = image.mean(dim=(1, 2, 3), keepdim=True)
    image = level + (image - level) * drawn["contrast"]
    size = image.shape[-1]
    margin = size // 8
    steps = torch.arange(size, device=image.device) + margin
    rows, columns = (steps + (drawn["shift"] * size).round().long()).unbind(dim=1)  # [N, S] each
    wide = F.pad(image - 0.5, [margin] * 4)
    tall = wide.gather(2, rows[:, None, :, None].expand(-1, 3, -1, wide.shape[-1]))
    return tall.gather(3, columns[:, None, None, :].expand(-1, 3, size, -1)) + 0.5


def recolour(image: Tensor, rng: torch.Generator) -> Tensor:
    """Tone curve, contrast, saturation, turned hues, now and then a negative: so that "dark" and
    "green" say nothing about depth."""
    n, device = len(image), image.device
    order = torch.stack([torch.randperm(3, generator=rng, device=device) for _ in range(n)])
    turned = torch.gather(image, 1, order[:, :, None, None].expand_as(image))
    image = torch.where(chance(rng, n, 0.3), turned, image)
    image = torch.where(chance(rng, n, 0.1), 1 - image, image)
    image = image.clamp(1e-4, 1) ** (2 ** uniform(rng, n, -1.2, 1.2))
    grey = image.mean(dim=1, keepdim=True)
    image = grey + (image - grey) * uniform(rng, n, 0.2, 1.5)
    level = image.mean(dim=(1, 2, 3), keepdim=True)
    image = level + (image - level) * uniform(rng, n, 0.6, 1.4) + uniform(rng, n, -0.15, 0.15)
    return image.clamp(0, 1)


def recolour_apart(
    image: Tensor, disparity: Tensor, threshold: float, rng: torch.Generator
) -> Tensor:
    """In a third of the images subject and background are recoloured each for itself."""
    front = torch.sigmoid((disparity - threshold) * 24)
    apart = front * recolour(image, rng) + (1 - front) * recolour(image, rng)
    return torch.where(chance(rng, len(image), 0.33), apart, recolour(image, rng))


def paste(
    image: Tensor, disparity: Tensor, threshold: float, probability: float, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The subject of each sample, moved, before another sample's scene."""
    n, _, height, width = image.shape
    shift = (torch.rand(2, generator=rng, device=image.device) - 0.5) * 0.6
    moves = (int(shift[0] * height), int(shift[1] * width))
    moved = torch.roll(torch.cat([image, disparity], dim=1), moves, dims=(2, 3))
    front = torch.sigmoid((moved[:, 3:] - threshold) * 24) * chance(rng, n, probability)
    behind = torch.cat([image, disparity], dim=1).roll(1, dims=0)
    behind = torch.where(chance(rng, n, 0.5), behind.flip(-1), behind)
    whole = torch.cat([image, disparity], dim=1)
    scene = torch.where(
        front.amax(dim=(1, 2, 3), keepdim=True) > 0, front * moved + (1 - front) * behind, whole
    )
    return scene[:, :3], scene[:, 3:]


def fill_holes(disparity: Tensor) -> Tensor:
    """Dips that no path at their own level joins to the frame's border are raised to their rim
    (grey-scale reconstruction, Vincent 1993). [N, 1, H, W]

    A generator may blur the smooth inside of a petal unseen; what an outline encloses is taken for
    part of the subject.
    """
    filled = disparity.amax(dim=(2, 3), keepdim=True).expand_as(disparity).clone()
    for edge in (filled[..., 0, :], filled[..., -1, :], filled[..., 0], filled[..., -1]):
        edge.fill_(float("-inf"))
    filled = torch.maximum(filled, disparity)
    for _ in range(disparity.shape[-2] + disparity.shape[-1]):  # the longest way to the border
        across = F.max_pool2d(-filled, (1, 3), stride=1, padding=(0, 1))
        down = F.max_pool2d(-filled, (3, 1), stride=1, padding=(1, 0))
        lower = torch.maximum(-torch.maximum(across, down), disparity)
        if torch.equal(lower, filled):
            break
        filled = lower
    return filled


def narrowed(disparity: Tensor, by: int) -> Tensor:
    """What is near loses `by` px at its outline. [N, 1, H, W]

    A mixed pixel of an outline must stay as it is, or it would smear: AR-GAN leaves it in focus
    with the subject, and a pixel more costs it nearly nothing (docs/training.md).
    """
    return -F.max_pool2d(-disparity, 2 * by + 1, stride=1, padding=by)


def snap_to_outlines(disparity: Tensor, image: Tensor, radius: int, smooth: float) -> Tensor:
    """The disparity's steps moved to the image's: guided filter with a colour guide (He, Sun and
    Tang 2013), windows of 2 radius + 1 px, `smooth` the variance below which colour is no edge.

    A generator's disparity is coarser than its image, and a little too wide. [N, 1, H, W]
    """
    n, _, height, width = image.shape
    products = torch.cat([image[:, i : i + 1] * image[:, i:] for i in range(3)], dim=1)
    everything = torch.cat([image, disparity, image * disparity, products], dim=1)
    mean = _window_mean(everything, radius)
    colour, level = mean[:, :3], mean[:, 3:4]
    together = mean[:, 4:7] - colour * level  # covariance of colour and disparity
    r, g, b = colour.unbind(dim=1)
    rr, rg, rb, gg, gb, bb = (mean[:, 7:] - torch.stack(
        [r * r, r * g, r * b, g * g, g * b, b * b], dim=1)).unbind(dim=1)  # fmt: skip
    rr, gg, bb = rr + smooth, gg + smooth, bb + smooth
    # The inverse of a symmetric 3 x 3 matrix by its cofactors.
    c_rr, c_rg, c_rb = gg * bb - gb * gb, rb * gb - rg * bb, rg * gb - rb * gg
    c_gg, c_gb, c_bb = rr * bb - rb * rb, rg * rb - rr * gb, rr * gg - rg * rg
    determinant = rr * c_rr + rg * c_rg + rb * c_rb
    x, y, z = together.unbind(dim=1)
    slope = torch.stack([c_rr * x + c_rg * y + c_rb * z, c_rg * x + c_gg * y + c_gb * z,
                         c_rb * x + c_gb * y + c_bb * z], dim=1) / determinant[:, None]  # fmt: skip
    offset = level - (slope * colour).sum(dim=1, keepdim=True)
    line = _window_mean(torch.cat([slope, offset], dim=1), radius)
    return (line[:, :3] * image).sum(dim=1, keepdim=True) + line[:, 3:]


def _window_mean(x: Tensor, radius: int) -> Tensor:
    padded = F.pad(x, [radius] * 4, mode="replicate")
    window = 2 * radius + 1
    rows = F.avg_pool2d(padded, (window, 1), stride=1)  # 3 to 6 times as fast as both at once
    return F.avg_pool2d(rows, (1, window), stride=1)


def crop(
    image: Tensor, disparity: Tensor, size: int, zoom: tuple[float, float], rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A random square at a random zoom (1 = the whole frame), flipped at random, `size` px a side.

    Takes the subject off the centre, so that "centre" says nothing about depth either.
    """
    n = len(image)
    share = 1 / uniform(rng, n, *zoom).view(n, 1)  # of the frame
    centre_x, centre_y = (uniform(rng, n, -1, 1).view(n, 1) * (1 - share) for _ in range(2))
    mirror = torch.where(chance(rng, n, 0.5), -1.0, 1.0).view(n, 1)
    axis = (torch.arange(size, device=image.device) + 0.5) / size * 2 - 1
    both = torch.cat([image, disparity], dim=1)
    out = sampled(both, centre_x + share * axis * mirror, centre_y + share * axis, "border")
    return out[:, :3], out[:, 3:]


def sampled(picture: Tensor, x: Tensor, y: Tensor, beyond: str) -> Tensor:
    """picture [N, C, H, W] at columns x [N, W'] and rows y [N, H'], -1..1 from edge to edge;
    beyond: "border", "reflection" or "zeros"."""
    grid = torch.stack(
        [x[:, None, :].expand(-1, y.shape[1], -1), y[:, :, None].expand(-1, -1, x.shape[1])], dim=-1
    )
    return F.grid_sample(picture, grid, mode="bilinear", padding_mode=beyond, align_corners=False)


def grain(image: Tensor, rng: torch.Generator) -> Tensor:
    """Sensor noise of up to 4 %, so that the generator's own texture is no clue."""
    noise = torch.randn(image.shape, generator=rng, device=image.device)
    return (image + noise * uniform(rng, len(image), 0, 0.04)).clamp(0, 1)


def defocus(image: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Some of the images blurred as a whole, by a Gaussian of up to 2 px: sharpness by itself is
    not nearness."""
    n = len(image)
    blurred = gaussian(image, uniform(rng, n, 0.3, 2.0))
    return torch.where(chance(rng, n, share), blurred, image)


def gaussian(picture: Tensor, sigma: Tensor) -> Tensor:
    """picture [N, C, H, W] blurred, each by its sigma [N, 1, 1, 1] of at most 2.5 px; the border's
    pixels go on beyond it."""
    (n, channels), reach = picture.shape[:2], 5
    offsets = torch.arange(-reach, reach + 1, device=picture.device)
    kernel = torch.exp(-0.5 * (offsets / sigma.view(n, 1).clamp(min=1e-3)) ** 2)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)
    rows = picture.reshape(1, n * channels, *picture.shape[2:])
    rows = F.pad(rows, [reach] * 4, mode="replicate")
    rows = F.conv2d(rows, kernel[:, None, None, :], groups=n * channels)
    columns = F.conv2d(rows, kernel[:, None, :, None], groups=n * channels)
    return columns.reshape(picture.shape)


# Annex K of ITU-T T.81, the luminance table, which stands for all three channels here.
_JPEG_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56), (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip


def compress(image: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Some of the images as a JPEG of quality 30 to 95 leaves them: 8 x 8 cosine blocks, rounded to
    the standard's steps. H and W are multiples of 8."""
    n, channels, height, width = image.shape
    k = torch.arange(8, device=image.device)
    cosine = torch.cos((2 * k[None] + 1) * k[:, None] * (torch.pi / 16)) / 2
    cosine[0] /= 2**0.5
    quality = uniform(rng, n, 30, 95)[..., None, None]
    scale = torch.where(quality < 50, 50 / quality, 2 - quality / 50)
    table = torch.tensor(_JPEG_TABLE, device=image.device, dtype=image.dtype)[:, None]  # u, 1, v
    steps = (table * scale).round().clamp(min=1) / 255  # [n, 1, 1, 8, 1, 8]
    blocks = image.reshape(n, channels, height // 8, 8, width // 8, 8) - 128 / 255
    spectrum = torch.einsum("ui,ncyixj,vj->ncyuxv", cosine, blocks, cosine)
    spectrum = (spectrum / steps).round() * steps
    out = torch.einsum("ui,ncyuxv,vj->ncyixj", cosine, spectrum, cosine) + 128 / 255
    return torch.where(chance(rng, n, share), out.reshape(image.shape).clamp(0, 1), image)
