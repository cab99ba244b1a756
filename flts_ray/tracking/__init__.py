"""The MLflow run and registry."""
