"""The flags, a file each.

A file in this folder takes part in every audit: it is imported here, and its decorator
registers the flag.
"""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
