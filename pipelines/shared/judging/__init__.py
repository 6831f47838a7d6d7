"""From a run folder's tables to metrics, figures and the report. Never torch: any result can be made again.

`evaluator.evaluate` does it all; `report` renders a page from sections, `figures` draws, `shared.stats` computes.
"""
