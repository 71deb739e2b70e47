"""The keys and values of `runspend.yaml`, and how they are read."""
