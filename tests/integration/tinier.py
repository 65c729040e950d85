"""Less than tiny.py: what several processes compile each, 8 devices wide."""

import importlib.util
import pathlib


def get_config(arg: str = ""):
    spec = importlib.util.spec_from_file_location("tiny", pathlib.Path(__file__).parent / "tiny.py")
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    c = tiny.get_config()
    c.total_steps = 20
    c.batch_size = 8
    c.model.unet.update(
        {
            "channels": (8,),
            "attention_levels": (False,),
            "groups": 4,
            "context_dim": 16,
            "refine": 0,
        }
    )
    c.model.aligned_features = c.model.pooled_text = c.model.unet.position = False
    c.model.text_encoder.update({"depth": 1, "dim": 8})
    c.model.image_encoder.update({"depth": 1, "dim": 8})
    c.diffusion.prototype_weight = 0.0
    c.optimizer.muon = ()
    c.sharding.min_size = 500  # so that there is something to split
    c.checkpoint.every_steps = 4
    c.eval.panels = 0
    return c
