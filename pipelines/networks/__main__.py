"""`python -m pipelines.networks [names…]`."""

from pipelines.networks.command import main

if __name__ == "__main__":
    main()
