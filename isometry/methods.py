"""Ways to find the spectrum of a Jacobian, and how to write one of your own.

A method is one object, passed as `method=` to every measurement: `isometry.Dense`,
`isometry.Lanczos`, `isometry.Product`, or a subclass of `Method`.
"""

from isometry.measure.methods import Footprint as Footprint
from isometry.measure.methods import Method as Method
from isometry.measure.methods import register as register
