"""Networks and how they learn.

A study subclasses `learner.Learner` and `method.Method`; `trainer.fit` is the loop, `predictor.predict` scores every
record once, `distributed` alone knows other processes, `backbones` gives networks by name, `saliency` explains them.
"""
