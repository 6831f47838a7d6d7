"""`python -m pipelines.compare <run or sweep folder>…`."""

from pipelines.compare.command import main

if __name__ == "__main__":
    main()
