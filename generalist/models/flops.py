"""The model's arithmetic in closed form: FLOP (two a multiply-add) of its convolutions and matrix products; nothing is traced.

What takes no product of matrices (norms, activations, softmax), resizing, the loss, the optimizer and the text encoder, which runs
once at start, are left out. So is what the backward pass computes again to save memory (`remat`, attention in blocks): these are
the FLOP of the model, by which programs are compared, not those of a program.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

CONVOLUTION, LINEAR, SELF_ATTENTION, CROSS_ATTENTION, KEY_VALUE = KINDS = (
    "convolution",
    "linear",
    "self-attention",
    "cross-attention",
    "cross key/value",
)


class Operation(NamedTuple):
    """What belongs together in one part of the model.

    part: "unet.0" (the first level's grid), "unet.1", ..., "unet.refine", "image_encoder", "image_projection", "text_projection" or "autoencoder".
    kind: one of KINDS; the two attentions are scores and weighted values, without projections. flops: forward, of one image.
    sources: the parts its input has come through, by default its own; none where it is data, which have no gradient.
    """

    part: str
    kind: str
    flops: int
    sources: tuple[str, ...] | None = None

    def training(self, trained: Collection[str]) -> int:
        """Forward and backward, where the parts `trained` learn: one product each for the weights' gradient and for the input's."""
        part = self.part.split(".")[0]
        upstream = any(
            source in trained for source in ((part,) if self.sources is None else self.sources)
        )
        weights = upstream if self.kind in (SELF_ATTENTION, CROSS_ATTENTION) else part in trained
        return self.flops * (1 + upstream + weights)


def forward(operations: Sequence[Operation]) -> int:
    """FLOP of one image."""
    return sum(operation.flops for operation in operations)


def training(operations: Sequence[Operation], trained: Collection[str]) -> int:
    """FLOP of one image and training step, where the parts `trained` learn ("unet", "image_encoder", ...)."""
    return sum(operation.training(trained) for operation in operations)


def training_step(settings: Mapping[str, Any], prompt_tokens: int, trained: Collection[str]) -> int:
    """`training` of a whole model; one that diffuses latents encodes its target as well."""
    target = (
        [*autoencoder(settings["target_size"], **settings["autoencoder"])]
        if settings.get("autoencoder")
        else []
    )
    return training([*model(settings, prompt_tokens), *target], trained)


def model(settings: Mapping[str, Any], prompt_tokens: int) -> list[Operation]:
    """Image and prompt encoded, and one call of the UNet. settings: of `models.build`; prompt_tokens: of one prompt."""
    image, text, latent = (
        settings["image_encoder"],
        settings["text_encoder"],
        settings.get("autoencoder"),
    )
    tokens, dim = (
        (image["image_size"] // image["patch"]) ** 2
        + image.get("class_token", False)
        + image.get("registers", 0),
        image["dim"],
    )
    context_dim, side, concatenated = (
        settings["unet"]["context_dim"],
        settings["target_size"],
        settings.get("concatenate_image", False),
    )
    operations = [
        *vision_transformer(image["image_size"], **image),
        Operation(
            "image_projection", LINEAR, _linear(tokens, dim, context_dim), ("image_encoder",)
        ),
    ]
    if text["dim"] != context_dim:
        operations.append(
            Operation(
                "text_projection", LINEAR, _linear(prompt_tokens, text["dim"], context_dim), ()
            )
        )
    if latent and concatenated:
        operations += autoencoder(side, **latent)
    channels = latent["latent_channels"] if latent else 3
    return operations + list(
        unet(
            side // 2 ** (len(latent["channels"]) - 1) if latent else side,
            tokens + prompt_tokens,
            in_channels=channels * (1 + concatenated),
            out_channels=channels,
            aligned=dim if settings.get("aligned_features") else 0,
            pooled_text=text["dim"] if settings.get("pooled_text") else 0,
            **settings["unet"],
        )
    )


def unet(
    side: int,
    tokens: int,
    *,
    in_channels=3,
    out_channels=3,
    channels=(320, 640, 1280, 1280),
    layers_per_block=2,
    attention_levels=(True, True, True, False),
    context_dim=768,
    window: int | None = None,
    patch=1,
    pooled_text=0,
    aligned=0,
    refine=0,
    **_,
) -> Iterator[Operation]:
    """One call of `UNet` with these arguments on (side, side) pixels and `tokens` condition tokens, whose keys and values are part of it.

    The projection of the positions, which is computed once a batch, is left out.
    """
    grids, time_dim, depth = (
        [side // patch // 2**level for level in range(len(channels))],
        4 * channels[0],
        layers_per_block,
    )
    yield _conv("unet.0", in_channels * patch**2, channels[0], grids[0], sources=())
    yield Operation("unet.0", LINEAR, _linear(1, channels[0], time_dim), ())
    yield Operation("unet.0", LINEAR, _linear(1, time_dim, time_dim))
    if pooled_text:
        yield Operation("unet.0", LINEAR, _linear(1, pooled_text, time_dim), ())
    skips, c = [channels[0]], channels[0]
    for level, (grid, width) in enumerate(zip(grids, channels)):
        if aligned:
            yield Operation(
                f"unet.{level}", LINEAR, _linear(grid**2, aligned, c), ("image_encoder",)
            )
        inputs, last = [c] + [width] * (depth - 1), level == len(channels) - 1
        yield from _level(
            level,
            inputs,
            width,
            grid,
            attention_levels[level],
            time_dim,
            context_dim,
            tokens,
            window,
        )
        if not last:
            yield _conv(f"unet.{level + 1}", width, width, grids[level + 1])
        skips += [width] * (depth if last else depth + 1)
        c = width
    yield from _level(
        level, [c], c, grid, True, time_dim, context_dim, tokens, window
    )  # the middle
    yield from _level(level, [c], c, grid, False, time_dim, context_dim, tokens, window)
    for level, (grid, width) in reversed([*enumerate(zip(grids, channels))]):
        inputs = [(c if i == 0 else width) + skips.pop() for i in range(depth + 1)]
        yield from _level(
            level,
            inputs,
            width,
            grid,
            attention_levels[level],
            time_dim,
            context_dim,
            tokens,
            window,
        )
        if level:
            yield _conv(f"unet.{level - 1}", width, width, grids[level - 1])
        c = width
    yield _conv("unet.0", channels[0], out_channels * patch**2, grids[0])
    if refine:
        yield from _refine(in_channels + out_channels, refine, out_channels, time_dim, side)


def _level(
    level, inputs, width, grid, attend, time_dim, context_dim, tokens, window
) -> Iterator[Operation]:
    """ResNet blocks of `inputs` channels, each followed by a transformer where the level has attention."""
    part, pixels = f"unet.{level}", grid**2
    seen = window**2 if window and grid > window else pixels
    for c_in in inputs:
        yield from _resnet(part, c_in, width, grid)
        yield Operation(part, LINEAR, _linear(1, time_dim, width))
        if attend:  # in and out 2, queries, keys, values and outputs 4 + 2, feed-forward 8 + 4
            yield Operation(part, LINEAR, _linear(pixels, width, 20 * width))
            yield Operation(part, SELF_ATTENTION, _attention(pixels, seen, width))
            yield Operation(part, CROSS_ATTENTION, _attention(pixels, tokens, width))
            yield Operation(
                part,
                KEY_VALUE,
                _linear(tokens, context_dim, 2 * width),
                ("image_encoder", "image_projection", "text_projection"),
            )


def _refine(c_in, channels, c_out, time_dim, side) -> Iterator[Operation]:
    grid, part = side // 2, "unet.refine"
    yield _conv(part, 4 * c_in, channels, grid)
    for _ in range(2):
        yield _conv(part, channels, channels, grid)
    yield _conv(part, channels, 4 * c_out, grid)
    yield Operation(part, LINEAR, 3 * _linear(1, time_dim, 2 * channels))


def vision_transformer(
    side: int,
    *,
    patch=16,
    dim=768,
    depth=12,
    inner: int | None = None,
    class_token=False,
    registers=0,
    gated=False,
    **_,
) -> Iterator[Operation]:
    """`VisionTransformer` with these arguments on (side, side) pixels."""
    part, grid = "image_encoder", side // patch
    tokens = grid**2 + class_token + registers
    yield _conv(part, 3, dim, grid, patch, sources=())
    yield Operation(
        part,
        LINEAR,
        depth * _linear(tokens, dim, 4 * dim + (3 if gated else 2) * (inner or 4 * dim)),
    )
    yield Operation(part, SELF_ATTENTION, depth * _attention(tokens, tokens, dim))


def autoencoder(
    side: int, *, channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, **_
) -> Iterator[Operation]:
    """`Autoencoder.encode` with these arguments of (side, side) pixels."""
    part, grid, c = "autoencoder", side, channels[0]
    yield _conv(part, 3, c, grid, sources=())
    for level, width in enumerate(channels):
        for _ in range(layers_per_block):
            yield from _resnet(part, c, width, grid)
            c = width
        if level < len(channels) - 1:
            grid //= 2
            yield _conv(part, c, c, grid)
    yield from [*_resnet(part, c, c, grid)] * 2
    yield Operation(part, LINEAR, _linear(grid**2, c, 4 * c))
    yield Operation(part, SELF_ATTENTION, _attention(grid**2, grid**2, c))
    yield _conv(part, c, 2 * latent_channels, grid)
    yield _conv(part, 2 * latent_channels, 2 * latent_channels, grid, 1)


def _resnet(part: str, c_in: int, c_out: int, grid: int) -> Iterator[Operation]:
    """The convolutions of a ResNet block."""
    yield _conv(part, c_in, c_out, grid)
    yield _conv(part, c_out, c_out, grid)
    if c_in != c_out:
        yield _conv(part, c_in, c_out, grid, 1)


def _conv(part: str, c_in: int, c_out: int, grid: int, size: int = 3, **fields) -> Operation:
    """A convolution that makes (grid, grid) pixels."""
    return Operation(part, CONVOLUTION, 2 * size**2 * c_in * c_out * grid**2, **fields)


def _linear(tokens: int, c_in: int, c_out: int) -> int:
    return 2 * tokens * c_in * c_out


def _attention(queries: int, keys: int, width: int) -> int:
    return 4 * queries * keys * width
