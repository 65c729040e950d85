"""The official numbers of every task, each under the id of the protocol it follows.

NumPy and OpenCV only, no JAX. A metric is updated image by image, merged exactly over hosts, and
computed once:

    metric = DepthMetric(protocol="nyu-eigen-metric")
    metric.update(prediction, label)
    metric.merge(other).compute()["rmse"]

Ratios are fractions in [0, 1], depth errors meters, PSNR decibels. Figures of two protocols never
share a column.
"""

from generalist.metrics.base import Metric
from generalist.metrics.boundary import BOUNDARY_PROTOCOLS, BoundaryF
from generalist.metrics.calibration import CALIBRATION_PROTOCOLS, CalibrationError
from generalist.metrics.depth import DEPTH_PROTOCOLS, DepthMetric
from generalist.metrics.frechet import FRECHET_PROTOCOLS, FrechetDistance
from generalist.metrics.image_quality import IMAGE_QUALITY_PROTOCOLS, ImageQuality
from generalist.metrics.panoptic import PANOPTIC_PROTOCOLS, InstanceQuality, PanopticQuality
from generalist.metrics.scalar import SCALAR_PROTOCOLS, ScalarMetric
from generalist.metrics.segmentation import SEGMENTATION_PROTOCOLS, SegmentationMetric
from generalist.metrics.sparsification import (
    SPARSIFICATION_PROTOCOLS,
    ClassSparsificationError,
    ImageSparsificationError,
    SparsificationError,
)

# Protocol id -> one line that says what is counted and whose script counts it so.
PROTOCOLS: dict[str, str] = {
    **{name: protocol.description for name, protocol in DEPTH_PROTOCOLS.items()},
    **{name: protocol.description for name, protocol in IMAGE_QUALITY_PROTOCOLS.items()},
    **SEGMENTATION_PROTOCOLS,
    **PANOPTIC_PROTOCOLS,
    **BOUNDARY_PROTOCOLS,
    **CALIBRATION_PROTOCOLS,
    **SPARSIFICATION_PROTOCOLS,
    **SCALAR_PROTOCOLS,
    **FRECHET_PROTOCOLS,
}

__all__ = [
    "PROTOCOLS",
    "BoundaryF",
    "CalibrationError",
    "ClassSparsificationError",
    "DepthMetric",
    "FrechetDistance",
    "ImageQuality",
    "ImageSparsificationError",
    "InstanceQuality",
    "Metric",
    "PanopticQuality",
    "ScalarMetric",
    "SegmentationMetric",
    "SparsificationError",
]
