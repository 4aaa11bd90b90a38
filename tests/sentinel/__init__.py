"""Generated Sentinel-2 patches in BigEarthNet's layout, for tests and benchmarks."""
