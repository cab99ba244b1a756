"""What the models look at: shuffled inputs, integrated gradients, the parts of Prophet."""
