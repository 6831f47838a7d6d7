"""`python -m pipelines.publish <run folder> --name <name>`."""

from pipelines.publish.command import main

if __name__ == "__main__":
    main()
