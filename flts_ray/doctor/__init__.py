"""``flts doctor``: what is wrong with the places, the machine and the remains of earlier runs, and repairs of it."""

from flts_ray.doctor.examination import document, examine, exit_code
from flts_ray.doctor.findings import Finding

__all__ = ["Finding", "document", "examine", "exit_code"]
