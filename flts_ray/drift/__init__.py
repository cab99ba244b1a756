"""Whether live inputs and errors still look like those of training."""
