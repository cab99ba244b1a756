"""``flts doctor``: what is wrong with the places, the machine and the remains of earlier runs, and repairs of it."""

from flts_ray.doctor.examination import document, examine, exit_code
from flts_ray.doctor.findings import Finding
from flts_ray.doctor.waiting import wait_for_services

__all__ = ["Finding", "document", "examine", "exit_code", "wait_for_services"]
