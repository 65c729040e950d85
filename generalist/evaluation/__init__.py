"""What a model is worth: official figures beside a trivial predictor and the codec's ceiling.

settings = EvaluationSettings(target_size=64)
metrics = evaluate(model.predict_rgb, model.tasks, sources, settings, "runs/a/eval/700", train)
write_report("runs/a")
"""

from generalist.evaluation.evaluate import EvaluationSettings, evaluate
from generalist.evaluation.report import write_report

__all__ = ["EvaluationSettings", "evaluate", "write_report"]
