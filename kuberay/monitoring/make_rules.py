"""Prints the rules of runs and of the service as one PrometheusRule, comments and all.

``python kuberay/monitoring/make_rules.py > kuberay/monitoring/prometheusrule.yaml``, after a change of either file.
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = (HERE / "alerts.yml", HERE.parents[1] / "serve" / "alerts.yml")
HEAD = """\
# Made of kuberay/monitoring/alerts.yml and serve/alerts.yml by kuberay/monitoring/make_rules.py: edit those.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: flts
  labels: {release: prometheus} # what kube-prometheus-stack looks for
spec:
  groups:
"""


def prometheus_rule() -> str:
    """The object, as text."""
    groups = (file.read_text(encoding="utf-8").partition("\ngroups:\n")[2] for file in SOURCES)
    return HEAD + "\n".join(textwrap.indent(group, "  ") for group in groups)


if __name__ == "__main__":
    sys.stdout.write(prometheus_rule())
