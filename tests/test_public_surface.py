"""The public names and their signatures are those of one readable list."""

import ast
import inspect

import isometry
from docs import surface


def test_public_names_are_those_of_the_list():
    written = surface.SNAPSHOT.read_text(encoding="utf-8")
    assert surface.text() == written, "if it is meant: python -m docs.surface"


def test_the_list_holds_all_that_the_face_offers():
    public = {module.removeprefix("isometry.") for module in surface.MODULES}
    modules = {name for name in public if "." not in name} - {"isometry"}
    assert set(isometry.__all__) == modules | set(surface.names("isometry"))


def test_written_signature_is_the_one_called():
    """Decorators may not change what the source, and so the list, says."""
    for items in surface.everything().values():
        for item in items:
            is_function = item.node is not None and not isinstance(
                item.node, ast.ClassDef
            )
            if is_function and not item.is_property:
                called = list(inspect.signature(item.value).parameters)
                assert surface.arguments(item) == [n for n in called if n != "self"]
