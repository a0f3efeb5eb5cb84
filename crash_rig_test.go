package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	docker "github.com/moby/moby/client"

	"github.com/mambahost/mamba/wings/engine"
	"github.com/mambahost/mamba/wings/engine/dockertest"
)

// How fast everything has to be right again after a part was killed. The median has to be below the
// promise; one round may be slower on a machine that has other work, but not for ever.
const (
	promise  = 10 * time.Second
	patience = 90 * time.Second
)

// nightly reports whether the whole counts of TESTS are run, or the part that fits into make test.
func nightly() bool { return os.Getenv("MAMBA_NIGHTLY") != "" }

// chance returns a source of chance whose seed is printed; MAMBA_TEST_SEED repeats one.
func chance(t *testing.T) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	if text := os.Getenv("MAMBA_TEST_SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		must(t, err)
	}
	t.Logf("seed %d (MAMBA_TEST_SEED repeats it)", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

// rig is one panel with its node, one organisation with room for many servers, and a look at the
// engine from outside.
type rig struct {
	t      *testing.T
	panel  *panel
	engine *docker.Client
	user   *client
	root   *client
}

// newRig starts a panel with a local node on the engine at host (empty: the one of all tests).
func newRig(t *testing.T, host string, ports int) *rig {
	t.Helper()
	p := newPanel(t, "--local-node", "--node-ports", portRange(t, ports))
	if host != "" {
		p.host = host
	}
	p.start()
	r := &rig{t: t, panel: p, user: p.customer("crash"), root: p.super(), engine: engineAt(t, p.host)}
	r.root.ok("PATCH", "/api/collections/tenants/records/"+r.user.tenant, map[string]any{
		"quota_servers": 500, "quota_memory_mib": 1 << 20, "quota_cpu_millicores": 1_000_000, "quota_disk_mib": 1 << 20,
	}, nil)
	t.Cleanup(r.sweep)
	r.online()
	return r
}

func engineAt(t testing.TB, host string) *docker.Client {
	t.Helper()
	if host != "" {
		return dockertest.Client(t, host)
	}
	cli, err := docker.New(docker.FromEnv)
	must(t, err)
	t.Cleanup(func() { cli.Close() })
	return cli
}

// online waits until the node takes servers.
func (r *rig) online() {
	r.t.Helper()
	eventually(r.t, patience, "the node is online", func() error {
		var nodes struct{ Items []struct{ Status string } }
		r.root.ok("GET", "/api/v1/admin/nodes", nil, &nodes)
		if len(nodes.Items) != 1 || nodes.Items[0].Status != "ONLINE" {
			return fmt.Errorf("nodes %+v", nodes.Items)
		}
		return nil
	})
}

// sweep removes what the organisation has on the engine, so that other tests find it as it was.
func (r *rig) sweep() {
	r.panel.stop()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	mine := make(docker.Filters).Add("label", engine.LabelTenant+"="+r.user.tenant)
	found, err := r.engine.ContainerList(ctx, docker.ContainerListOptions{All: true, Filters: mine})
	errs := []error{err}
	for _, c := range found.Items {
		_, err := r.engine.ContainerRemove(ctx, c.ID, docker.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
		errs = append(errs, err)
	}
	networks, err := r.engine.NetworkList(ctx, docker.NetworkListOptions{Filters: mine})
	errs = append(errs, err)
	for _, n := range networks.Items {
		_, err := r.engine.NetworkRemove(ctx, n.ID, docker.NetworkRemoveOptions{})
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		r.t.Errorf("remove what the test left: %v", err)
	}
}

// game is a container of a server, as the engine sees it.
type game struct {
	id, role  string
	running   bool
	pid       int
	restarts  int
	startedAt string
}

// games lists the containers of the organisation's servers, by server.
func (r *rig) games() (map[string][]game, error) {
	ctx := r.t.Context()
	list, err := r.engine.ContainerList(ctx, docker.ContainerListOptions{All: true, Filters: make(docker.Filters).Add("label", engine.LabelTenant+"="+r.user.tenant)})
	if err != nil {
		return nil, err
	}
	out := map[string][]game{}
	for _, c := range list.Items {
		in, err := r.engine.ContainerInspect(ctx, c.ID, docker.ContainerInspectOptions{})
		if err != nil {
			return nil, err
		}
		s := in.Container.State
		id := c.Labels[engine.LabelServer]
		out[id] = append(out[id], game{c.ID, c.Labels[engine.LabelRole], s.Running, s.Pid, in.Container.RestartCount, s.StartedAt})
	}
	return out, nil
}

// game returns the one container of a running server.
func (r *rig) game(id string) game {
	r.t.Helper()
	all, err := r.games()
	must(r.t, err)
	if len(all[id]) != 1 || !all[id][0].running {
		r.t.Fatalf("server %s has the containers %+v, want one that runs", id, all[id])
	}
	return all[id][0]
}

// wish is what a server has to become.
type wish string

const (
	running wish = "RUNNING"
	stopped wish = "STOPPED"
	deleted wish = "DELETED"
)

// settled returns nil when every server is what it is wished to be, for the panel and on the engine,
// and nothing is held by nobody.
func (r *rig) settled(wishes map[string]wish) error {
	var list struct {
		Items []server
		Total int
	}
	if err := r.get(r.user, "/api/v1/servers?per_page=200", &list); err != nil {
		return err
	}
	phases := map[string]string{}
	for _, s := range list.Items {
		if wishes[s.ID] == "" {
			return fmt.Errorf("server %s (%s) was made and nobody asked for it", s.ID, s.Name)
		}
		phases[s.ID] = s.Status
	}
	living := 0
	for id, w := range wishes {
		switch phase, there := phases[id]; {
		case w == deleted && there, w != deleted && phase != string(w):
			return fmt.Errorf("server %s is %q, want %s", id, phase, w)
		case w != deleted:
			living++
		}
	}
	if err := r.held(living); err != nil {
		return err
	}
	games, err := r.games()
	if err != nil {
		return err
	}
	for id, of := range games {
		alive := 0
		for _, g := range of {
			if g.running {
				alive++
			}
		}
		if len(of) > 1 || wishes[id] == deleted || alive == 1 != (wishes[id] == running) {
			return fmt.Errorf("server %s is %s and has the containers %+v", id, wishes[id], of)
		}
	}
	for id, w := range wishes {
		if w == running && len(games[id]) != 1 {
			return fmt.Errorf("server %s runs and has no container", id)
		}
	}
	return nil
}

// held compares the allocations with the living servers and lets the panel look for leaks itself.
func (r *rig) held(living int) error {
	var active struct{ Total int }
	if err := r.get(r.root, "/api/v1/admin/allocations?status=ACTIVE", &active); err != nil {
		return err
	}
	if active.Total != living {
		return fmt.Errorf("%d allocations for %d living servers", active.Total, living)
	}
	a, err := r.root.try("POST", "/api/v1/admin/allocations/scan", map[string]any{"dry_run": true})
	if err != nil {
		return err
	}
	var report struct {
		Leaks []struct{ Kind, Server string }
	}
	a.into(r.t, &report)
	if a.status != http.StatusOK || len(report.Leaks) > 0 {
		return fmt.Errorf("the scan says %d %s", a.status, a.raw)
	}
	return nil
}

func (r *rig) get(c *client, path string, out any) error {
	a, err := c.try("GET", path, nil)
	if err != nil {
		return err
	}
	if a.status != http.StatusOK {
		return fmt.Errorf("GET %s: %d %s", path, a.status, a.raw)
	}
	a.into(r.t, out)
	return nil
}

// incidents of a kind that are open.
func (r *rig) incidents(kind string) (n int) {
	r.t.Helper()
	var list struct {
		Items []struct{ Kind, Status string }
	}
	r.root.ok("GET", "/api/v1/admin/incidents", nil, &list)
	for _, i := range list.Items {
		if i.Kind == kind && i.Status == "OPEN" {
			n++
		}
	}
	return n
}

// wings returns the pid of the panel's node daemon, 0 when there is none at the moment.
func (r *rig) wings() int {
	for _, pid := range childrenOf(r.panel.cmd.Process.Pid) {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil && slices.Contains(strings.Split(string(raw), "\x00"), "run") {
			return pid
		}
	}
	return 0
}

func childrenOf(parent int) (pids []int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range stats {
		raw, err := os.ReadFile(file)
		if err != nil {
			continue // it ended meanwhile
		}
		_, after, _ := strings.Cut(string(raw), ") ") // the name may hold spaces
		fields := strings.Fields(after)
		if len(fields) > 1 && fields[1] == strconv.Itoa(parent) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			if err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// killWings ends the node daemon with SIGKILL and returns when the panel has started another.
func (r *rig) killWings() {
	r.t.Helper()
	old := r.wings()
	if old == 0 {
		r.t.Fatal("there is no node daemon to kill")
	}
	must(r.t, syscall.Kill(old, syscall.SIGKILL))
	eventually(r.t, patience, "the node daemon is started again", func() error {
		if now := r.wings(); now == 0 || now == old {
			return errors.New("not yet")
		}
		return nil
	})
}

// pauseWings stops the node daemon from doing anything; the panel takes the node for online until it
// has been silent for a minute. The function that it returns sends the daemon another signal.
func (r *rig) pauseWings() (resume func(syscall.Signal)) {
	r.t.Helper()
	pid := r.wings()
	if pid == 0 {
		r.t.Fatal("there is no node daemon to pause")
	}
	must(r.t, syscall.Kill(pid, syscall.SIGSTOP))
	var once sync.Once
	resume = func(sig syscall.Signal) { once.Do(func() { _ = syscall.Kill(pid, sig) }) }
	r.t.Cleanup(func() { resume(syscall.SIGCONT) })
	return resume
}

// at runs fn when d has passed, in its own goroutine.
func at(wg *sync.WaitGroup, d time.Duration, fn func()) {
	wg.Go(func() {
		timer := time.NewTimer(d)
		defer timer.Stop()
		<-timer.C
		fn()
	})
}

// median of durations, and the largest.
func sprinkle(d []time.Duration) (median, most time.Duration) {
	slices.Sort(d)
	return d[len(d)/2].Round(10 * time.Millisecond), d[len(d)-1].Round(10 * time.Millisecond)
}

// watched runs the test once more, in a process and a network namespace of its own, and says that this was done
// here; in that process it says no. Engines of one network rewrite each other's rules whenever one of them
// starts, so a test that starts engines again and again, and has to reach their games, is alone in its network.
func watched(t *testing.T) bool {
	t.Helper()
	const alone = "MAMBA_TEST_ALONE"
	if os.Getenv(alone) != "" {
		return false
	}
	name := fmt.Sprintf("mamba-alone-%d", os.Getpid())
	for _, argv := range [][]string{{"netns", "add", name}, {"-n", name, "link", "set", "lo", "up"}} {
		if out, err := exec.Command("ip", argv...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v\n%s", argv, err, out)
		}
	}
	defer func() {
		if out, err := exec.Command("ip", "netns", "del", name).CombinedOutput(); err != nil {
			t.Errorf("remove the network: %v\n%s", err, out)
		}
	}()
	self, err := os.Executable()
	must(t, err)
	cmd := exec.CommandContext(t.Context(), "nsenter", "--net=/run/netns/"+name, self, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=3h")
	cmd.Env = append(os.Environ(), alone+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Fatalf("alone in its network: %v", err)
	}
	return true
}
