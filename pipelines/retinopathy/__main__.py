"""`python -m pipelines.retinopathy`."""

from pipelines.shared.app import main

main("retinopathy")
