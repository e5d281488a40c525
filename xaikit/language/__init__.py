"""Text that a model generates, explained token by token."""
