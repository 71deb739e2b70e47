"""Tests of the cost explorer."""
