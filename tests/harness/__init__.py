"""The rendered manifests, run for real on one machine without a container engine.

A pod is a set of Linux namespaces: a network of its own, and for each container a file system, process ids, a user
without rights, the memory limit, and exactly the environment and volumes that are rendered. ``kuberay.py``,
``rayjob.py`` and ``rayservice.py`` do what the operator does, ``pod.py`` what the kubelet does, ``services.py`` what
kube-proxy and DNS do.

Real are Ray, our program, MLflow, PostgreSQL, S3 (by SeaweedFS), commands, probes, restarts, Services, Secrets that are
made in the cluster, TLS and rights of the API server. Not real are images (this machine's Python and system folders are
seen read-only), scheduling, CPU limits, sizes of volumes and seccomp. NetworkPolicies drop nothing here, but each
connection that is made is held against them (``flows.py``, ``policies.py``).
"""
