"""What a network is made of, read off its jaxpr.

The words of this folder, in the order in which a program is read:

- A value is what an equation of the jaxpr returns, an argument or a constant
  (`_reading`). The signal is all values that depend on x.
- The origin of a weight is the leaf of params that it comes from; a pick is one slice
  of a stacked leaf, a stretch a range along one of its axes (`_origins`).
- A meeting is an equation that combines a weight with the signal (`_meetings`); a use
  of a weight is such a meeting, with the slice that it takes (`_layers`).
- A node is one value in one iteration of the scans around it. Of a long scan four
  iterations are laid out (`_unrolling`).
- The flow is the nodes through which the derivative of the output with respect to x
  passes (`_flow`). The stream of a residual network is what its branches leave, at a
  fork, and return to, at a join (`_branches`).
- A gate is a leaf that multiplies a branch or its skip (`_gates`).
- A point is a value with a name (`_points`), its place the variable that holds it
  (`_place`), and a tap a place at which the program is rewritten (`_tapping`).
"""

from isometry.structure._anatomy import Anatomy as Anatomy
from isometry.structure._anatomy import anatomy as anatomy
from isometry.structure._records import Attention as Attention
from isometry.structure._records import Branch as Branch
from isometry.structure._records import WeightLayer as WeightLayer
