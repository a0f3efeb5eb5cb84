"""Downloads the server of one Minecraft version from Mojang and checks it.

Environment: VERSION ("latest" or e.g. "1.21.4"), MANIFEST_URL. Works in the current folder.
A download that is not what Mojang says it is never becomes server.jar.
"""

import hashlib
import json
import os
import sys
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


def main():
    manifest = get_json(os.environ["MANIFEST_URL"])
    wanted = os.environ["VERSION"]
    if wanted == "latest":
        wanted = manifest["latest"]["release"]
    print(f"Minecraft {wanted}")
    for version in manifest["versions"]:
        if version["id"] == wanted:
            break
    else:
        sys.exit(f"There is no Minecraft version {wanted}. Choose another and reinstall.")
    server = get_json(version["url"])["downloads"].get("server")
    if server is None:
        sys.exit(f"Mojang offers no server for version {wanted}. Choose another and reinstall.")
    download(server["url"], hashlib.sha1(), server["sha1"])


main()
