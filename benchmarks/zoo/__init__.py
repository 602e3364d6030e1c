"""How far the audit's verdicts can be trusted: a zoo of networks whose truth is known, judged and trained.

`python -m benchmarks.zoo calibrate` counts false alarms and misses; `predict` asks how well the spectrum's flags rank
the loss after training. README.md holds what the committed records say.
"""
