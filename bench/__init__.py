"""Benchmarks: scripts, each with a catalogue of what it measures. See `bench/README.md`."""
