"""Everything that runs the program on Kubernetes: manifests, image, and the checks of both."""
