"""Reports as JUnit's XML: a test suite for each check, a test case for each tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

from fastgc._reports.contents import Contents, Part
from fastgc._reports.lines import shortened, visible

_NAME = 200  # characters of the name of a case: viewers list them

# A report by the name of its problem: what it shows, its text, and its seconds.
Suites = Mapping[str, tuple[Contents, str, float]]


def junit(suites: Suites) -> str:
    """One document for all reports."""
    root = ElementTree.Element("testsuites", name="fastgc")
    for name, (contents, text, seconds) in suites.items():
        suite = ElementTree.SubElement(root, "testsuite", name=_clean(name), time=f"{seconds:.3f}")
        suite.attrib |= _counts([part.verdict for part in contents.parts])
        for part in contents.parts:
            _add_case(suite, name, part)
        ElementTree.SubElement(suite, "system-out").text = text
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True)


def _counts(verdicts: Sequence[str]) -> dict[str, str]:
    failures, skipped = verdicts.count("fail"), verdicts.count("undecided")
    return {"tests": str(len(verdicts)), "failures": str(failures), "errors": "0", "skipped": str(skipped)}


def _add_case(suite: ElementTree.Element, name: str, part: Part) -> None:
    """A failure if it fails, skipped if it is undecided: viewers know no other words."""
    case = ElementTree.SubElement(suite, "testcase", classname=_clean(name), name=_clean(part.name), time="0")
    if part.verdict == "pass":
        return
    kind = "failure" if part.verdict == "fail" else "skipped"
    found = ElementTree.SubElement(case, kind, message=_clean(part.remark), type=part.verdict)
    found.text = visible(f"next: {part.advice}")


def _clean(text: str) -> str:
    return shortened(visible(text), _NAME)
