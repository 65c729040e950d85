"""The scenes recipe at 32x32 with a UNet of 16 and 32 channels: what the integration tests run through main.py."""

from generalist.configs import common


def get_config(arg: str = ""):
    c = common.scenes(scratch=True)
    c.total_steps = 12
    c.batch_size = 4
    c.data.image_size = c.model.target_size = c.data.scenes_size = 32
    c.data.scenes_train = 64
    c.model.unet.update({"channels": (16, 32), "context_dim": 32, "heads": 2, "groups": 8})
    c.model.image_encoder.update({"image_size": 32, "dim": 16, "depth": 1, "heads": 2})
    c.model.text_encoder.update({"dim": 16, "depth": 1, "heads": 2})
    c.optimizer.warmup_steps, c.optimizer.muon = (
        2,
        (r"mid_block\..*kernel$",),
    )  # of few kernels: Muon takes long to compile
    c.checkpoint.every_steps = 2
    c.eval.final_examples = c.eval.batch_size = 2
    c.eval.tasks = c.eval.tasks if arg == "all" else ("denoise",)
    c.eval.panels = 1
    c.log.every_steps = 1
    return c
