"""Downloads Minetest Game from ContentDB into games/minetest_game.

Environment: GAME_URL, a zip with one folder that holds game.conf. Works in the current folder.
A game that is there already is replaced as a whole; worlds and mods stay.
"""

import os
import shutil
import sys
import tempfile
import urllib.request
import zipfile

AGENT = "MambaHost/1 (+https://github.com/mambahost/mamba)"
MAX_ZIP = 256 << 20
MAX_UNPACKED = 1 << 30
TARGET = "games/minetest_game"


def main():
    os.makedirs("games", exist_ok=True)
    request = urllib.request.Request(os.environ["GAME_URL"], headers={"User-Agent": AGENT})
    with tempfile.TemporaryDirectory(dir=".", prefix=".install-") as work:
        archive = os.path.join(work, "game.zip")
        with urllib.request.urlopen(request, timeout=60) as answer, open(archive, "wb") as out:
            size = 0
            while chunk := answer.read(1 << 16):
                size += len(chunk)
                if size > MAX_ZIP:
                    sys.exit("The download is larger than any game; stopped.")
                out.write(chunk)
        with zipfile.ZipFile(archive) as z:
            if sum(entry.file_size for entry in z.infolist()) > MAX_UNPACKED:
                sys.exit("The game is too large when unpacked; stopped.")
            z.extractall(os.path.join(work, "out"))  # refuses ".." and absolute names
        for folder, _, files in os.walk(os.path.join(work, "out")):
            if "game.conf" in files:
                shutil.rmtree(TARGET, ignore_errors=True)
                shutil.move(folder, TARGET)
                print(f"Installed Minetest Game ({size} bytes downloaded).")
                return
    sys.exit("The download holds no game. Try again later.")


main()
