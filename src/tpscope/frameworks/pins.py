"""What ran against what the framework's metadata declares."""

from __future__ import annotations

from packaging.requirements import Requirement


def declared_ranges(packages: dict[str, str], declared: dict[str, str]) -> dict[str, str]:
    """For each package that matters here, the range that the framework's metadata declares."""
    return {name: str(Requirement(declared[name]).specifier) for name in packages if name in declared}


def outside_pins(packages: dict[str, str], declared: dict[str, str]) -> list[dict[str, str]]:
    """Packages that ran at a version outside the range that the framework declares."""
    found = []
    for name, version in packages.items():
        line = declared.get(name)
        if line is None:
            continue
        requirement = Requirement(line)
        if not requirement.specifier.contains(version.split("+")[0], prereleases=True):
            found.append({"package": name, "version": version, "declared": str(requirement.specifier)})
    return found
