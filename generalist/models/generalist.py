"""The whole model: image encoder, text encoder and the UNet they condition.

It works in pixel space or, for comparison, in the latent space of an autoencoder.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from generalist.models import layers
from generalist.models.autoencoder import Autoencoder
from generalist.models.t5_encoder import T5Encoder
from generalist.models.text_encoder import TextEncoder
from generalist.models.unet import UNet
from generalist.models.unet_blocks import KeyValues
from generalist.models.vision_transformer import VisionTransformer

TEXT_ENCODERS = {"transformer": TextEncoder, "t5": T5Encoder}
TIMESTEP_SCALE = 999.0  # t in [0, 1] -> the timestep units of the pre-trained UNet


class Condition(NamedTuple):
    """What the UNet knows of image and prompt; computed once a sample."""

    # Keys and values of every cross-attention, in the order of use.
    context: KeyValues
    # The image at the target resolution (or its latent), if it is concatenated.
    image: Float[Array, "b h w c"] | None
    # L2-normalized encoder features, if they are injected.
    features: Float[Array, "b g g d"] | None
    # The mean prompt token, if the UNet takes it.
    pooled: Float[Array, "b text_dim"] | None


class GeneralistModel(nnx.Module):
    """Image + prompt -> RGB target, by diffusion in pixel space (arXiv 2407.00503)."""

    def __init__(
        self,
        *,
        # Arguments of `UNet`; its widths that depend on the encoders are filled in here.
        unet: Mapping[str, Any],
        # Arguments of `VisionTransformer`.
        image_encoder: Mapping[str, Any],
        # Arguments of the text encoder, and its `kind`: "transformer" (by default) or "t5".
        text_encoder: Mapping[str, Any],
        # Arguments of `Autoencoder`, to diffuse its latents instead of pixels (the baseline).
        autoencoder: Mapping[str, Any] | None = None,
        # Side of the target in pixels.
        target_size: int = 128,
        # Whether the image is appended to x_t at `conv_in`.
        concatenate_image: bool = False,
        # Whether the encoder's token grid is added to every level of the UNet.
        aligned_features: bool = False,
        # Whether the mean prompt token is added to the time embedding.
        pooled_text: bool = False,
        # What the image encoder was trained to see: (image in [0, 1] - mean) / std.
        image_mean: Sequence[float] = (0.5, 0.5, 0.5),
        image_std: Sequence[float] = (0.5, 0.5, 0.5),
        # What the UNet's backward pass computes again: a name of `unet_blocks.REMAT`.
        remat: str = "none",
        rngs: layers.HostRngs,
        # Of the computation; parameters are float32.
        dtype: DTypeLike = jnp.float32,
    ):
        # The order of the parts decides which initial values each draws.
        kw = {"rngs": rngs, "dtype": dtype}
        self.image_encoder = VisionTransformer(**image_encoder, **kw)
        text_encoder = dict(text_encoder)
        make_text_encoder = TEXT_ENCODERS[text_encoder.pop("kind", "transformer")]
        self.text_encoder = make_text_encoder(**text_encoder, **kw)
        self.autoencoder = Autoencoder(**autoencoder, **kw) if autoencoder else None

        image_dim = image_encoder["dim"]
        text_dim = text_encoder["dim"]
        context_dim = unet["context_dim"]
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

        # A text encoder of the UNet's own width is the one it was pre-trained with: no projection.
        self.image_projection = layers.linear(image_dim, context_dim, **kw)
        self.text_projection = (
            layers.linear(text_dim, context_dim, **kw) if text_dim != context_dim else None
        )

        self.image_size = image_encoder["image_size"]
        self.image_mean = tuple(image_mean)
        self.image_std = tuple(image_std)
        self.target_size = target_size
        self.concatenate_image = concatenate_image
        self.aligned_features = aligned_features
        self.pooled_text = pooled_text

        # Shape of x_t, without the batch.
        side = target_size // (self.autoencoder.factor if autoencoder else 1)
        self.diffused_shape = (side, side, channels)

    @jax.named_scope("model")
    def encode(
        self,
        image: Float[layers.AnyArray, "images height width 3"],
        text: Float[layers.AnyArray, "b n text_dim"],
        *,
        picture: Float[layers.AnyArray, "images s s 3"] | None = None,
        keep_image: Float[layers.AnyArray, " b"] | None = None,
        keep_text: Float[layers.AnyArray, " b"] | None = None,
    ) -> Condition:
        """Encodes images and prompts.

        Args:
            image: float32 in [-1, 1], of any size, one for each prompt; resized to what the parts
                need. Or a single one, encoded once for all prompts.
            text: prompt tokens of `encode_text`.
            picture: the same images at the target's size, for a model that appends them to x_t.
                From the stored pixels: an image that was enlarged for the encoder and reduced again
                is blurred.
            keep_image: 0 or 1 for each sample; 0 hides the image (classifier-free guidance).
            keep_text: 0 hides the prompt.
        """
        image = _keep(image, keep_image)
        text = _keep(text, keep_text)
        concatenated = None
        if self.concatenate_image:
            if picture is None:
                raise ValueError(
                    "picture is missing: this model appends the image at the target's size, "
                    f"{self.target_size} x {self.target_size} pixels, to x_t"
                )
            concatenated = self.to_diffused(_keep(picture, keep_image))

        with jax.named_scope("image_encoder"):
            tokens = self.image_encoder(self._normalize(resize(image, self.image_size)))
        if len(image) < len(text):
            tokens = jnp.repeat(tokens, len(text), axis=0)
            if concatenated is not None:
                concatenated = jnp.repeat(concatenated, len(text), axis=0)

        # A projection has a bias: what is hidden must be zero behind it, too.
        image_context = _keep(self.image_projection(tokens), keep_image)
        text_context = text
        if self.text_projection is not None:
            text_context = _keep(self.text_projection(text), keep_text)

        features = self._aligned_features(tokens, keep_image) if self.aligned_features else None
        context = self.unet.context(jnp.concatenate([image_context, text_context], axis=1))
        pooled = text.mean(1) if self.pooled_text else None
        return Condition(context, concatenated, features, pooled)

    @jax.named_scope("model")
    def denoise(
        self,
        x_t: Float[layers.AnyArray, "b h w c"],
        t: Float[layers.AnyArray, " b"],
        condition: Condition,
    ) -> Float[Array, "b h w c"]:
        """Predicts what the model was trained for (the clean target, noise or velocity), float32.

        Args:
            x_t: noisy target of `diffused_shape`.
            t: what the UNet is told of the noise, in [0, 1]; 0 is clean, 1 is pure noise. See
                `diffusion.unet_time`.
            condition: of `encode`.
        """
        x = x_t
        if condition.image is not None:
            x = jnp.concatenate([x_t, condition.image], axis=-1)
        return self.unet(
            x,
            t * TIMESTEP_SCALE,
            condition.context,
            pooled=condition.pooled,
            features=condition.features,
        )

    def encode_text(self, ids: Int[layers.AnyArray, "k n"]) -> Float[Array, "k n text_dim"]:
        """Encodes prompts.

        T5 alone knows padding (id 0): it is not seen, and zero in the result.
        """
        if isinstance(self.text_encoder, T5Encoder):
            valid = ids != 0
            return self.text_encoder(ids, valid) * valid[..., None]
        return self.text_encoder(ids)

    def to_diffused(
        self, rgb: Float[layers.AnyArray, "b s s 3"]
    ) -> Float[layers.AnyArray, "b h w c"]:
        """Returns what is diffused: the RGB in [-1, 1] itself, or its latent of unit variance."""
        if self.autoencoder is None:
            return rgb
        with jax.named_scope("autoencoder"):
            mean, _ = self.autoencoder.encode(rgb)
        return mean * self.autoencoder.scaling_factor

    def to_rgb(self, x: Float[layers.AnyArray, "b h w c"]) -> Float[layers.AnyArray, "b s s 3"]:
        """Returns the RGB of what is diffused, as far as the autoencoder can invert itself."""
        if self.autoencoder is None:
            return x
        return self.autoencoder.decode(x / self.autoencoder.scaling_factor)

    @jax.named_scope("model")
    def encode_target(
        self, target: Float[layers.AnyArray, "b s s 3"], mask: Float[layers.AnyArray, "b s s 1"]
    ) -> tuple[Float[layers.AnyArray, "b h w c"], Float[layers.AnyArray, "b h w 1"]]:
        """Returns RGB target and mask at the resolution of x_t.

        The mask of a latent is its fraction of valid pixels.
        """
        b, h, w, _ = mask.shape
        rows, columns, _ = self.diffused_shape
        blocks = mask.reshape(b, rows, h // rows, columns, w // columns, 1)
        return self.to_diffused(target), blocks.mean((2, 4))

    def _normalize(self, image):
        """Maps [-1, 1] to what the image encoder was trained to see."""
        if self.image_mean == self.image_std == (0.5, 0.5, 0.5):
            return image
        mean = jnp.asarray(self.image_mean)
        std = jnp.asarray(self.image_std)
        return (0.5 * image + 0.5 - mean) / std

    def _aligned_features(self, tokens, keep_image):
        """Returns the tokens of the patches as a grid (b, g, g, d), each of length sqrt(d)."""
        grid = self.image_size // self.image_encoder.patch
        patches = tokens[:, self.image_encoder.prefix :]
        length = jnp.linalg.norm(patches.astype(jnp.float32), axis=-1, keepdims=True)
        normalized = patches / (length + 1e-6)

        # Times sqrt(d): unit variance a channel, the scale the UNet's own activations have.
        features = _keep(normalized * patches.shape[-1] ** 0.5, keep_image)
        return features.reshape(len(patches), grid, grid, -1)


def _keep(x, keep):
    """Returns x (b, ...) with the samples at zero whose `keep` (b,) is 0."""
    if keep is None:
        return x
    return x * keep.reshape(-1, *[1] * (x.ndim - 1)).astype(x.dtype)


def resize(
    image: Float[layers.AnyArray, "b _ _ c"], size: int
) -> Float[layers.AnyArray, "b {size} {size} c"]:
    """Resizes to (size, size), antialiased; the identity at the same size."""
    if image.shape[1:3] == (size, size):
        return image
    return jax.image.resize(image, (image.shape[0], size, size, image.shape[-1]), "cubic")
