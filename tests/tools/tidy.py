#!/usr/bin/python3
"""The rules of the house, as a test. Names each breach; the last line is `tidy: N rules kept, N broken`.

A ratchet entry excuses one file from one rule up to the number given: it may shrink, never grow. When it is no longer needed, the rule says so.
"""
import glob
import os
import re
import sys

FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 500
COLUMNS_MAX = 118
TOP_LEVEL = {"proxy", "log", "tests", "config", "docker", "Makefile", "README.md", "build"}

# (rule, file) -> what it may have today
RATCHET = {}

LAYERS = ["log/base", "config", "log", "proxy"]  # each may include itself and what is left of it
BANNED = {
    "strcpy": "snprintf, or struct buf", "strcat": "struct buf", "sprintf": "snprintf", "vsprintf": "vsnprintf",
    "gets": "fgets", "strncpy": "snprintf", "strtok": "strsep", "alloca": "a limit and an array",
    "assert": "CHECK",
}


def read(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


def product():
    return sorted(p for room in LAYERS for ext in "ch" for p in glob.glob(f"{room}/*.{ext}"))


def all_c():
    return product() + sorted(p for ext in "ch" for p in glob.glob(f"tests/**/*.{ext}", recursive=True))


def without_comments(text):
    """Comments and strings blanked, line numbers kept. One pass, so that a quote in a comment misleads nobody."""
    token = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)

    def blank(match):
        word = match.group(0)
        if word[0] in "\"'":
            return word[0] * 2
        return " " + "\n" * word.count("\n")
    return token.sub(blank, text)


def excused(rule, path, size, limit, found):
    """True if size is within the limit or the file's ratchet; an entry that is not needed is a breach of its own."""
    allowed = RATCHET.get((rule, path))
    if size <= limit:
        if allowed is not None:
            found.append(f"{path}: no longer needs its ratchet entry for '{rule}'")
        return True
    return allowed is not None and size <= allowed


def function_lines():
    found = []
    for path in all_c():
        longest, where, start = 0, 0, 0
        for number, line in enumerate(read(path).split("\n"), 1):
            if line == "{":
                start = number
            elif line == "}" and start:
                if number - start + 1 > longest:
                    longest, where = number - start + 1, start
                start = 0
        if not excused("function_lines", path, longest, FUNCTION_LINES_MAX, found):
            found.append(f"{path}:{where}: a function of {longest} lines (at most {FUNCTION_LINES_MAX})")
    return found


def file_lines():
    found = []
    for path in all_c():
        lines = read(path).count("\n")
        if not excused("file_lines", path, lines, FILE_LINES_MAX, found):
            found.append(f"{path}: {lines} lines (at most {FILE_LINES_MAX})")
    return found


def columns():
    found = []
    for path in all_c():
        lines = read(path).split("\n")
        wide = [(n, len(line)) for n, line in enumerate(lines, 1) if len(line) > COLUMNS_MAX]
        if not excused("columns", path, len(wide), 0, found):
            found += [f"{path}:{n}: {width} columns (at most {COLUMNS_MAX})" for n, width in wide]
    return found


def layer_of(path):
    return "log/base" if path.startswith("log/base/") else path.split("/")[0]


def includes():
    """log/base <- config <- log <- proxy, never upward; named from the top."""
    found = []
    for path in product():
        for number, line in enumerate(read(path).split("\n"), 1):
            match = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
            if not match:
                continue
            target = match.group(1)
            if "/" not in target or layer_of(target) not in LAYERS:
                found.append(f"{path}:{number}: include \"{target}\": name it from the repository's top")
            elif LAYERS.index(layer_of(target)) > LAYERS.index(layer_of(path)):
                found.append(f"{path}:{number}: {layer_of(path)} includes {target}, which is above it")
    return found


def banned_calls():
    found = []
    pattern = re.compile(r"\b(" + "|".join(BANNED) + r")\s*\(")
    for path in product():
        for number, line in enumerate(without_comments(read(path)).split("\n"), 1):
            for match in pattern.finditer(line):
                found.append(f"{path}:{number}: {match.group(1)}(): use {BANNED[match.group(1)]}")
    return found


def marks():
    found = []
    for path in all_c() + sorted(glob.glob("*.md")) + sorted(glob.glob("*/*.md")):
        for number, line in enumerate(read(path).split("\n"), 1):
            if re.search(r"\b(FIXME|TODO|XXX)\b", line):
                found.append(f"{path}:{number}: {line.strip()[:60]}")
    return found


def globals_():
    """No mutable globals: data at file scope is const."""
    found = []
    pattern = re.compile(r"^(?:static |_Thread_local |volatile )*(?:struct |enum |unsigned |signed |long |short )*\w+[ *]+\w+"
                         r"(?:\[[^\]]*\])*\s*(?:=.*|;)$")
    skip = re.compile(r"^(?:typedef|extern|return|goto|case|#|enum \w+;|struct \w+;|union \w+;|_Static_assert)")
    for path in product():
        for number, line in enumerate(without_comments(read(path)).split("\n"), 1):
            if pattern.match(line) and not skip.match(line) and not re.search(r"\bconst\b", line) and "(" not in line.split("=")[0]:
                found.append(f"{path}:{number}: {line.strip()}")
    return found


def guards():
    found = []
    for path in product():
        if path.endswith(".h"):
            guard = "HF_" + re.sub(r"\W", "_", os.path.basename(path)).upper()
            if f"#ifndef {guard}\n#define {guard}\n" not in read(path):
                found.append(f"{path}: its guard should be {guard}")
    return found


def setting_names():
    return re.findall(r'^    \{"([a-z0-9-]+)", KIND_', read("config/config_table.c"), re.M)


def settings_documented():
    names = setting_names()
    found = [] if len(names) > 10 else ["config/config_table.c: the table was not recognised"]
    sample, readme = read("config/holdfast.conf"), read("config/README.md")
    for name in names:
        if not re.search(rf"^(# )?{name} ", sample, re.M):
            found.append(f"config/holdfast.conf: no {name}")
        if f"| `{name}` |" not in readme:
            found.append(f"config/README.md: no row for {name}")
    known = set(names) | {"include"}
    for path, text, pattern in (("config/holdfast.conf", sample, r"^([a-z][a-z0-9-]+) "),
                                ("config/README.md", readme, r"^\| `([a-z0-9-]+)` \|")):
        found += [f"{path}: unknown setting {name}" for name in re.findall(pattern, text, re.M) if name not in known]
    return found


def metrics_documented():
    """Each row of the status tables has a metric in config/METRICS.md, which names no other; each field of struct status has a row."""
    source, peers = read("proxy/status.c"), read("proxy/status_members.c")
    rows = re.findall(r'ROW\((\w+),\s+[A-Z]+,\s+(?:NULL|"\w+"),\s+(?:NULL|"(\w+)"),', source)
    metrics = {"holdfast_" + metric for _, metric in rows if metric} | {"holdfast_build_info", "holdfast_valkey_info"}
    metrics |= {"holdfast_" + metric for metric in re.findall(r'PEER\(\w+,\s+[A-Z]+,\s+"(\w+)",', peers)}
    found = [] if len(rows) > 10 else ["proxy/status.c: the table was not recognised"]
    documented = set(re.findall(r"^\| `(holdfast_\w+)`", read("config/METRICS.md"), re.M))
    found += [f"config/METRICS.md: no row for {name}" for name in sorted(metrics - documented)]
    found += [f"config/METRICS.md: unknown metric {name}" for name in sorted(documented - metrics)]
    body = re.search(r"struct status \{(.*?)\n\};", without_comments(read("proxy/status.h")), re.S).group(1)
    fields = set(re.findall(r"(\w+)(?:\[\w+\])?\s*[,;]", body)) - {"members", "member_count"}  # status_members.c
    found += [f"proxy/status.c: no row for {field}" for field in sorted(fields - set(dict(rows)))]
    return found


def top_level():
    return [f"{name}: the top level is for " + ", ".join(sorted(TOP_LEVEL))
            for name in sorted(os.listdir(".")) if name not in TOP_LEVEL and not name.startswith(".")]


RULES = [function_lines, file_lines, columns, includes, banned_calls, marks, globals_, guards, settings_documented,
         metrics_documented, top_level]


def main():
    os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
    kept = 0
    for rule in RULES:
        found = rule()
        kept += not found
        if found:
            name = rule.__name__.strip("_")
            print(f"tidy: {name} ({len(found)})")
            for breach in found[:40]:
                print("  " + breach)
            if len(found) > 40:
                print(f"  ... and {len(found) - 40} more")
    print(f"tidy: {kept} rules kept, {len(RULES) - kept} broken")
    return 0 if kept == len(RULES) else 1


if __name__ == "__main__":
    sys.exit(main())
