"""What a model is worth: official metrics beside a trivial predictor and the codec's ceiling, pictures, and a report.

metrics = evaluate(model.predict_rgb, model.tasks, sources, train_sources=train, target_size=64, out_dir="runs/a/eval/700")
write_report("runs/a")
"""

from generalist.evaluation.evaluate import evaluate
from generalist.evaluation.report import write_report

__all__ = ["evaluate", "write_report"]
