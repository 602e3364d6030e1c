"""How far the flags of an audit can be trusted, on networks whose truth is known.

`python -m benchmarks.zoo calibrate` and `architectures` count false alarms and misses;
`predict` asks how well the flags of the spectrum rank the loss after training. What the
committed records say is in README.md.
"""
