package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Of the kills of panel instances.
const (
	salvo     = 40 * time.Millisecond  // in which an instance is asked for everything; the kill comes within twice as long
	restAfter = 4 * time.Second        // a killed instance is started again within this
	calmer    = 500 * time.Millisecond // a kill comes within this after the servers are ready for more
	busy      = 2                      // servers that are not ready for more when the next kill comes, at the most
	lookAgain = 100 * time.Millisecond // between two looks at a server
	missed    = 100                    // hours of audit.heads that a new leader of the clock has to make up for
)

// command is one thing that was asked and taken.
type command struct{ server, job string }

// killing is servers that are created and stopped while instances are killed.
type killing struct {
	*street
	kills, servers int
	viewers        []*viewer

	mu       sync.Mutex
	made     map[string]string    // server by name; guarded by mu
	taken    map[string][]command // by server; guarded by mu
	replayed int                  // commands whose first answer was lost; guarded by mu
	open     int                  // servers on their way; guarded by mu
	holding  int                  // of them: those that wait for the next kill with what they want; guarded by mu
	gate     chan struct{}        // closed when the next kill comes; nil once there is none; guarded by mu
	faults   []error              // guarded by mu
}

// Three panels boot together on an empty database, and are killed while servers are created, started and
// stopped: nothing is lost and nothing happens twice.
func TestPanelsAreKilledWhileServersAreMade(t *testing.T) {
	t.Parallel()
	k := &killing{kills: 6, servers: 15, made: map[string]string{}, taken: map[string][]command{}, gate: make(chan struct{})}
	if nightly() {
		k.kills, k.servers = 20, 50
	}
	k.street = newStreet(t, chance(t), 3, 2*k.servers)
	began := time.Now()
	ctx, leave := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	defer watching.Wait()
	defer leave()
	for range 3 {
		v := &viewer{s: k.street, picture: map[string]row{}}
		k.viewers = append(k.viewers, v)
		watching.Go(func() { v.watch(ctx) })
	}
	leaders := k.storm()
	took := time.Since(began)
	k.mu.Lock()
	faults := k.faults
	k.mu.Unlock()
	for _, err := range faults {
		t.Error(err)
	}
	if t.Failed() {
		t.FailNow()
	}
	k.settles()
	k.commandsHappenedOnce()
	k.jobsEndedOnce()
	ticks := k.ticksAreWhole(began)
	k.booksAreWhole()
	k.viewersFollow()
	if !t.Failed() {
		k.report(took, leaders, ticks)
	}
}

// storm kills and returns how many of the killed led the clock. It ends when every server is where it was
// asked to be and every instance is back.
func (k *killing) storm() (leaders int) {
	k.t.Helper()
	var lives, revivals sync.WaitGroup
	defer func() { // also when the test has failed
		k.fire(true)
		lives.Wait()
		revivals.Wait()
	}()
	for n := range k.kills {
		eventually(k.t, 2*patience, "the servers are ready for more", k.ready)
		pause(k.t.Context(), k.within(calmer))
		victim, leads := k.victim()
		if leads && k.setClockBack() {
			leaders++
		}
		k.aim(k.panels[victim])
		for i := n * k.servers / k.kills; i < (n+1)*k.servers/k.kills; i++ {
			k.note(func() { k.open++ })
			lives.Go(func() {
				pause(k.t.Context(), k.within(salvo))
				err := k.life(fmt.Sprintf("server %d", i))
				k.note(func() {
					if k.open--; err != nil {
						k.faults = append(k.faults, err)
					}
				})
			})
		}
		k.fire(false)
		pause(k.t.Context(), k.within(2*salvo))
		k.killPanel(victim)
		at(&revivals, k.within(restAfter), func() {
			if err := k.revivePanel(victim); err != nil {
				k.note(func() { k.faults = append(k.faults, err) })
			}
		})
	}
	return leaders
}

// fire lets everybody ask what he holds back, and nobody hold anything back after the last kill.
func (k *killing) fire(last bool) {
	k.note(func() {
		close(k.gate)
		if k.gate = make(chan struct{}); last {
			k.gate = nil
		}
	})
}

// hold waits for the next kill, three times of four, so that what is asked then falls into it.
func (k *killing) hold() {
	var gate chan struct{}
	free := k.chance(4) == 0
	k.note(func() {
		if gate = k.gate; gate != nil && !free {
			k.holding++
		}
	})
	if gate == nil || free {
		return
	}
	select {
	case <-gate:
	case <-k.t.Context().Done():
	}
	k.note(func() { k.holding-- })
	pause(k.t.Context(), k.within(salvo))
}

func (k *killing) note(fn func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	fn()
}

// ready returns nil when the next kill may come.
func (k *killing) ready() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if n := k.open - k.holding; n > busy && len(k.faults) == 0 {
		return fmt.Errorf("%d are not", n)
	}
	return nil
}

// victim chooses an instance that answers, in every second case the one that leads the clock, and never
// the last one.
func (k *killing) victim() (i int, leads bool) {
	k.t.Helper()
	var living []*panel
	eventually(k.t, patience, "a second instance answers", func() error {
		if living = k.living(); len(living) < 2 {
			return errStill("only one does")
		}
		return nil
	})
	leader := k.leader()
	v := living[k.chance(len(living))]
	if k.chance(2) == 0 && slices.Contains(living, leader) {
		v = leader
	}
	return slices.Index(k.panels, v), v == leader
}

// leader is the instance that leads the clock; nil while none does.
func (s *street) leader() *panel {
	for _, address := range s.column(`SELECT i.address FROM leaders l JOIN panel_instances i ON i.id = l.instance WHERE l.task = 'cron'`) {
		for _, p := range s.panels {
			if p.node == address {
				return p
			}
		}
	}
	return nil
}

// setClockBack makes it look as if nobody had been there for the last hours: every run of audit.heads is
// moved into the past, so that whoever leads next has to catch up on the ticks in between. Not while
// somebody does so: what he writes then would be no sequence.
func (k *killing) setClockBack() bool {
	k.t.Helper()
	last := k.column(`SELECT max(scheduled_at) FROM cron_runs WHERE name = 'audit.heads'`)
	if soon := time.Now().Add(5 * time.Second).UTC(); k.hour(last[0]).Add(time.Hour).Before(soon) {
		return false
	}
	tx, err := k.db.Begin(k.t.Context())
	must(k.t, err)
	for _, sql := range []string{ // by another name, since the index on name and time is asked after each row
		fmt.Sprintf(`UPDATE cron_runs SET name = 'moved', scheduled_at = to_char(replace(scheduled_at, 'Z', '')::timestamp - interval '%d hours', 'YYYY-MM-DD HH24:MI:SS.MS') || 'Z' WHERE name = 'audit.heads'`, missed),
		`UPDATE cron_runs SET name = 'audit.heads' WHERE name = 'moved'`,
	} {
		_, err := tx.Exec(k.t.Context(), sql)
		must(k.t, err)
	}
	must(k.t, tx.Commit(k.t.Context()))
	return true
}

func (k *killing) hour(stamp string) time.Time {
	k.t.Helper()
	at, err := time.Parse("2006-01-02 15:04:05.999Z", stamp)
	must(k.t, err)
	return at.Truncate(time.Hour)
}

// life is one server: created, stopped, started and stopped again.
func (k *killing) life(name string) error {
	id, err := k.command("POST", "/api/v1/servers", demoServer(name), name)
	if err != nil {
		return err
	}
	k.note(func() { k.made[name] = id })
	for i, act := range []string{"stop", "start", "stop"} {
		if err := k.becomes(id, map[string]string{"stop": "RUNNING", "start": "STOPPED"}[act]); err != nil {
			return fmt.Errorf("%s before %s %d: %w", name, act, i, err)
		}
		k.hold()
		if err := k.asked(id, act, fmt.Sprintf("%s %s %d", name, act, i)); err != nil {
			return err
		}
	}
	return k.becomes(id, "STOPPED")
}

func (k *killing) asked(id, act, key string) error {
	_, err := k.command("POST", "/api/v1/servers/"+id+"/actions", map[string]string{"action": act}, key)
	return err
}

// command asks until it is answered, and once more: that has to be the same answer.
func (k *killing) command(method, path string, body any, key string) (server string, err error) {
	key = strings.ReplaceAll(key, " ", "-")
	var kept command
	for i := range 2 {
		a, err := k.ask(method, path, body, key)
		if err != nil {
			return "", err
		}
		if a.status != http.StatusAccepted {
			return "", fmt.Errorf("%s %s (%s): %d %s", method, path, key, a.status, a.raw)
		}
		var out struct {
			Server struct{ ID string }
			Job    struct{ ID string }
		}
		a.into(k.t, &out)
		again := a.header.Get("Idempotency-Replayed") == "true"
		switch now := (command{out.Server.ID, out.Job.ID}); {
		case i == 0:
			kept = now
			k.note(func() {
				k.taken[kept.server] = append(k.taken[kept.server], kept)
				if again {
					k.replayed++
				}
			})
		case !again || now != kept:
			return "", fmt.Errorf("%s %s (%s) was answered with %+v and again with %+v", method, path, key, kept, now)
		}
	}
	return kept.server, nil
}

// becomes waits for a phase, asking any instance.
func (k *killing) becomes(id, phase string) error {
	var s server
	for began := time.Now(); time.Since(began) < patience; pause(k.t.Context(), lookAgain) {
		a, err := k.ask("GET", "/api/v1/servers/"+id, nil, "")
		if err != nil {
			return err
		}
		if a.status != http.StatusOK {
			return fmt.Errorf("server %s: %d %s", id, a.status, a.raw)
		}
		a.into(k.t, &s)
		if s.Status == phase {
			return nil
		}
	}
	return fmt.Errorf("server %s is %s (%+v) and not %s", id, s.Status, s.Problem, phase)
}

// settles waits until every server is stopped, for the panels and on the engine, and nothing is held by nobody.
func (k *killing) settles() {
	k.t.Helper()
	wishes := map[string]wish{}
	for _, id := range k.made {
		wishes[id] = stopped
	}
	if len(wishes) != k.servers {
		k.t.Fatalf("%d servers were made, want %d", len(wishes), k.servers)
	}
	eventually(k.t, patience, "every server is stopped", func() error { return k.settled(wishes) })
	k.none("ports that two servers hold", `SELECT h.node || ' ' || (p->>'host_ip') || ':' || (p->>'host_port') || ' ' || (p->>'protocol')
		FROM allocations h, jsonb_array_elements(h.ports::text::jsonb) p WHERE h.status = 'ACTIVE'
		GROUP BY h.node, p->>'host_ip', p->>'host_port', p->>'protocol' HAVING count(*) > 1`)
	held := k.column(`SELECT count(*)::text FROM port_pools WHERE is_allocated != 0`)
	named := k.column(`SELECT count(*)::text FROM allocations h, jsonb_array_elements(h.ports::text::jsonb) p WHERE h.status = 'ACTIVE'`)
	if held[0] != named[0] || held[0] == "0" {
		k.t.Errorf("%s ports are held, the allocations name %s", held[0], named[0])
	}
}

// commandsHappenedOnce compares what was answered with what was done: each command is one generation, one
// job, one event and one row of the audit log, each start is one start of the game.
func (k *killing) commandsHappenedOnce() {
	k.t.Helper()
	k.none("servers of one name", `SELECT name FROM servers GROUP BY name HAVING count(*) > 1`)
	for name, id := range k.made {
		if got := k.column(`SELECT id FROM servers WHERE name = $1`, name); !slices.Equal(got, []string{id}) {
			k.t.Errorf("%s was answered as %s and is %v", name, id, got)
		}
		var jobs []string
		for _, c := range k.taken[id] {
			jobs = append(jobs, c.job)
		}
		slices.Sort(jobs)
		if got := k.column(`SELECT id FROM jobs WHERE subject = $1 ORDER BY id COLLATE "C"`, id); !slices.Equal(got, jobs) {
			k.t.Errorf("%s has the jobs %v, answered were %v", name, got, jobs)
		}
		want := strconv.Itoa(len(jobs))
		for what, sql := range map[string]string{
			"generations":           `SELECT generation::bigint::text FROM servers WHERE id = $1`,
			"events of commands":    `SELECT count(*)::text FROM events WHERE subject = $1 AND kind IN ('server.create', 'server.start', 'server.stop')`,
			"rows of the audit log": `SELECT count(*)::text FROM audit_logs WHERE resource = $1 AND action IN ('server.create', 'server.start', 'server.stop')`,
		} {
			if got := k.column(sql, id); !slices.Equal(got, []string{want}) {
				k.t.Errorf("%s has %v %s, want %s", name, got, what, want)
			}
		}
		if n := k.starts(id); n != 2 {
			k.t.Errorf("the game of %s was started %d times, want twice", name, n)
		}
	}
}

// jobsEndedOnce looks at every job of the installation.
func (k *killing) jobsEndedOnce() {
	k.t.Helper()
	eventually(k.t, patience, "every job has ended", func() error { // a moment after its server is where it should be
		if left := k.column(`SELECT kind || ' ' || id || ' ' || state FROM jobs WHERE state IN ('ready', 'running', 'waiting')`); len(left) > 0 {
			return fmt.Errorf("not %v", left)
		}
		return nil
	})
	k.none("jobs that are not done", `SELECT kind || ' ' || id || ' ' || state || ': ' || last_error FROM jobs WHERE state NOT IN ('done', 'superseded') OR finished_at = ''`)
	k.none("jobs that were begun again without a reason", `SELECT kind || ' ' || id || ' ' || attempt || ' times: ' || coalesce(history::text, '') FROM jobs
		WHERE attempt > 1 + CASE WHEN history::text LIKE '[%' THEN jsonb_array_length(history::text::jsonb) ELSE 0 END`)
	k.none("jobs of one unique key", `SELECT unique_key FROM jobs WHERE unique_key != '' GROUP BY unique_key HAVING count(*) > 1`)
	k.none("steps that were stored twice", `SELECT job || ' ' || name FROM job_steps GROUP BY job, name HAVING count(*) > 1`)
	k.none("incidents", `SELECT kind || ': ' || title FROM incidents WHERE status = 'OPEN'`)
}

// ticksAreWhole fails when a tick of the clock is missing or there twice. It returns how many there are.
func (k *killing) ticksAreWhole(began time.Time) (n int) {
	k.t.Helper()
	k.none("ticks that are there twice", `SELECT name || ' ' || scheduled_at FROM cron_runs GROUP BY name, scheduled_at HAVING count(*) > 1`)
	eventually(k.t, patience, "audit.heads has caught up", func() error {
		ticks := k.column(`SELECT scheduled_at FROM cron_runs WHERE name = 'audit.heads' ORDER BY scheduled_at`)
		for i, tick := range ticks[1:] {
			if want := k.hour(ticks[i]).Add(time.Hour); !k.hour(tick).Equal(want) {
				return fmt.Errorf("after the tick %s comes %s", ticks[i], tick)
			}
		}
		if last := k.hour(ticks[len(ticks)-1]); last.Add(time.Hour).Before(time.Now()) {
			return fmt.Errorf("the last tick is %s", last)
		}
		n = len(ticks)
		return nil
	})
	const quarter = 15 * time.Minute
	for due := began.UTC().Truncate(quarter).Add(quarter); due.Before(time.Now()); due = due.Add(quarter) {
		eventually(k.t, patience, "alloc.leaks ran at "+due.String(), func() error {
			if len(k.column(`SELECT name FROM cron_runs WHERE name = 'alloc.leaks' AND scheduled_at = $1`, due.Format("2006-01-02 15:04:05.000Z"))) != 1 {
				return errStill("was missed")
			}
			return nil
		})
		n++
	}
	return n
}

// booksAreWhole looks at what has to be without a hole, and at who lives.
func (k *killing) booksAreWhole() {
	k.t.Helper()
	k.none("events that are out of number", `SELECT seq::text FROM (SELECT seq::bigint AS seq, row_number() OVER (ORDER BY seq) AS n FROM events) e WHERE seq != n`)
	eventually(k.t, patience, "every event was handed to its listeners", func() error {
		if left := k.column(`SELECT kind FROM events WHERE delivered = 0`); len(left) > 0 {
			return fmt.Errorf("%d were not", len(left))
		}
		return nil
	})
	k.none("audit chains with a hole or a fork", `SELECT tenant || ': ' || count(*) || ' rows up to ' || max(seq::bigint) FROM audit_logs GROUP BY tenant
		HAVING count(*) != max(seq::bigint) OR count(DISTINCT seq) != count(*) OR count(DISTINCT prev) != count(*)`)
	eventually(k.t, patience, "the dead are off the list and the living lead", func() error {
		listed := k.column(`SELECT id FROM panel_instances`)
		led := k.column(`SELECT task FROM leaders WHERE instance IN (SELECT id FROM panel_instances)`)
		if len(listed) != len(k.panels) || len(led) != 2 {
			return fmt.Errorf("%d instances are listed, they lead %v", len(listed), led)
		}
		return nil
	})
}

// viewersFollow compares what browsers show with what every instance answers, and then has them follow
// two more servers without fetching.
func (k *killing) viewersFollow() {
	k.t.Helper()
	same := func() error {
		for _, p := range k.panels {
			list, err := k.list(p)
			if err != nil {
				return err
			}
			for _, v := range k.viewers {
				if err := v.sees(list); err != nil {
					return fmt.Errorf("compared with %s: %w", p.url, err)
				}
			}
		}
		return nil
	}
	eventually(k.t, patience, "browsers show the truth", same)
	var fetched []int
	for _, v := range k.viewers {
		_, n, _ := v.counts()
		fetched = append(fetched, n)
	}
	for _, act := range []string{"start", "stop"} {
		for i := range 2 {
			must(k.t, k.asked(k.made[fmt.Sprintf("server %d", i)], act, fmt.Sprintf("after all %s %d", act, i)))
		}
		for i := range 2 {
			must(k.t, k.becomes(k.made[fmt.Sprintf("server %d", i)], map[string]string{"start": "RUNNING", "stop": "STOPPED"}[act]))
		}
	}
	eventually(k.t, patience, "browsers follow", same)
	for i, v := range k.viewers {
		if _, n, applied := v.counts(); n != fetched[i] || applied == 0 {
			k.t.Errorf("a browser had to fetch %d times while nobody was killed, and applied %d messages", n-fetched[i], applied)
		}
	}
}

func (k *killing) report(took time.Duration, leaders, ticks int) {
	k.t.Helper()
	commands, connects, applied := 0, 0, 0
	for _, of := range k.taken {
		commands += len(of)
	}
	for _, v := range k.viewers {
		c, _, a := v.counts()
		connects, applied = connects+c, applied+a
	}
	again := k.column(`SELECT count(*)::text FROM jobs WHERE attempt > 1`)
	events := k.column(`SELECT count(*)::text FROM events`)
	k.t.Logf("%d kills of 3 instances in %s (%d led the clock, which then had %d hours to make up for), %d servers, %d commands: each happened once. "+
		"%d tries had no answer, %d answers were lost and given again, the slowest command was answered after %s, %s jobs were begun more than once. "+
		"0 jobs lost, dead or doubled, 0 ports leaked or doubled, %d ticks without a hole, %s events without a hole, %d connections of 3 browsers, %d messages applied, the same picture at the end",
		k.kills, took.Round(time.Second), leaders, missed, k.servers, commands, k.tries, k.replayed, k.longs.Round(10*time.Millisecond), again[0], ticks, events[0], connects, applied)
}
