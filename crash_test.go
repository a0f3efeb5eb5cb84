package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mambahost/mamba/wings/engine/dockertest"
)

// The storms kill one part of the installation, with SIGKILL, while a customer creates, starts, stops
// and deletes servers, and then look whether everything became what was asked for, once.

// killWithin is how long before the kill a request is made at the most: long enough for a job to be
// claimed, pushed and worked on by the engine, short enough to fall before the answer as well.
const killWithin = 600 * time.Millisecond

// kinds of requests of a storm. Each round makes storm.each of each.
const (
	opCreate = "create"
	opStart  = "start"
	opStop   = "stop"
	opDelete = "delete"
)

// storm is one test of killing.
type storm struct {
	*rig
	rng    *rand.Rand
	kill   func() // ends the part
	revive func() // returns when it runs again
	rounds int
	each   int // requests of each kind per kill

	restart   func() // of the engine, see freeLost; nil: not this part
	restarted time.Time
	restarts  int

	wishes  map[string]wish
	calm    map[string]game // servers that nobody touches, by id, as they began
	serial  int
	moments map[string]int // requests per kind that a kill fell after, within killWithin
	before  int            // of them: without an answer when the kill came
	took    []time.Duration
}

// request is one thing that a customer asks, under one idempotency key for as long as it takes.
type request struct {
	kind, method, path string
	body               any
	key                string
	wish               wish
	server             string // of the answer for a create
	answered           bool   // the first try got an answer
}

// run makes the servers, then the rounds, and prints the figure.
func (s *storm) run(name, what string) {
	s.wishes, s.calm, s.moments = map[string]wish{}, map[string]game{}, map[string]int{}
	var calm []string
	for range 3 {
		calm = append(calm, s.make(true))
	}
	for range s.each*3/2 + 1 { // what one round takes of the running and of the stopped ones
		s.make(true)
		s.make(false)
	}
	s.settle("the servers are made")
	for _, id := range calm {
		s.calm[id] = s.game(id)
	}
	s.took = nil
	for range s.rounds {
		s.round()
	}
	median, most := sprinkle(s.took)
	total := 0
	for _, n := range s.moments {
		total += n
	}
	s.t.Logf("%s: %d kills of %s, %d requests in the %s before (create %d, start %d, stop %d, delete %d; %d had no answer yet): "+
		"0 ports leaked, 0 phases stuck, 0 containers doubled, %d of %d untouched games kept container and pid; right again after %s (median), %s (most)",
		name, s.rounds, what, total, killWithin, s.moments[opCreate], s.moments[opStart], s.moments[opStop], s.moments[opDelete], s.before,
		len(s.calm), len(calm), median, most)
	limit := promise
	if !nightly() {
		limit *= 3 // beside the rest of the suite; nightly has the machine to itself
	}
	if s.restart == nil && median > limit { // an engine that has to be restarted once more takes its time
		s.t.Errorf("everything was right again after %s in the median, promised are %s", median, limit)
	}
}

func (s *storm) make(start bool) string {
	s.serial++
	body := demoServer(fmt.Sprintf("storm %d", s.serial))
	body["start"] = start
	made := s.user.create(body)
	s.wishes[made.ID] = stopped
	if start {
		s.wishes[made.ID] = running
	}
	return made.ID
}

// round is one kill: the requests begin at moments of their own before it.
func (s *storm) round() {
	s.t.Helper()
	reqs := s.requests()
	var wg sync.WaitGroup
	var mu sync.Mutex
	for _, q := range reqs {
		at(&wg, time.Duration(s.rng.Int64N(int64(killWithin))), func() {
			a, err := s.send(q)
			mu.Lock()
			defer mu.Unlock()
			if err == nil && a.status == http.StatusAccepted {
				q.answered = true
				q.server = s.serverOf(q, a)
			}
		})
	}
	at(&wg, killWithin, func() {
		mu.Lock()
		for _, q := range reqs {
			if s.moments[q.kind]++; !q.answered {
				s.before++
			}
		}
		mu.Unlock()
		s.kill()
	})
	wg.Wait()
	s.revive()
	began := time.Now()
	for _, q := range reqs {
		s.repeat(q)
	}
	s.settle(fmt.Sprintf("round %d of %d", len(s.took)+1, s.rounds))
	s.took = append(s.took, time.Since(began))
	for id, was := range s.calm {
		if now := s.game(id); now != was {
			s.t.Fatalf("the game of %s was %+v and is %+v", id, was, now)
		}
	}
}

// requests chooses servers for one round: no server is in two of them.
func (s *storm) requests() []*request {
	up, down := s.pick(running), s.pick(stopped)
	take := func(from *[]string) (id string) {
		if len(*from) == 0 {
			s.t.Fatal("the storm has run out of servers")
		}
		id, *from = (*from)[0], (*from)[1:]
		return id
	}
	var reqs []*request
	add := func(q request) {
		s.serial++
		q.key = fmt.Sprintf("storm-%d", s.serial)
		reqs = append(reqs, &q)
	}
	for i := range s.each {
		body, w := demoServer(fmt.Sprintf("storm made %d-%d", len(s.took), i)), running
		if i%2 == 1 {
			body["start"], w = false, stopped
		}
		add(request{kind: opCreate, method: "POST", path: "/api/v1/servers", body: body, wish: w})
		id := take(&down)
		add(request{kind: opStart, method: "POST", path: "/api/v1/servers/" + id + "/actions", body: map[string]any{"action": "start"}, wish: running, server: id})
		id = take(&up)
		add(request{kind: opStop, method: "POST", path: "/api/v1/servers/" + id + "/actions", body: map[string]any{"action": "stop"}, wish: stopped, server: id})
		pool := &up
		if len(up) < len(down) {
			pool = &down
		}
		id = take(pool)
		add(request{kind: opDelete, method: "DELETE", path: "/api/v1/servers/" + id, wish: deleted, server: id})
	}
	return reqs
}

// pick returns the servers of a wish that may be touched, in a random order.
func (s *storm) pick(w wish) []string {
	var ids []string
	for id, is := range s.wishes {
		if _, calm := s.calm[id]; is == w && !calm {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	s.rng.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	return ids
}

func (s *storm) send(q *request) (answer, error) {
	return s.user.try(q.method, q.path, q.body, "Idempotency-Key", q.key)
}

// repeat sends a request again under its key, as a client does that got no answer: it has to be one
// command, whether or not the panel had taken it.
func (s *storm) repeat(q *request) {
	s.t.Helper()
	eventually(s.t, patience, q.kind+" is answered", func() error {
		a, err := s.send(q)
		if err != nil {
			return err
		}
		if a.status != http.StatusAccepted {
			return fmt.Errorf("%s %s: %d %s", q.method, q.path, a.status, a.raw)
		}
		id := s.serverOf(q, a)
		if q.answered && (id != q.server || a.header.Get("Idempotency-Replayed") != "true") {
			s.t.Fatalf("%s %s was answered with server %s and now with %s (replayed %q)", q.method, q.path, q.server, id, a.header.Get("Idempotency-Replayed"))
		}
		q.server = id
		return nil
	})
	s.wishes[q.server] = q.wish
}

func (s *storm) serverOf(q *request, a answer) string {
	if q.kind != opCreate {
		return q.server
	}
	var out struct{ Server server }
	a.into(s.t, &out)
	return out.Server.ID
}

func (s *storm) settle(what string) {
	s.t.Helper()
	within := patience
	if s.restart != nil {
		within *= 2
	}
	eventually(s.t, within, what, func() error {
		if err := s.freeLost(); err != nil {
			return err
		}
		return s.settled(s.wishes)
	})
}

// freeLost restarts the engine when it keeps a port from its owner, and gives it a while before it does
// so again: a start that was under way may have met the restart.
// Known issue of Docker 28.2, seen without any part of ours: an engine that is killed while it starts a
// container believes afterwards that the port of that start is in use, also when the container is
// removed, until it is restarted once more. With live-restore that ends no game. The customer is told
// port_taken meanwhile.
func (s *storm) freeLost() error {
	if s.restart == nil || time.Since(s.restarted) < 20*time.Second {
		return nil
	}
	var list struct{ Items []server }
	if err := s.get(s.user, "/api/v1/servers?per_page=200", &list); err != nil {
		return err
	}
	if slices.ContainsFunc(list.Items, func(v server) bool { return v.Problem != nil && v.Problem.Code == "port_taken" }) {
		s.restart()
		s.restarts++
		s.restarted = time.Now()
	}
	return nil
}

// A panel that is killed at any moment of a command finishes the command when it is back.
func TestT01_KillPanelAtAnyMoment(t *testing.T) {
	s := &storm{rig: newRig(t, "", 60), rng: chance(t), rounds: 10, each: 2}
	if nightly() {
		s.rounds = 100
	}
	s.kill, s.revive = s.panel.kill, s.panel.start
	s.run("T01", "the panel")
	if n := s.incidents("job.dead"); n > 0 {
		t.Errorf("%d jobs were given up", n)
	}
}

// The node's daemon looks again after a kill: it repeats nothing that was done and ends no game.
func TestT02_KillWingsAtAnyMoment(t *testing.T) {
	s := &storm{rig: newRig(t, "", 60), rng: chance(t), rounds: 7, each: 3}
	if nightly() {
		s.rounds = 50
	}
	s.kill, s.revive = s.killWings, func() {} // the panel starts it again
	s.run("T02", "wings")
	for id, g := range s.calm {
		if g.restarts != 0 {
			t.Errorf("the game of %s was restarted %d times", id, g.restarts)
		}
		s.quiet(id)
	}
}

// quiet fails when a server has crashed in its life.
func (r *rig) quiet(id string) {
	r.t.Helper()
	var seen struct{ Items []struct{ Kind string } }
	r.user.ok("GET", "/api/v1/servers/"+id+"/activity", nil, &seen)
	for _, e := range seen.Items {
		if strings.Contains(e.Kind, "crash") {
			r.t.Errorf("server %s: %s", id, e.Kind)
		}
	}
}

// With live-restore a Docker Engine that is killed or stopped takes no game along.
func TestT03_KillDockerdAtAnyMoment(t *testing.T) {
	if watched(t) {
		return
	}
	d := dockertest.Private(t, dockertest.Options{HostNetwork: true})
	s := &storm{rig: newRig(t, d.Host(), 60), rng: chance(t), rounds: 4, each: 5}
	if nightly() {
		s.rounds = 40
	}
	s.kill = func() {
		if len(s.took)%2 == 0 {
			d.Kill(t)
			return
		}
		d.Stop(t)
	}
	s.revive = func() { d.Start(t) }
	s.restart = func() { d.Restart(t) }
	s.run("T03", "dockerd (live-restore)")
	t.Logf("T03: the engine was restarted %d times because it kept the port of a start that it was killed in", s.restarts)
	for id := range s.calm {
		s.quiet(id)
	}
}

// Without live-restore the engine ends its games when it goes: each is started again once, and that
// is not counted as a crash.
func TestT03_DockerdWithoutLiveRestore(t *testing.T) {
	if watched(t) {
		return
	}
	d := dockertest.Private(t, dockertest.Options{HostNetwork: true, NoLiveRestore: true})
	r := newRig(t, d.Host(), 20)
	rounds := 2
	if nightly() {
		rounds = 40
	}
	wishes := map[string]wish{}
	for i := range 3 {
		wishes[r.user.create(demoServer(fmt.Sprintf("live %d", i))).ID] = running
	}
	eventually(t, patience, "the servers run", func() error { return r.settled(wishes) })
	for i := range rounds {
		was, err := r.games()
		must(t, err)
		if i%2 == 0 {
			d.Stop(t)
		} else {
			d.Kill(t)
		}
		d.Start(t)
		eventually(t, patience, "the games run again", func() error {
			now, err := r.games()
			if err != nil {
				return err
			}
			for id := range wishes {
				if len(now[id]) != 1 || !now[id][0].running || now[id][0].startedAt == was[id][0].startedAt {
					return fmt.Errorf("server %s has %+v, had %+v", id, now[id], was[id])
				}
			}
			return r.settled(wishes)
		})
		for id := range wishes {
			if n := r.starts(id); n != i+2 {
				t.Errorf("server %s was started %d times in %d ends of dockerd, want %d", id, n, i+1, i+2)
			}
		}
	}
	for id := range wishes {
		r.quiet(id)
	}
	t.Logf("T03: %d ends of dockerd without live-restore: each of %d games started again exactly once, 0 crashes counted", rounds, len(wishes))
}

// starts counts how often a game has said that it is ready.
func (r *rig) starts(id string) (n int) {
	r.t.Helper()
	for _, l := range r.user.history(id) {
		if strings.HasPrefix(l.Text, "Ready: listening") {
			n++
		}
	}
	return n
}
