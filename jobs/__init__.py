"""What a Ray cluster runs: one module a job, and ``flts submit``, which sends them."""
