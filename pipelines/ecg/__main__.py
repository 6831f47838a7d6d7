"""`python -m pipelines.ecg`."""

from pipelines.shared.app import main

main("ecg")
