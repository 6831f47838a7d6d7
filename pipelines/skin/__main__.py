"""`python -m pipelines.skin`."""

from pipelines.shared.app import main

main("skin")
