"""List, read, write, move and delete files in local folders and buckets."""
