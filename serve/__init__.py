"""The champion over HTTP: a Ray Serve application, its schemas and its configuration."""
