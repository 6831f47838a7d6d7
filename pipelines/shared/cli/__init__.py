"""The command line: Hydra composes, pydantic checks, `modes` tells the story of each mode.

Use from outside: `app.main(study)`. `environment.start` begins a run folder, `inputs` finds what `mode=predict` scores.
"""
