"""AdamW and Muon with tables of path regexes.

The tables say which parameters are frozen, how fast each one learns, and which decay.
"""

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import optax

from generalist.names import one_of

SCHEDULES = ("constant", "linear", "cosine")
# Root mean square of a Muon update. About Adam's, so that both learn at one rate (Liu et al. 2025,
# arXiv 2502.16982).
MUON_RMS = 0.2

T = TypeVar("T")


def match(
    table: Sequence[tuple[str, T]],
    paths: Iterable[str],
    default: T,
    known: Collection[str] | None = None,
) -> dict[str, T]:
    """Returns for each path the value of the first regex that matches it (re.search).

    Args:
      table: rows of (regex, value).
      paths: of parameters.
      default: the value of a path that no regex matches.
      known: paths that a regex may match instead; None takes `paths`.

    Raises:
      ValueError: a regex matches none of the `known` paths: it is misspelled and would do nothing.
    """
    paths = list(paths)
    known = paths if known is None else known
    for pattern, _ in table:
        if not any(re.search(pattern, path) for path in known):
            groups = sorted({".".join(path.split(".")[:2]) for path in known})
            raise ValueError(
                f"optimizer: the pattern {pattern!r} matches no parameter. Those it is matched "
                f"against begin with: {', '.join(groups)}"
            )

    values = {}
    for path in paths:
        matching = (value for pattern, value in table if re.search(pattern, path))
        values[path] = next(matching, default)
    return values


def trainable(frozen: Sequence[str], paths: Iterable[str]) -> list[str]:
    """Returns the paths that no regex of `frozen` matches."""
    is_frozen = match([(pattern, True) for pattern in frozen], paths, False)
    return [path for path, stays in is_frozen.items() if not stays]


def learning_rate(
    *, lr: float, schedule: str, warmup_steps: int, decay_fraction: float, total_steps: int
) -> optax.Schedule:
    """Returns a linear warm-up from lr / warmup_steps, a plateau, then the decay to 0.

    The warm-up is cut to half of a short run, and the decay to what the warm-up leaves.

    Args:
      lr: of the plateau.
      schedule: of the decay, one of SCHEDULES.
      warmup_steps: of the warm-up.
      decay_fraction: fraction of all steps that the decay takes, at the end.
      total_steps: of the run.

    Raises:
      ValueError: an unknown schedule.
    """
    one_of(schedule, SCHEDULES, "optimizer.schedule")
    warmup_steps = min(warmup_steps, total_steps // 2)
    decay_steps = min(max(1, round(decay_fraction * total_steps)), total_steps - warmup_steps)

    warmup = optax.linear_schedule(lr / max(1, warmup_steps), lr, warmup_steps)
    plateau = optax.constant_schedule(lr)
    decay = {
        "constant": optax.constant_schedule(lr),
        "linear": optax.linear_schedule(lr, 0.0, decay_steps),
        "cosine": optax.cosine_decay_schedule(lr, decay_steps),
    }[schedule]
    return optax.join_schedules([warmup, plateau, decay], [warmup_steps, total_steps - decay_steps])


def make_optimizer(
    settings: Mapping,
    paths: Sequence[str],
    total_steps: int,
    known: Sequence[str] | None = None,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Builds the optimizer of the trainable {path: array}, and its learning-rate schedule.

    Order: clip by global norm, Adam or Muon, decoupled weight decay (kernels only, by default),
    per-path multiplier, learning rate.

    Args:
      settings: the `optimizer` group of a config. Muon updates the kernels that `muon` matches,
        Adam the others.
      paths: of the trainable parameters.
      total_steps: of the run.
      known: paths of all parameters: a regex may match only some that are frozen now.

    Raises:
      ValueError: an unknown schedule, or a regex that matches nothing.
    """
    schedule = learning_rate(
        lr=settings["lr"],
        schedule=settings["schedule"],
        warmup_steps=settings["warmup_steps"],
        decay_fraction=settings["decay_fraction"],
        total_steps=total_steps,
    )
    multiplier = match(settings["lr_multipliers"], paths, 1.0, known)
    decays = match([(regex, True) for regex in settings["weight_decay_on"]], paths, False, known)
    uses_muon = match([(regex, True) for regex in settings["muon"]], paths, False, known)

    adam = optax.scale_by_adam(
        b1=settings["b1"], b2=settings["b2"], eps=1e-8, mu_dtype=settings["mu_dtype"]
    )
    labels = {path: "muon" if uses_muon[path] else "adam" for path in paths}

    def multiply(updates, parameters):
        del parameters
        return {path: update * multiplier[path] for path, update in updates.items()}

    optimizer = optax.chain(
        optax.clip_by_global_norm(settings["clip"]),
        optax.partition({"adam": adam, "muon": scale_by_muon()}, labels),
        optax.add_decayed_weights(settings["weight_decay"], mask=lambda _: decays),
        optax.stateless(multiply),
        optax.scale_by_learning_rate(schedule),
    )
    return optimizer, schedule


def scale_by_muon() -> optax.GradientTransformation:
    """Muon (Jordan et al. 2024): orthogonalizes the momentum of every kernel.

    A kernel is a matrix (everything that is summed over, output), so an HWIO convolution is
    (h w in, out). Its update is the closest matrix with orthogonal rows or columns, scaled to a
    root mean square of about MUON_RMS whatever the shape. Kernels of one shape are stacked: fewer,
    larger products.
    """

    def as_matrix(x) -> tuple[int, int]:
        return math.prod(x.shape[:-1]), x.shape[-1]

    def update(momenta, parameters):
        del parameters
        # What another optimizer updates is masked out, and has no shape.
        kernels = {path: x for path, x in momenta.items() if hasattr(x, "shape")}

        updates = {}
        for shape in sorted({as_matrix(x) for x in kernels.values()}):
            same_shape = [path for path, x in kernels.items() if as_matrix(x) == shape]
            stacked = jnp.stack([kernels[path].reshape(shape) for path in same_shape])
            scaled = MUON_RMS * math.sqrt(max(shape)) * orthogonalize(stacked)
            for path, direction in zip(same_shape, scaled, strict=True):
                updates[path] = direction.reshape(kernels[path].shape)
        return momenta | updates

    return optax.chain(optax.trace(0.95, nesterov=True), optax.stateless(update))


def orthogonalize(x: jax.Array) -> jax.Array:
    """Returns about U V^T of every matrix's U S V^T; its singular values are 0.68 to 1.14.

    The quintic Newton-Schulz iteration of Muon, x <- x (a + b x^T x + c (x^T x)^2), five times. It
    is carried out on the smaller Gram matrix, in which the factors commute: a convolution's
    (h w in, out) is multiplied twice instead of ten times. A rounding error of the Gram matrix
    never meets x again, and five steps multiply that of a small eigenvalue by up to 3.4445^10: the
    products are those of float32, also where a platform's default is bfloat16 or TF32.

    Args:
      x: float32 (k, m, n), k matrices.
    """
    if x.shape[1] < x.shape[2]:
        return orthogonalize(x.mT).mT
    with jax.default_matmul_precision("float32"):
        return _newton_schulz(x)


def _newton_schulz(x: jax.Array) -> jax.Array:
    x = x / (jnp.linalg.norm(x, axis=(1, 2), keepdims=True) + 1e-8)
    identity = jnp.eye(x.shape[2])
    gram = x.mT @ x
    product = identity
    for _ in range(5):
        factor = 3.4445 * identity - 4.7750 * gram + 2.0315 * gram @ gram
        gram = gram @ factor @ factor
        product = product @ factor
    return x @ product
