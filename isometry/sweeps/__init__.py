"""Many runs: a function at every point of a grid, with a store that can be resumed.

The words of this folder:

- A cell is one combination of values on the axes of a grid; `point` is what its run
  gets, `index` its position on each axis.
- A label is what stands on an axis in the store: a number or a name. The value of an
  axis at a label is the label itself, or the object that the user mapped it to.
- The work of a sweep (`_cells.Work`) is what all its cells share, and what crosses to
  other processes.
- The identity of a store (`_store.Identity`) is what its cells have in common: axes,
  key, settings of JAX, version and source. A sweep with another identity is refused.
- A job is a cell that an executor runs.
"""

from isometry.sweeps import runs as runs
from isometry.sweeps._merge import merge as merge
from isometry.sweeps._open import open as open
