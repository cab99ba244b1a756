"""Checks of rendered manifests that no schema can make: ``python -m kuberay.lint kuberay/overlays/prod``."""
