"""What came of tests: by name, whether each passed."""

import xml.etree.ElementTree

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


def from_junit(path):
    if not path.exists():
        return {}
    found = {}
    for case in xml.etree.ElementTree.parse(path).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        tags = {child.tag for child in case}
        failed = tags & {"failure", "error"} or found.get(name) == FAILED
        found[name] = FAILED if failed else SKIPPED if "skipped" in tags else PASSED
    return found


def count(found, outcome):
    return sum(one == outcome for one in found.values())


def summary(found):
    return ", ".join(f"{count(found, outcome)} {outcome}" for outcome in (PASSED, FAILED, SKIPPED))
