"""The report as a page of HTML."""

from isometry.verdicts._html._page import page as page
from isometry.verdicts._html._page import write as write
