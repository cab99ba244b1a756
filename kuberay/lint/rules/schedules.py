"""What runs by the clock."""

from __future__ import annotations

import re
import zoneinfo

from kuberay.lint.model import Rendering, Resource
from kuberay.lint.rule import Fault, Faults, rule

_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
MACROS = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_NUMBERS = {
    name: str(number) for names, first in ((_MONTHS, 1), (_DAYS, 0)) for number, name in enumerate(names, first)
}
_NAMES = re.compile(rf"\b({'|'.join(_NUMBERS)})\b", re.IGNORECASE)
_ITEM = re.compile(r"(\*|\d+(-\d+)?)(/\d+)?")


@rule("schedule", "the API server or KubeRay refuses it, or it runs at another hour than is meant")
def schedule(rendering: Rendering) -> Faults:
    """A schedule has not five fields, a field is out of its range, or the time zone is missing or unknown."""
    for resource in rendering.of("CronJob", "RayCronJob"):
        text, zone = str(resource.get("spec.schedule", "")), resource.get("spec.timeZone")
        if "TZ=" in text:
            yield Fault(resource, "spec.schedule", "holds a time zone", "spec.timeZone")
        elif not _is_schedule(text):
            yield Fault(resource, "spec.schedule", f"{text!r} is no schedule", "minute hour day month weekday")
        if zone not in zoneinfo.available_timezones():
            yield Fault(resource, "spec.timeZone", f"{zone!r} is no time zone", "such as Etc/UTC or Europe/Madrid")


def _is_schedule(text: str) -> bool:
    if text in MACROS:
        return True
    fields = _NAMES.sub(lambda found: _NUMBERS[found[0].upper()], text).replace("?", "*").split()
    if len(fields) != len(_RANGES):
        return False
    for given, (least, most) in zip(fields, _RANGES, strict=True):
        for item in given.split(","):
            numbers = map(int, re.findall(r"\d+", item.partition("/")[0]))
            if not _ITEM.fullmatch(item) or not all(least <= value <= most for value in numbers):
                return False
    return True


@rule("cron-job", "runs overlap, or one that was missed for long starts all at once with the next")
def cron_job(rendering: Rendering) -> Faults:
    """A CronJob may overlap itself, or has no limits."""
    for resource in rendering.of("CronJob"):
        if resource.get("spec.concurrencyPolicy", "Allow") != "Forbid":
            yield Fault(resource, "spec.concurrencyPolicy", "is not Forbid", "Forbid")
        for path in ("spec.startingDeadlineSeconds", "spec.jobTemplate.spec.activeDeadlineSeconds"):
            if not resource.get(path):
                yield Fault(resource, path, "is not set", "set it, in seconds")


@rule("ray-cron-job", "KubeRay keeps no history limits of its own: every night's RayJob stays")
def ray_cron_job(rendering: Rendering) -> Faults:
    """A RayCronJob never removes its RayJobs."""
    for resource in rendering.of("RayCronJob"):
        if not _removes_itself(resource):
            path = "spec.jobTemplate.deletionStrategy"
            yield Fault(resource, path, "leaves the RayJobs", "a rule DeleteSelf after SUCCEEDED and FAILED")


def _removes_itself(resource: Resource) -> bool:
    rules = resource.get("spec.jobTemplate.deletionStrategy.deletionRules", [])
    return any(entry.get("policy") == "DeleteSelf" for entry in rules)


RULES = (schedule, cron_job, ray_cron_job)
