"""What the test suites of all members share; on pytest's path, never installed."""
