"""Packages of a suite of Debian that the machine need not have, unpacked under build/vendors and run from there."""
import shlex
import subprocess
from pathlib import Path

from sentences import Refusal

WORK = Path(__file__).resolve().parent.parent.parent / "build" / "vendors"


def must(command, **where):
    if subprocess.run(list(map(str, command)), **where).returncode:
        raise Refusal(f"{shlex.join(map(str, command))} failed")


def apt(suite):
    """apt-get for one suite of Debian that the machine need not have, as if nothing were installed."""
    folder = WORK / suite
    for name in ("lists/partial", "archives/partial", "root"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    asked = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian"]
    mirrors = subprocess.run(asked, capture_output=True, text=True).stdout.split()
    mirrors = [mirror for mirror in mirrors if "security" not in mirror]
    if not mirrors:
        raise Refusal("this takes packages from Debian, and apt-get knows no mirror of Debian here")
    where = f"[arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {mirrors[0]} {suite} main\n"
    (folder / "sources.list").write_text(f"deb {where}deb-src {where}")
    (folder / "status").touch()
    settings = {"Dir::Etc::sourcelist": folder / "sources.list", "Dir::Etc::sourceparts": "/dev/null",
                "Dir::State::lists": folder / "lists", "Dir::State::status": folder / "status", "Dir::Cache": folder,
                "APT::Install-Recommends": "false", "APT::Sandbox::User": "", "Acquire::Languages": "none",
                "Debug::NoLocking": "1"}
    return ["apt-get", "-qq", *(word for name, value in settings.items() for word in ("-o", f"{name}={value}"))]


def unpack(suite, *packages):
    """These packages of the suite, and all that they need, under WORK/suite/root."""
    command = apt(suite)
    must([*command, "update"])
    must([*command, "install", "--yes", "--download-only", *packages], stdout=subprocess.DEVNULL)
    for package in (WORK / suite / "archives").glob("*.deb"):
        must(["dpkg-deb", "-x", package, WORK / suite / "root"])
