"""Defines the keys and values of `runspend.yaml`, and reads the file."""
