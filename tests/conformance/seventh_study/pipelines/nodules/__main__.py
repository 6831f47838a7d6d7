"""`python -m pipelines.nodules`."""

from pipelines.shared.cli.app import main

if __name__ == "__main__":  # a sweep's jobs import this file in processes of their own
    main("nodules")
