"""Training scripts as people write them. Each runs in a process of its own: python SCRIPT.py TRACKING_URI."""
