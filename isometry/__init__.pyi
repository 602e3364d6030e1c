# The only list of the public names: `__init__.py` reads it, and so do type checkers.

from . import activations as activations
from . import data as data
from . import initializers as initializers
from . import linalg as linalg
from . import methods as methods
from . import networks as networks
from . import plots as plots
from . import schemes as schemes
from . import store as store
from . import theory as theory
from ._compare import Comparison as Comparison
from ._compare import compare as compare
from ._internal.errors import BatchWarning as BatchWarning
from ._internal.errors import InputError as InputError
from ._internal.errors import MissingExtra as MissingExtra
from ._internal.errors import PrecisionWarning as PrecisionWarning
from ._internal.errors import ZeroJacobianWarning as ZeroJacobianWarning
from .degeneracy import Thresholds as Thresholds
from .degeneracy import audit as audit
from .degeneracy import certify as certify
from .degeneracy import monitor as monitor
from .degeneracy import recorded as recorded
from .measure._cost import Cost as Cost
from .measure._cost import cost as cost
from .measure._ensemble import Interrupted as Interrupted
from .measure._ensemble import ensemble as ensemble
from .measure._jacobian import jacobian as jacobian
from .measure._profile import Profile as Profile
from .measure._profile import profile as profile
from .measure._record import Spectrum as Spectrum
from .measure._signals import signals as signals
from .measure._spectrum import spectrum as spectrum
from .measure.methods import Dense as Dense
from .measure.methods import Lanczos as Lanczos
from .measure.methods import Product as Product
from .records import Signals as Signals
from .structure import Anatomy as Anatomy
from .structure import Attention as Attention
from .structure import Branch as Branch
from .structure import WeightLayer as WeightLayer
from .structure import anatomy as anatomy

__version__: str
