package blueprints

import (
	"archive/zip"
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// python3 is the interpreter itself: version managers put a slow script of the same name before it.
var python3 = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("python3", "-c", "import sys; print(sys.executable)").Output()
	return strings.TrimSpace(string(out)), err
})

// runInstall runs a shipped Python script as the node does: in the server's folder, with nothing but
// its own environment.
func runInstall(t *testing.T, game string, env ...string) (folder, output string, err error) {
	t.Helper()
	python, err := python3()
	if err != nil {
		t.Fatalf("the install scripts are Python; install python3 to test them: %v", err)
	}
	folder = t.TempDir()
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte(mustShip(t, game).Install.Script), 0o600); err != nil {
		t.Fatal(err)
	}
	run := exec.Command(python, script)
	run.Dir = folder
	run.Env = append(env, "PATH="+os.Getenv("PATH"), "HOME="+os.Getenv("HOME"), "no_proxy=*")
	out, err := run.CombinedOutput()
	return folder, string(out), err
}

// serve answers by path; a body may name the server as {{base}}.
func serve(t *testing.T, bodies map[string]string) string {
	t.Helper()
	var base string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, ok := bodies[r.URL.Path]
		if agent := r.UserAgent(); !strings.HasPrefix(agent, "MambaHost/") || !strings.Contains(agent, "+https://") {
			t.Errorf("the script calls itself %q; PaperMC refuses what does not name itself", agent)
		}
		if !ok {
			http.NotFound(w, r)
			return
		}
		fmt.Fprint(w, strings.ReplaceAll(body, "{{base}}", base))
	}))
	t.Cleanup(server.Close)
	base = server.URL
	return base
}

func installed(t *testing.T, folder string) string {
	t.Helper()
	if leftover, _ := filepath.Glob(filepath.Join(folder, "*.part")); len(leftover) > 0 {
		t.Errorf("left behind: %v", leftover)
	}
	jar, err := os.ReadFile(filepath.Join(folder, "server.jar"))
	if err != nil {
		return ""
	}
	return string(jar)
}

func TestVanillaInstallTakesOnlyWhatMojangVouchesFor(t *testing.T) {
	t.Parallel()
	digest := func(s string) string { sum := sha1.Sum([]byte(s)); return hex.EncodeToString(sum[:]) }
	base := serve(t, map[string]string{
		"/manifest": `{"latest":{"release":"1.21.4","snapshot":"25w01a"},"versions":[{"id":"25w01a","url":"{{base}}/none"},{"id":"1.21.4","url":"{{base}}/1214"},{"id":"1.20.4","url":"{{base}}/1204"},{"id":"1.0","url":"{{base}}/10"}]}`,
		"/1214":     `{"downloads":{"server":{"url":"{{base}}/jar","sha1":"` + digest("new jar") + `"}}}`,
		"/1204":     `{"downloads":{"server":{"url":"{{base}}/jar","sha1":"` + digest("old jar") + `"}}}`,
		"/10":       `{"downloads":{}}`,
		"/jar":      "new jar",
	})
	for version, c := range map[string]struct{ jar, say string }{
		"latest":  {"new jar", "Minecraft 1.21.4"},
		"1.21.4":  {"new jar", "checksum is right"},
		"1.20.4":  {"", "its checksum is wrong"},
		"1.0":     {"", "Mojang offers no server"},
		"9.9":     {"", "There is no Minecraft version 9.9"},
		"; touch": {"", "There is no Minecraft version"},
	} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			folder, out, err := runInstall(t, "minecraft-vanilla", "VERSION="+version, "MANIFEST_URL="+base+"/manifest")
			if (err == nil) != (c.jar != "") || installed(t, folder) != c.jar || !strings.Contains(out, c.say) {
				t.Errorf("%v, jar %q\n%s", err, installed(t, folder), out)
			}
		})
	}
}

func TestPaperInstallTakesTheNewestStableBuild(t *testing.T) {
	t.Parallel()
	sum := sha256.Sum256([]byte("paper jar"))
	build := func(id, channel, digest string) string {
		return `{"id":` + id + `,"channel":"` + channel + `","downloads":{"server:default":{"url":"{{base}}/jar-` + id + `","checksums":{"sha256":"` + digest + `"}}}}`
	}
	good := hex.EncodeToString(sum[:])
	base := serve(t, map[string]string{
		"/paper":                        `{"versions":{"1.22":["1.22-rc1","1.22"],"1.21":["1.21.5","1.21.4"]}}`,
		"/paper/versions/1.22/builds":   "[" + build("3", "ALPHA", good) + "]",
		"/paper/versions/1.21.5/builds": "[" + build("9", "BETA", "") + "," + build("8", "STABLE", good) + "," + build("7", "STABLE", "") + "]",
		"/paper/versions/1.21.4/builds": "[" + build("5", "STABLE", strings.Repeat("0", 64)) + "]",
		"/jar-8":                        "paper jar", "/jar-5": "damaged",
	})
	for version, c := range map[string]struct{ jar, say string }{
		"latest": {"paper jar", "Paper 1.21.5 build 8"},
		"1.21.5": {"paper jar", "checksum is right"},
		"1.21.4": {"", "its checksum is wrong"},
		"1.22":   {"", "no stable build for version 1.22"},
		"1.0":    {"", "There is no Paper for version 1.0"},
	} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			folder, out, err := runInstall(t, "minecraft-paper", "VERSION="+version, "API_URL="+base+"/paper")
			if (err == nil) != (c.jar != "") || installed(t, folder) != c.jar || !strings.Contains(out, c.say) {
				t.Errorf("%v, jar %q\n%s", err, installed(t, folder), out)
			}
		})
	}
}

func TestLuantiInstallUnpacksOneGame(t *testing.T) {
	t.Parallel()
	archive := func(names ...string) string {
		var out bytes.Buffer
		z := zip.NewWriter(&out)
		for _, name := range names {
			w, err := z.Create(name)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprint(w, name)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	base := serve(t, map[string]string{
		"/game":   archive("minetest_game-abc/game.conf", "minetest_game-abc/mods/a/init.lua", "../../../escaped"),
		"/nogame": archive("readme.txt"),
	})
	folder, out, err := runInstall(t, "luanti", "GAME_URL="+base+"/game")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, name := range []string{"game.conf", "mods/a/init.lua"} {
		if _, err := os.Stat(filepath.Join(folder, "games/minetest_game", name)); err != nil {
			t.Error(err)
		}
	}
	entries, _ := os.ReadDir(folder)
	if _, err := os.Stat(filepath.Join(folder, "..", "escaped")); err == nil || len(entries) != 1 {
		t.Errorf("the archive wrote elsewhere: %v", entries)
	}
	if _, out, err := runInstall(t, "luanti", "GAME_URL="+base+"/nogame"); err == nil || !strings.Contains(out, "holds no game") {
		t.Errorf("an archive without a game: %v\n%s", err, out)
	}
}

func TestValheimInstallIsABashScript(t *testing.T) {
	t.Parallel()
	check := exec.Command("bash", "-n")
	check.Stdin = strings.NewReader(mustShip(t, "valheim").Install.Script)
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
