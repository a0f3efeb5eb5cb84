"""Downloads the newest stable Paper build of one Minecraft version and checks it.

Environment: VERSION ("latest" or e.g. "1.21.4"), API_URL. Works in the current folder.
A download that is not what PaperMC says it is never becomes server.jar.
"""

import hashlib
import json
import os
import sys
import urllib.error
import urllib.request

AGENT = "MambaHost/1 (+https://github.com/mambahost/mamba)"
MAX_JSON = 8 << 20
MAX_JAR = 512 << 20


def get(url):
    request = urllib.request.Request(url, headers={"User-Agent": AGENT})
    return urllib.request.urlopen(request, timeout=60)


def get_json(url):
    with get(url) as answer:
        return json.loads(answer.read(MAX_JSON))


def download(url, digest, expected):
    """Writes server.jar by way of a temporary file."""
    size = 0
    with get(url) as answer, open("server.jar.part", "wb") as out:
        while chunk := answer.read(1 << 16):
            size += len(chunk)
            if size > MAX_JAR:
                sys.exit("The download is larger than any server; stopped.")
            digest.update(chunk)
            out.write(chunk)
        out.flush()
        os.fsync(out.fileno())
    if digest.hexdigest() != expected:
        os.remove("server.jar.part")
        sys.exit("The download is damaged: its checksum is wrong. Try again.")
    os.replace("server.jar.part", "server.jar")
    print(f"Downloaded {size} bytes, checksum is right.")


def stable_build(api, version):
    """The newest stable build of a version, or None. PaperMC lists builds newest first."""
    for build in get_json(f"{api}/versions/{version}/builds"):
        if build["channel"] == "STABLE":
            return build
    return None


def choose(api, wanted):
    if wanted != "latest":
        return wanted, stable_build(api, wanted)
    for family in get_json(api)["versions"].values():  # newest first
        for version in family:
            if "-" in version:  # a release candidate
                continue
            if build := stable_build(api, version):
                return version, build
    return wanted, None


def main():
    api = os.environ["API_URL"]
    try:
        version, build = choose(api, os.environ["VERSION"])
    except urllib.error.HTTPError as fault:
        if fault.code != 404:
            raise
        sys.exit(f"There is no Paper for version {os.environ['VERSION']}. Choose another and reinstall.")
    if build is None:
        sys.exit(f"Paper has no stable build for version {version} yet. Choose another and reinstall.")
    print(f"Paper {version} build {build['id']}")
    jar = build["downloads"]["server:default"]
    download(jar["url"], hashlib.sha256(), jar["checksums"]["sha256"])


main()
