"""The whole model: image encoder, text encoder and the UNet they condition, in pixel space or, for comparison, in a latent one."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from generalist.models import layers
from generalist.models.autoencoder import Autoencoder
from generalist.models.t5_encoder import T5Encoder
from generalist.models.text_encoder import TextEncoder
from generalist.models.unet import UNet
from generalist.models.vision_transformer import VisionTransformer

TEXT_ENCODERS = {"transformer": TextEncoder, "t5": T5Encoder}
TIMESTEP_SCALE = 999.0  # t in [0, 1] -> the timestep units of the pre-trained UNet


class Condition(NamedTuple):
    """What the UNet knows of image and prompt; computed once a sample.

    context: list of (keys, values) of every cross-attention, each (b, n, heads, d).
    image: (b, s, s, 3) image at the target resolution (or its latent) where it is concatenated, else None.
    features: (b, g, g, d) L2-normalised encoder features where they are injected, else None.
    pooled: (b, d) mean prompt token where the UNet takes it, else None.
    """

    context: list
    image: jax.Array | None
    features: jax.Array | None
    pooled: jax.Array | None


class GeneralistModel(nnx.Module):
    """Image + prompt -> RGB target, by diffusion in pixel space (arXiv 2407.00503).

    Args:
        unet, image_encoder, text_encoder: keyword arguments of `UNet`, `VisionTransformer` and the text encoder of
            its `kind` ("transformer", the default, or "t5"); the UNet's widths that depend on the encoders are filled in here.
        autoencoder: keyword arguments of `Autoencoder`, to diffuse its latents instead of pixels (the baseline), or empty.
        target_size: side of the target, in pixels.
        concatenate_image: append the image to x_t at `conv_in`.
        aligned_features: add the encoder's token grid to every level of the UNet.
        pooled_text: add the mean prompt token to the time embedding.
        image_mean, image_std: what the image encoder was trained to see: (image in [0, 1] - mean) / std.
        remat: what the UNet's backward pass computes again, a name of `unet.REMAT`.
        dtype: computation; parameters are float32.
    """

    def __init__(
        self,
        *,
        unet: dict,
        image_encoder: dict,
        text_encoder: dict,
        autoencoder: dict | None = None,
        target_size=128,
        concatenate_image=False,
        aligned_features=False,
        pooled_text=False,
        image_mean=(0.5, 0.5, 0.5),
        image_std=(0.5, 0.5, 0.5),
        remat="none",
        dtype=jnp.float32,
        rngs: layers.HostRngs,
    ):
        kw = {"rngs": rngs, "dtype": dtype}
        self.image_encoder = VisionTransformer(**image_encoder, **kw)
        text_encoder = dict(text_encoder)
        self.text_encoder = TEXT_ENCODERS[text_encoder.pop("kind", "transformer")](
            **text_encoder, **kw
        )
        self.autoencoder = Autoencoder(**autoencoder, **kw) if autoencoder else None
        text_dim, image_dim, context_dim = (
            text_encoder["dim"],
            image_encoder["dim"],
            unet["context_dim"],
        )
        channels = autoencoder["latent_channels"] if autoencoder else 3
        self.unet = UNet(
            in_channels=channels * (1 + concatenate_image),
            out_channels=channels,
            aligned=image_dim if aligned_features else 0,
            pooled_text=text_dim if pooled_text else 0,
            remat=remat,
            **unet,
            **kw,
        )
        self.image_projection = layers.linear(image_dim, context_dim, **kw)
        # A text encoder of the UNet's own width is the one it was pre-trained with: no projection then.
        self.text_projection = (
            layers.linear(text_dim, context_dim, **kw) if text_dim != context_dim else None
        )
        self.image_size, self.target_size = image_encoder["image_size"], target_size
        self.concatenate_image, self.aligned_features, self.pooled_text = (
            concatenate_image,
            aligned_features,
            pooled_text,
        )
        self.image_mean, self.image_std = tuple(image_mean), tuple(image_std)
        factor = self.autoencoder.factor if autoencoder else 1
        self.diffused_shape = (
            target_size // factor,
            target_size // factor,
            channels,
        )  # of x_t, without the batch

    def encode(self, image, text, *, keep_image=None, keep_text=None) -> Condition:
        """Image and prompt tokens -> condition.

        Args:
            image: (b, S, S, 3) float32 in [-1, 1], any S; resized to what the parts need. Or (1, S, S, 3), encoded once for all prompts.
            text: (b, n, d) prompt tokens of `encode_text`.
            keep_image, keep_text: 0 or 1 for each of them; 0 hides that condition (classifier-free guidance).
        """
        keep = lambda x, k: (
            x if k is None else x * k.reshape(-1, *[1] * (x.ndim - 1)).astype(x.dtype)
        )
        image, text = keep(image, keep_image), keep(text, keep_text)
        tokens = self.image_encoder(self._normalise(resize(image, self.image_size)))
        if len(image) < len(text):
            tokens, image = (jnp.repeat(x, len(text), axis=0) for x in (tokens, image))
        context = [
            keep(self.image_projection(tokens), keep_image),
            text if self.text_projection is None else keep(self.text_projection(text), keep_text),
        ]
        features = None
        if self.aligned_features:
            grid = self.image_size // self.image_encoder.patch
            tokens = tokens[:, self.image_encoder.prefix :]
            normalised = tokens / (
                jnp.linalg.norm(tokens.astype(jnp.float32), axis=-1, keepdims=True) + 1e-6
            )
            # Times sqrt(d): unit variance a channel, the scale the UNet's own activations have.
            features = keep(normalised * tokens.shape[-1] ** 0.5, keep_image).reshape(
                len(tokens), grid, grid, -1
            )
        return Condition(
            context=self.unet.context(jnp.concatenate(context, axis=1)),
            image=self.to_diffused(resize(image, self.target_size))
            if self.concatenate_image
            else None,
            features=features,
            pooled=text.mean(1) if self.pooled_text else None,
        )

    def denoise(self, x_t, t, condition: Condition):
        """x_t (b, *diffused_shape), t (b,) in [0, 1] (1 is pure noise) -> prediction of the same shape, float32."""
        x = x_t if condition.image is None else jnp.concatenate([x_t, condition.image], axis=-1)
        return self.unet(
            x,
            t * TIMESTEP_SCALE,
            condition.context,
            pooled=condition.pooled,
            features=condition.features,
        )

    def encode_text(self, ids):
        """Token ids (k, n) int32 -> prompt tokens (k, n, d). T5 alone knows padding (id 0): it is not seen, and zero in the result."""
        if isinstance(self.text_encoder, T5Encoder):
            valid = ids != 0
            return self.text_encoder(ids, valid) * valid[..., None]
        return self.text_encoder(ids)

    def to_diffused(self, rgb):
        """RGB (b, s, s, 3) in [-1, 1] -> what is diffused: itself, or its latent, scaled to about unit variance."""
        return (
            rgb
            if self.autoencoder is None
            else self.autoencoder.encode(rgb)[0] * self.autoencoder.scaling_factor
        )

    def to_rgb(self, x):
        """The inverse of `to_diffused`, as far as the autoencoder has one."""
        return (
            x
            if self.autoencoder is None
            else self.autoencoder.decode(x / self.autoencoder.scaling_factor)
        )

    def encode_target(self, target, mask):
        """RGB target (b, s, s, 3) and its mask (b, s, s, 1) -> both at the resolution of x_t; a latent's mask is its share of valid pixels."""
        b, h, w, _ = mask.shape
        rows, columns, _ = self.diffused_shape
        return self.to_diffused(target), mask.reshape(
            b, rows, h // rows, columns, w // columns, 1
        ).mean((2, 4))

    def _normalise(self, image):
        """[-1, 1] -> what the image encoder was trained to see."""
        if self.image_mean == self.image_std == (0.5, 0.5, 0.5):
            return image
        mean, std = jnp.asarray(self.image_mean), jnp.asarray(self.image_std)
        return (0.5 * image + 0.5 - mean) / std


def resize(image, size: int):
    """(b, S, S, c) -> (b, size, size, c), antialiased; the identity at the same size."""
    if image.shape[1:3] == (size, size):
        return image
    return jax.image.resize(image, (image.shape[0], size, size, image.shape[-1]), "cubic")
