"""Training scripts as users write them. Each runs in its own process: python SCRIPT.py TRACKING_URI."""
