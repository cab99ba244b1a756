"""The training loop and how Ray runs it."""
