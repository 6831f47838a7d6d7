"""From a run folder's tables to metrics, figures and the report. Never torch: any result can be made again.

`evaluator.evaluate` does it all; `report` renders a page from sections, `figures` draws, `shared.stats` computes.
A study's own `evaluation.py` and `sections.py` are made of the kit: `tasks` (yes or no, one of several classes;
their metrics), `published` (a paper's numbers), `cohort`, `sections` (curves, readers, operating points, calibration),
`subgroups`, `error_gallery`.
"""
