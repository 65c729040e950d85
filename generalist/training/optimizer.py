"""AdamW and Muon with tables of path regexes: which parameters are frozen, how fast each learns, which decay."""

import difflib
import math
import re
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import optax

SCHEDULES = ("constant", "linear", "cosine")
MUON_RMS = 0.2  # of a Muon update, about what Adam's has: both learn at one rate (Liu et al. 2025, arXiv 2502.16982)


def match(
    table: Sequence[tuple[str, float]], paths, default: float, known=None
) -> dict[str, float]:
    """The value of the first regex of `table` that matches (re.search) each path, else `default`.

    Raises:
      ValueError: a regex that matches none of the `known` paths (default: `paths`); it is misspelt and would do nothing.
    """
    for pattern, _ in table:
        if not any(re.search(pattern, path) for path in known or paths):
            groups = sorted({".".join(path.split(".")[:2]) for path in known or paths})
            raise ValueError(
                f"optimizer: the pattern {pattern!r} matches no parameter. Those it is matched against begin with: {', '.join(groups)}"
            )
    first = lambda path: next(
        (value for pattern, value in table if re.search(pattern, path)), default
    )
    return {path: first(path) for path in paths}


def trainable(frozen: Sequence[str], paths) -> list[str]:
    """The paths that no pattern of `frozen` matches."""
    stays = match([(pattern, 1.0) for pattern in frozen], paths, 0.0)
    return [path for path in paths if not stays[path]]


def learning_rate(
    *, lr: float, schedule: str, warmup_steps: int, decay_fraction: float, total_steps: int
) -> optax.Schedule:
    """Linear warm-up from lr / warmup_steps, a plateau, then `schedule`: its decay to 0 takes the last `decay_fraction` of the steps.

    The warm-up is cut to half of a short run, and the decay to what the warm-up leaves.
    Raises ValueError for an unknown schedule.
    """
    if schedule not in SCHEDULES:
        close = difflib.get_close_matches(schedule, SCHEDULES, 1)
        raise ValueError(
            f"optimizer.schedule {schedule!r}: choose one of {', '.join(SCHEDULES)}"
            + (f"; did you mean {close[0]!r}?" if close else "")
        )
    warmup_steps = min(warmup_steps, total_steps // 2)
    decay_steps = min(max(1, round(decay_fraction * total_steps)), total_steps - warmup_steps)
    decay = {
        "constant": optax.constant_schedule(lr),
        "linear": optax.linear_schedule(lr, 0.0, decay_steps),
        "cosine": optax.cosine_decay_schedule(lr, decay_steps),
    }[schedule]
    return optax.join_schedules(
        [
            optax.linear_schedule(lr / max(1, warmup_steps), lr, warmup_steps),
            optax.constant_schedule(lr),
            decay,
        ],
        [warmup_steps, total_steps - decay_steps],
    )


def make_optimizer(
    settings: Mapping,
    paths: Sequence[str],
    total_steps: int,
    known: Sequence[str] | None = None,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The `optimizer` group of a config -> (the optimizer of the trainable {path: array}, its learning-rate schedule).

    A pattern may match only parameters that are frozen now, as long as it matches one of the `known`.

    The kernels that `settings["muon"]` matches are updated by Muon, the others by Adam.
    Order: clip by global norm, Adam or Muon, decoupled weight decay (kernels only, by default), per-path multiplier, learning rate.
    """
    schedule = learning_rate(
        lr=settings["lr"],
        schedule=settings["schedule"],
        warmup_steps=settings["warmup_steps"],
        decay_fraction=settings["decay_fraction"],
        total_steps=total_steps,
    )
    decays = match([(p, 1.0) for p in settings["weight_decay_on"]], paths, 0.0, known)
    speed = match([tuple(row) for row in settings["lr_multipliers"]], paths, 1.0, known)
    of_muon = match([(p, 1.0) for p in settings["muon"]], paths, 0.0, known)
    multiply = optax.stateless(
        lambda updates, _: {path: u * speed[path] for path, u in updates.items()}
    )
    adam = optax.scale_by_adam(
        b1=settings["b1"], b2=settings["b2"], eps=1e-8, mu_dtype=settings["mu_dtype"]
    )
    return optax.chain(
        optax.clip_by_global_norm(settings["clip"]),
        optax.partition(
            {"adam": adam, "muon": scale_by_muon()},
            {path: "muon" if of_muon[path] else "adam" for path in paths},
        ),
        optax.add_decayed_weights(
            settings["weight_decay"], mask=lambda _: {p: bool(decays[p]) for p in paths}
        ),
        multiply,
        optax.scale_by_learning_rate(schedule),
    ), schedule


def scale_by_muon() -> optax.GradientTransformation:
    """Muon (Jordan et al. 2024): the momentum of every kernel as the closest matrix with orthogonal rows or columns.

    A kernel is a matrix (everything that is summed over, output), so HWIO convolutions are (h w in, out). The update is scaled
    to a root mean square of about MUON_RMS whatever the shape. Kernels of one shape are stacked: fewer, larger products.
    """
    matrix = lambda x: (math.prod(x.shape[:-1]), x.shape[-1])

    def update(momenta, parameters):
        del parameters
        kernels = {
            path: x for path, x in momenta.items() if hasattr(x, "shape")
        }  # what another optimizer updates is masked out
        updates = {}
        for m, n in sorted({matrix(x) for x in kernels.values()}):
            same = [path for path, x in kernels.items() if matrix(x) == (m, n)]
            directions = orthogonalize(jnp.stack([kernels[path].reshape(m, n) for path in same]))
            scaled = MUON_RMS * math.sqrt(max(m, n)) * directions
            updates |= {
                path: direction.reshape(kernels[path].shape)
                for path, direction in zip(same, scaled)
            }
        return momenta | updates

    return optax.chain(optax.trace(0.95, nesterov=True), optax.stateless(update))


def orthogonalize(x: jax.Array) -> jax.Array:
    """float32 (k, m, n) -> about U V^T of every matrix's U S V^T: the singular values end between 0.68 and 1.14.

    The quintic Newton-Schulz iteration of Muon, x <- x (a + b x^T x + c (x^T x)^2), five times. It is carried out on the smaller
    Gram matrix, in which the factors commute: a convolution's (h w in, out) is multiplied twice instead of ten times.
    """
    if x.shape[1] < x.shape[2]:
        return orthogonalize(x.mT).mT
    x = x / (jnp.linalg.norm(x, axis=(1, 2), keepdims=True) + 1e-8)
    gram, product = x.mT @ x, jnp.eye(x.shape[2])
    for _ in range(5):
        factor = 3.4445 * jnp.eye(x.shape[2]) - 4.7750 * gram + 2.0315 * gram @ gram
        gram, product = gram @ factor @ factor, product @ factor
    return x @ product
