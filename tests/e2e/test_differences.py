"""The table of proxy/DIFFERENCES.md, PROXY COMMANDS and tests/compat/accepted.txt say the same."""
import re

from harness import TOP


def table():
    """{what: (how, why, commands)}"""
    text = (TOP / "proxy" / "DIFFERENCES.md").read_text()
    text = text[text.index("\n| what |"):].strip().split("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")]
    assert rows[0] == ["what", "how it differs", "why", "commands"] and len(rows) > 10
    found = {}
    for what, how, why, commands in rows[1:]:
        assert what not in found and what and (how or why) and not re.sub("`[^`]+`", "", commands).strip(), what
        found[what] = (how, why, re.findall("`([^`]+)`", commands))
    return found


def test_the_table_names_the_commands_of_proxy_commands(rig):
    _, h = rig.pair(durability="sync")
    with h.client() as c:
        lines = [line.decode().partition(": ") for line in c("PROXY", "COMMANDS")]
    treatments = {name.upper(): what.partition(" - ")[0] for name, _, what in lines}
    rows = table()
    named = [command for _, _, commands in rows.values() for command in commands]
    assert sorted(named) == sorted(treatments)
    refused = {command for what, (_, _, commands) in rows.items() if what.startswith("Refused: ") for command in commands}
    assert refused == {name for name, treatment in treatments.items() if treatment == "refused"}


def test_accepted_differences_of_valkeys_suite_are_in_the_table():
    rows = table()
    for line in (TOP / "tests/compat/accepted.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            unit, modes, row, name = [field.strip() for field in line.split("|", 3)]
            assert row in rows, line
            assert set(modes.replace("!", "").split(",")) <= {"async", "sync"} and unit.startswith("unit/") and name, line
