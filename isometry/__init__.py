"""Ask whether a deep network can train, before training it.

Singular values of Jacobians, the theory that predicts them, and flags of what goes
wrong in training. The public names stand in `__init__.pyi`. Each is imported when it is
first used, so that after `import isometry` a process can still set its devices and
threads.
"""

import lazy_loader

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
