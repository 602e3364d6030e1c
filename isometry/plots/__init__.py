"""Pictures. Each takes an Axes, draws, and returns it.

Functions without an Axes return a figure of their own. Nothing is saved or shown, and
no global setting is touched. They draw whatever has the fields that they name.
"""

from isometry.plots._audit import audit as audit
from isometry.plots._laws import laws as laws
from isometry.plots._overlay import overlay as overlay
from isometry.plots._profile import profile as profile
from isometry.plots._ranks import ranks as ranks
from isometry.plots._signals import signals as signals
from isometry.plots._spectrum import spectrum as spectrum
from isometry.plots._style import COLOURS as COLOURS
from isometry.plots._style import MARKS as MARKS
from isometry.plots._timeline import timeline as timeline
