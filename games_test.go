package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Real games that nobody here wrote, in images that scripts make of Debian and npm packages. Each is
// created, played and deleted from outside: through the API, and through its own protocol.

// Luanti answers players while it runs, and nobody once it is stopped.
func TestLuantiIsPlayedOverUDP(t *testing.T) {
	t.Parallel()
	gameImage(t, "luanti.sh")
	p := newPanel(t, "--local-node", "--node-ports", portRange(t, 10))
	p.start()
	c := p.customer("ida")
	s := p.createFor(c, luantiServer("voxels"))
	s = c.until(s.ID, 2*time.Minute, "RUNNING")
	c.lockedDown(s, 512, 500)
	player := dialLuanti(t, s.Address)
	eventually(t, 10*time.Second, "Luanti answers", player.hello)

	c.act(s.ID, "stop")
	c.until(s.ID, time.Minute, "STOPPED")
	if err := player.hello(); err == nil {
		t.Error("the port answers though the server is stopped")
	}
	if code := c.exitCode(s.ID); code != 0 {
		t.Errorf("it ended with %d", code)
	}
	// A world that was saved is what the game leaves when it ends in good order.
	if _, err := os.Stat(filepath.Join(p.data(s.ID), "world", "env_meta.txt")); err != nil {
		t.Errorf("the world was not saved: %v", err)
	}
	conf := read(t, filepath.Join(p.data(s.ID), "minetest.conf"))
	for _, line := range []string{"server_name=Ida's place", "max_users=9", "port=30000"} {
		if !slices.Contains(strings.Split(conf, "\n"), line) {
			t.Errorf("minetest.conf has no line %q:\n%s", line, conf)
		}
	}
	p.deleted(c, s.ID)
}

// A bot joins, stands in the world and chats; the console is the game's own, and so is the way it stops.
func TestMinecraftIsPlayedByABot(t *testing.T) {
	t.Parallel()
	gameImage(t, "minecraft-standin.sh")
	p := newPanel(t, "--local-node", "--node-ports", portRange(t, 10))
	p.start()
	c := p.customer("jeb")
	s := p.createFor(c, minecraftServer("blocks", "First light"))
	s = c.until(s.ID, 2*time.Minute, "RUNNING")
	c.lockedDown(s, 1024, 1500)
	if got, err := ping(s.Address); err != nil || got.motd() != "First light" || got.Players.Max != 7 || got.Version.Protocol != 765 {
		t.Fatalf("the server list sees %+v, %v", got, err)
	}
	view := c.console(s.ID)
	view.read("For help, type") // what was said before somebody looked
	join(t, s, "Alice", "hello")
	view.read("hello")
	view.say("say hi")
	view.read("[Server] hi")

	c.act(s.ID, "stop")
	c.until(s.ID, time.Minute, "STOPPED")
	view.read("Stopping the server") // its answer to "stop", not to a signal
	if code := c.exitCode(s.ID); code != 0 {
		t.Errorf("it ended with %d", code)
	}
	if _, err := ping(s.Address); err == nil {
		t.Error("the port answers though the server is stopped")
	}
	c.act(s.ID, "start")
	c.until(s.ID, time.Minute, "RUNNING")
	if _, err := ping(s.Address); err != nil {
		t.Errorf("it runs again and does not answer: %v", err)
	}
	view.say("stop") // from inside the game
	c.until(s.ID, time.Minute, "STOPPED")
	c.act(s.ID, "start")
	c.until(s.ID, time.Minute, "RUNNING")
	p.deleted(c, s.ID)
}

// A variable is in the game's file after the next start, and what the customer wrote there stays.
func TestVariablesReachTheGameAndKeepTheCustomersEdits(t *testing.T) {
	t.Parallel()
	gameImage(t, "minecraft-standin.sh")
	p := newPanel(t, "--local-node", "--node-ports", portRange(t, 10))
	p.start()
	c := p.customer("dinnerbone")
	s := p.createFor(c, minecraftServer("edited", "Before"))
	s = c.until(s.ID, 2*time.Minute, "RUNNING")
	file := filepath.Join(p.data(s.ID), "server.properties")
	lines := strings.Split(strings.TrimSuffix(read(t, file), "\n"), "\n")
	for _, want := range []string{"motd=Before", "max-players=7", "server-port=25565", "online-mode=false"} {
		if !slices.Contains(lines, want) {
			t.Errorf("server.properties has no line %q: %q", want, lines)
		}
	}
	// As an editor would: own lines between, another order, one of ours changed by hand.
	lines = slices.DeleteFunc(lines, func(l string) bool { return strings.HasPrefix(l, "max-players=") })
	own := []string{"# my own comment: do not touch", "my-own-key=kept \\u00e9", "max-players=99"}
	lines = slices.Insert(lines, 1, own...)
	rewrite(t, file, strings.Join(lines, "\n")+"\n")

	c.ok("PATCH", "/api/v1/servers/"+s.ID, map[string]any{"variables": map[string]string{"MOTD": "After: a = b # c"}}, nil)
	if got, err := ping(s.Address); err != nil || got.motd() != "Before" {
		t.Errorf("before the restart the server list sees %+v, %v", got, err)
	}
	c.act(s.ID, "restart")
	eventually(t, time.Minute, "the new message of the day", func() error {
		got, err := ping(s.Address)
		if err == nil && (got.motd() != "After: a = b # c" || got.Players.Max != 7) {
			err = fmt.Errorf("the server list sees %+v", got)
		}
		return err
	})
	after := strings.Split(read(t, file), "\n")
	for _, want := range own[:2] {
		if !slices.Contains(after, want) {
			t.Errorf("the customer's line %q is gone: %q", want, after)
		}
	}
	info, err := os.Stat(file)
	must(t, err)
	if uid := owner(info); uid != 988 {
		t.Errorf("server.properties belongs to %d, the game is 988", uid)
	}
	c.until(s.ID, time.Minute, "RUNNING")
	p.deleted(c, s.ID)
}

// Servers of one organisation reach each other; those of another do not, on the same machine.
func TestTenantsCannotReachEachOthersServers(t *testing.T) {
	t.Parallel()
	gameImage(t, "luanti.sh")
	p := newPanel(t, "--local-node", "--node-ports", portRange(t, 10))
	p.start()
	mine, theirs := p.customer("notch"), p.customer("herobrine")
	home, beside, foreign := p.createFor(mine, luantiServer("home")), p.createFor(mine, luantiServer("beside")), p.createFor(theirs, luantiServer("foreign"))
	mine.until(home.ID, 2*time.Minute, "RUNNING")
	mine.until(beside.ID, 2*time.Minute, "RUNNING")
	theirs.until(foreign.ID, 2*time.Minute, "RUNNING")
	if a, b := networkOf(t, home.ID), networkOf(t, foreign.ID); a.name == b.name || a.name != networkOf(t, beside.ID).name {
		t.Fatalf("the networks are %v and %v", a, b)
	}

	// Something inside each game listens on a port that is not published.
	const secret, page = "8099", "what only this organisation reads"
	for _, id := range []string{home.ID, foreign.ID} {
		inside(t, id, "sh", "-c", "mkdir /tmp/www && echo '"+page+"' >/tmp/www/index.html && busybox httpd -p "+secret+" -h /tmp/www")
	}
	fetch := func(from, to string) (string, error) { // Debian's static busybox cannot do it with wget: it crashes
		return tryInside(t, from, "sh", "-c", `printf 'GET / HTTP/1.0\r\n\r\n' | busybox nc -w 3 `+to+" "+secret)
	}
	for _, reach := range []struct{ name, from, to string }{
		{"a neighbour of the same organisation", beside.ID, home.ID},
		{"the game itself", foreign.ID, foreign.ID},
	} {
		if got, err := fetch(reach.from, networkOf(t, reach.to).address); err != nil || !strings.Contains(got, page) {
			t.Errorf("%s cannot reach the port: %q, %v", reach.name, got, err)
		}
	}
	for _, reach := range []struct{ name, from, to string }{
		{"another organisation's server", foreign.ID, home.ID},
		{"the other way round", home.ID, foreign.ID},
		{"the neighbour", beside.ID, foreign.ID},
	} {
		if got, err := fetch(reach.from, networkOf(t, reach.to).address); err == nil {
			t.Errorf("%s was reached: %q", reach.name, got)
		}
	}

	shared := networkOf(t, home.ID).name
	p.gone(mine, home.ID)
	if !networkExists(t, shared) {
		t.Fatal("the network went with the first of two servers")
	}
	p.deleted(mine, beside.ID)
	p.deleted(theirs, foreign.ID)
}

// Ctrl-C of `make run` ends the panel, then the games that its node has left running. The next run
// starts them again.
func TestRunScriptStopsTheGames(t *testing.T) {
	t.Parallel()
	p := newPanel(t, "--local-node", "--node-ports", portRange(t, 10))
	p.start()
	c := p.customer("linus")
	s := c.create(demoServer("left running"))
	c.until(s.ID, 2*time.Minute, "RUNNING")
	p.stop()
	running := func() bool {
		list := containersOf(t, s.ID)
		return len(list) == 1 && list[0].State == "running"
	}
	if !running() {
		t.Fatal("the game ended with the panel")
	}
	// Only that function of the script: the rest would install packages and start an engine.
	script := onEngine(exec.Command("bash", "-euc", `. deploy/dev/lib.sh; data=$1; eval "$(sed -n '/^stop_games()/,/^}/p' deploy/dev/run.sh)"; stop_games`, "run.sh", p.dir))
	if out, err := script.CombinedOutput(); err != nil {
		t.Fatalf("stop_games: %v\n%s", err, out)
	}
	if running() {
		t.Error("the game still runs")
	}
	p.start()
	eventually(t, time.Minute, "the game runs again", func() error {
		if !running() {
			return errStill("is stopped")
		}
		return nil
	})
	c.until(s.ID, time.Minute, "RUNNING")
	p.deleted(c, s.ID)
}

func luantiServer(name string) map[string]any {
	return map[string]any{
		"name": name, "blueprint": "luanti", "variant": "debian", "start": true,
		"limits":    map[string]int{"cpu_millicores": 500, "memory_mib": 512, "disk_gib": 1},
		"variables": map[string]string{"SERVER_NAME": "Ida's place", "MAX_USERS": "9"},
	}
}

func minecraftServer(name, motd string) map[string]any {
	return map[string]any{
		"name": name, "blueprint": "minecraft-vanilla", "variant": "standin", "start": true,
		"limits": map[string]int{"cpu_millicores": 1500, "memory_mib": 1024, "disk_gib": 2},
		"variables": map[string]string{"EULA": "true", "ONLINE_MODE": "false", "MOTD": motd, "MAX_PLAYERS": "7",
			"VIEW_DISTANCE": "3", "VERSION": "1.20.4"},
	}
}

// data is the folder of a server's files on the disk of the local node.
func (p *panel) data(id string) string {
	return filepath.Join(p.dir, "wings", "servers", "servers", id, "data")
}

func (c *client) exitCode(id string) int64 {
	c.t.Helper()
	var s struct {
		LastExitCode *int64 `json:"last_exit_code"`
	}
	c.ok("GET", "/api/v1/servers/"+id, nil, &s)
	if s.LastExitCode == nil {
		c.t.Fatal("no exit code is known")
	}
	return *s.LastExitCode
}

// gone deletes a server and looks whether its container, data and port went with it.
func (p *panel) gone(c *client, id string) {
	p.t.Helper()
	s := c.server(id)
	c.ok("DELETE", "/api/v1/servers/"+id, nil, nil)
	c.until(id, time.Minute, "DELETED")
	if left := containersOf(p.t, id); len(left) > 0 {
		p.t.Errorf("%d containers of the deleted server are left", len(left))
	}
	if _, err := os.Stat(p.data(id)); !errors.Is(err, fs.ErrNotExist) {
		p.t.Errorf("the data of the deleted server: %v", err)
	}
	for _, port := range s.Ports {
		if err := bindable(port.Protocol, port.HostIP, port.HostPort); err != nil {
			p.t.Errorf("port %s of the deleted server: %v", port.Name, err)
		}
	}
}

// deleted is gone for an organisation's last server: its network goes, too.
func (p *panel) deleted(c *client, id string) {
	p.t.Helper()
	shared := networkOf(p.t, id).name
	p.gone(c, id)
	eventually(p.t, 10*time.Second, "the organisation's network goes with its last server", func() error {
		if networkExists(p.t, shared) {
			return errStill("is there")
		}
		return nil
	})
}
