"""Files in folders and buckets: list, read, write, move and delete them."""
