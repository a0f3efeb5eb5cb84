//go:build bench

package main

import (
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/wings/link"
	"github.com/mambahost/mamba/wings/wire"
)

// The load of one round: nodes that deliver at once, each with so many servers and windows.
const (
	ingestNodes   = 4
	ingestServers = wire.MaxSamplesPerBatch // of each node: a batch is a window
	ingestReach   = 0.45                    // of the floor
	ingestPerS    = 10_000
)

// benchIngest: batches of samples over mutual TLS into a durable store, beside raw inserts of the same
// rows with the same durability.
func benchIngest(t *testing.T, r *report, size sizes) {
	windows := max(2, size.messages)
	house := newPanel(t)
	members := ingestHouse(t, house)
	floor := newRawInserts(t)
	begin := time.Now().Unix()/30*30 - 5*24*3600
	round := 0
	p := alternate(*benchPairs, func() float64 {
		round++
		return perSecond(windows, timeOf(func() { floor.insert(t, begin, (round-1)*windows, windows) }))
	}, func() float64 {
		bodies := encodedWindows(t, members, begin, (round-1)*windows, windows)
		return perSecond(windows, timeOf(func() { deliverAll(t, members, bodies) }))
	})
	ratio := p.ratio()
	ours := medianOf(p.ours)
	r.row(fmt.Sprintf("Metrics ingest over mTLS, %d nodes with %d servers", ingestNodes, ingestServers),
		fmt.Sprintf("%.0f samples/s", medianOf(p.floor)), fmt.Sprintf("%.0f samples/s", ours), times(ratio),
		fmt.Sprintf("≥ %.2f ×, ≥ %d/s", ingestReach, ingestPerS), ratio.median >= ingestReach && ours >= ingestPerS)
	r.note("Metrics ingest: one batch is one window of 500 servers, compressed; the four nodes deliver at once, each its batches one after the other, and a batch counts when it is acknowledged. The floor inserts the same rows into a table of the same key with the same driver, 500 rows a statement and a transaction, WAL with full synchronisation.")
}

func perSecond(windows int, d time.Duration) float64 {
	return float64(ingestNodes*ingestServers*windows) / d.Seconds()
}

func timeOf(f func()) time.Duration {
	begun := time.Now()
	f()
	return time.Since(begun)
}

// ingestMember is a node as a load generator is one.
type ingestMember struct {
	id, url string
	client  *http.Client
	servers []string
	seq     int64
	windows int64 // that stream has delivered
}

// ingestHouse starts a panel with nodes that have joined and servers that are placed on them.
func ingestHouse(t *testing.T, house *panel) []*ingestMember {
	t.Helper()
	house.start()
	members := joinMembers(t, house)
	for n, m := range members {
		for i := range ingestServers {
			m.servers = append(m.servers, fmt.Sprintf("server%d%08d", n, i))
		}
	}
	house.stop()
	placeServers(t, house, members)
	house.start()
	return members
}

// joinMembers has nodes join a panel that runs.
func joinMembers(t *testing.T, house *panel) (members []*ingestMember) {
	t.Helper()
	root := house.super()
	for n := range ingestNodes {
		var node struct {
			ID   string
			Join struct{ Command string }
		}
		root.ok("POST", "/api/v1/admin/nodes", map[string]any{"name": fmt.Sprint("bench-", n), "public_addresses": []string{"127.0.0.1"},
			"cpu_millicores": 64_000, "memory_mib": 1 << 20, "disk_mib": 1 << 30}, &node)
		members = append(members, joinMember(t, house, node.ID, node.Join.Command))
	}
	return members
}

// stream delivers what all servers of the nodes use, batch by batch, spread over each half minute as nodes do, until the
// returned function is called. That one returns how many samples were acknowledged a second.
func stream(t *testing.T, members []*ingestMember, nodes string) (stop func() float64) {
	t.Helper()
	type part struct {
		m       *ingestMember
		servers []string
		last    bool // of its node's window
	}
	var parts []part
	for _, m := range members {
		m.url = "https://" + nodes + "/v1/nodes/" + m.id + "/metrics"
		for servers := range slices.Chunk(m.servers, ingestServers) {
			parts = append(parts, part{m: m, servers: servers})
		}
		parts[len(parts)-1].last = true
	}
	done, ended, taken := make(chan struct{}), make(chan struct{}), 0
	begun := time.Now()
	go func() { // ends with stop
		defer close(ended)
		tick := time.NewTicker(30 * time.Second / time.Duration(len(parts)))
		defer tick.Stop()
		begin := time.Now().Unix()/30*30 - 5*24*3600
		for i := 0; ; i++ {
			p := parts[i%len(parts)]
			body := p.m.batch(t, p.servers, begin+p.m.windows*30)
			if p.last {
				p.m.windows++
			}
			if acked := p.m.deliver(t, body); acked != p.m.seq {
				t.Errorf("node %s: acknowledged up to %d of %d", p.m.id, acked, p.m.seq)
				return
			}
			taken += len(p.servers)
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	}()
	return func() float64 {
		close(done)
		<-ended
		return float64(taken) / time.Since(begun).Seconds()
	}
}

// joinMember joins as `wings join` does and takes the identity for requests of its own.
func joinMember(t *testing.T, house *panel, id, command string) *ingestMember {
	t.Helper()
	dir := t.TempDir()
	words := strings.Fields(command)
	token := words[len(words)-1]
	for i, w := range words {
		if w == "--token" {
			token = words[i+1]
		}
	}
	_, err := link.Join(t.Context(), "https://"+house.node, token, dir, "bench")
	must(t, err)
	raw, err := os.ReadFile(filepath.Join(dir, "identity.json"))
	must(t, err)
	var identity struct{ Roots, Certificate, Key string }
	must(t, json.Unmarshal(raw, &identity))
	pair, err := tls.X509KeyPair([]byte(identity.Certificate), []byte(identity.Key))
	must(t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(identity.Roots))
	config := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: wire.PanelServerName, Certificates: []tls.Certificate{pair}}
	return &ingestMember{id: id, url: "https://" + house.node + "/v1/nodes/" + id + "/metrics", client: &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: config}}}
}

// placeServers writes the rows while the panel stands still.
func placeServers(t *testing.T, house *panel, members []*ingestMember) {
	t.Helper()
	db, err := core.DefaultDBConnect(filepath.Join(house.dir, "pb_data", "data.db"))
	must(t, err)
	must(t, db.Transactional(func(tx *dbx.Tx) error {
		for _, m := range members {
			for _, s := range m.servers {
				_, err := tx.Insert("servers", dbx.Params{"id": s, "tenant": "tenant000000001", "name": s, "node": m.id, "blueprint": "b", "blueprint_version": "v",
					"status": "STOPPED", "desired_state": "stopped", "placement_epoch": 1, "generation": 1, "install_status": "DONE", "rev": 1}).Execute()
				if err != nil {
					return err
				}
			}
		}
		return nil
	}))
	must(t, db.Close())
}

// ingestSample is what a server used in a window, as little alike as real ones.
func ingestSample(server string, window int64, n int) wire.Sample {
	x := int64(n)*7919 + window
	return wire.Sample{ServerID: server, PlacementEpoch: 1, WindowUnixS: window, RunningMS: 30_000, MeasuredMS: 30_000, CPUUsedNS: x * 1009 % 60_000_000_000,
		CPUReservedMillicoreMS: 60_000_000, MemoryUsedMiBMS: x * 31 % 60_000_000, MemoryReservedMiBMS: 61_440_000, DiskByteMS: x * 104_729 % (1 << 50),
		NetInBytes: x * 13 % (1 << 22), NetOutBytes: x * 17 % (1 << 24), MemoryLastBytes: x * 4096 % (1 << 31), DiskLastBytes: x * 4096 % (1 << 34)}
}

// encodedWindows are the requests of a round by node: made before the clock runs.
func encodedWindows(t *testing.T, members []*ingestMember, begin int64, from, count int) [][][]byte {
	t.Helper()
	out := make([][][]byte, len(members))
	for i, m := range members {
		for w := range count {
			out[i] = append(out[i], m.batch(t, m.servers, begin+int64(from+w)*30))
		}
	}
	return out
}

// batch is the request with which a node delivers a window of some of its servers.
func (m *ingestMember) batch(t *testing.T, servers []string, window int64) []byte {
	t.Helper()
	batch := wire.SampleBatch{SpoolID: "bench", DeliveredUnixS: window + 30, NodeClock: time.Now()}
	for n, server := range servers {
		s := ingestSample(server, window, n)
		m.seq++
		s.Seq = m.seq
		batch.Samples = append(batch.Samples, s)
	}
	raw, err := json.Marshal(batch)
	must(t, err)
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, err = z.Write(raw)
	must(t, err)
	must(t, z.Close())
	return zipped.Bytes()
}

// deliverAll sends every node's requests, the nodes at once, and counts acknowledged samples only.
func deliverAll(t *testing.T, members []*ingestMember, bodies [][][]byte) {
	t.Helper()
	var wg sync.WaitGroup
	for i, m := range members {
		wg.Go(func() {
			first := m.seq - int64(len(bodies[i])*ingestServers)
			for b, body := range bodies[i] {
				if acked := m.deliver(t, body); acked != first+int64((b+1)*ingestServers) {
					t.Errorf("node %s: acknowledged up to %d", m.id, acked)
					return
				}
			}
		})
	}
	wg.Wait()
}

func (m *ingestMember) deliver(t *testing.T, body []byte) int64 {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, m.url, bytes.NewReader(body))
	if err != nil {
		t.Error(err)
		return -1
	}
	req.Header.Set("Content-Encoding", "gzip")
	res, err := m.client.Do(req)
	if err != nil {
		t.Error(err)
		return -1
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	var ack wire.SampleAck
	if err != nil || res.StatusCode != http.StatusOK || json.Unmarshal(raw, &ack) != nil {
		t.Errorf("%d %s %v", res.StatusCode, raw, err)
		return -1
	}
	return ack.AckedSeq
}

// rawInserts is the floor.
type rawInserts struct {
	db     *sql.DB
	insert func(t *testing.T, begin int64, from, count int)
}

func newRawInserts(t *testing.T) *rawInserts {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "raw.db")+"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=cache_size(-16000)")
	must(t, err)
	t.Cleanup(func() { _ = db.Close() })
	db.SetMaxOpenConns(1)
	names := []string{"running_ms", "measured_ms", "cpu", "cpu_reserved", "memory", "memory_reserved", "disk", "net_in", "net_out", "memory_last", "disk_last"}
	_, err = db.Exec("CREATE TABLE samples (server INTEGER NOT NULL, window INTEGER NOT NULL, " + strings.Join(names, " INTEGER NOT NULL, ") + " INTEGER NOT NULL, PRIMARY KEY (server, window)) WITHOUT ROWID")
	must(t, err)
	one := "(?" + strings.Repeat(", ?", len(names)+1) + ")"
	stmt, err := db.Prepare("INSERT INTO samples VALUES " + one + strings.Repeat(", "+one, ingestServers-1))
	must(t, err)
	return &rawInserts{db: db, insert: func(t *testing.T, begin int64, from, count int) {
		for w := range count {
			for node := range ingestNodes {
				args := make([]any, 0, ingestServers*(len(names)+2))
				for n := range ingestServers {
					s := ingestSample("", begin+int64(from+w)*30, n)
					args = append(args, node*ingestServers+n, s.WindowUnixS, s.RunningMS, s.MeasuredMS, s.CPUUsedNS, s.CPUReservedMillicoreMS, s.MemoryUsedMiBMS,
						s.MemoryReservedMiBMS, s.DiskByteMS, s.NetInBytes, s.NetOutBytes, s.MemoryLastBytes, s.DiskLastBytes)
				}
				_, err := stmt.Exec(args...)
				must(t, err)
			}
		}
	}}
}
