"""Less than the public `:tiny`, for runs of several processes that compile on several devices."""

from generalist.configs import common


def get_config(arg: str = ""):
    c = common.get_config("scenes,tiny")
    c.batch_size = 8  # an example a device
    c.sharding.min_size = 500  # so that there is something to split
    c.checkpoint.every_steps = 4

    # One level, and none of what the cross-attention does without.
    c.model.aligned_features = False
    c.model.pooled_text = False
    c.model.unet.channels = (8,)
    c.model.unet.attention_levels = (False,)
    c.model.unet.context_dim = 16
    c.model.unet.groups = 4
    c.model.unet.position = False
    c.model.unet.refine = 0
    c.model.image_encoder.dim = 8
    c.model.text_encoder.dim = 8
    c.diffusion.prototype_weight = 0.0

    c.eval.tasks = ("denoise",)
    c.eval.batch_size = 2
    c.eval.final_examples = 2
    c.eval.panels = 0
    return c
