"""What `runspend.yaml` may say, and how it is read."""
