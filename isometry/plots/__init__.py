"""Pictures of spectra, signals, laws, audits and training.

Functions that take an Axes draw on it and return it; the others return a new figure.
Nothing is saved or shown, and no global setting is changed. Arguments may be of any
class that has the fields that are drawn.

A notebook shows a new figure at the end of a cell, whether Matplotlib's pyplot was
imported or not; of Axes it shows the `.figure`. To show others, write display(figure).
"""

from isometry.plots._audit import audit as audit
from isometry.plots._laws import laws as laws
from isometry.plots._overlay import overlay as overlay
from isometry.plots._phase_diagram import phase_diagram as phase_diagram
from isometry.plots._profile import profile as profile
from isometry.plots._ranks import ranks as ranks
from isometry.plots._signals import signals as signals
from isometry.plots._spectrum import spectrum as spectrum
from isometry.plots._style import COLOURS as COLOURS
from isometry.plots._style import MARKS as MARKS
from isometry.plots._timeline import timeline as timeline
