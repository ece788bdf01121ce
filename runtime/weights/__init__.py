"""Whether two model files hold the same model: `aprgraph weights`."""

from aprgraph.runtime.weights.compare_files import bytes_to_read, compare_files
from aprgraph.runtime.weights.finding import Status, TensorFinding
from aprgraph.runtime.weights.report import WeightsReport

__all__ = ["Status", "TensorFinding", "WeightsReport", "bytes_to_read", "compare_files"]
