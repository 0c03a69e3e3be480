"""What the owner of a model writes: a typed function or class, and how it is found and checked."""
