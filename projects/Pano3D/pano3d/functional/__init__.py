"""Pure tensor mathematics: no configuration, no registry, no state."""
