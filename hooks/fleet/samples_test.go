package fleet

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/mambahost/mamba/wings/wire"
)

// samples stands for the metering room: it keeps what it is given.
type samples struct {
	mu    sync.Mutex
	taken []wire.SampleBatch
	nodes []string
	err   error
}

func (s *samples) Take(_ context.Context, node string, b wire.SampleBatch) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, s.err
	}
	s.taken, s.nodes = append(s.taken, b), append(s.nodes, node)
	return int64(len(b.Samples)), nil
}

func zipped(t *testing.T, v any) []byte {
	t.Helper()
	raw, ok := v.([]byte)
	if !ok {
		var err error
		if raw, err = json.Marshal(v); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write(raw)
	_ = w.Close()
	return out.Bytes()
}

func TestSamplesOfANodeAreTakenAsItsOwn(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	n := p.enrolNode(t, "one")
	other := p.enrolNode(t, "two")
	batch := wire.SampleBatch{SpoolID: "s", Samples: []wire.Sample{{Seq: 1, ServerID: "server000000001", PlacementEpoch: 1}}, DeliveredUnixS: 90}
	bomb := zipped(t, make([]byte, wire.MaxSampleBatchBytes*4))
	many := wire.SampleBatch{SpoolID: "s", Samples: make([]wire.Sample, wire.MaxSamplesPerBatch+1)}
	for _, c := range []struct {
		name     string
		node     string
		body     []byte
		encoding string
		broken   error
		status   int
		has      string
	}{
		{"a batch", n.id, zipped(t, batch), "gzip", nil, 200, `"acked_seq":1`},
		{"one without compression", n.id, []byte(`{"spool_id":"s","samples":[]}`), "", nil, 200, `"acked_seq":0`},
		{"one of a newer node", n.id, zipped(t, []byte(`{"spool_id":"s","of_version_2":1}`)), "gzip", nil, 200, `"panel_clock"`},
		{"for another node", other.id, zipped(t, batch), "gzip", nil, 403, "other_node"},
		{"without a spool", n.id, zipped(t, wire.SampleBatch{}), "gzip", nil, 400, "batch_invalid"},
		{"with too many samples", n.id, zipped(t, many), "gzip", nil, 400, "batch_invalid"},
		{"a bomb", n.id, bomb, "gzip", nil, 413, "too_large"},
		{"too large as it comes", n.id, bytes.Repeat([]byte("x"), maxSampleBody+1), "", nil, 413, "too_large"},
		{"what is not compressed", n.id, []byte(`{}`), "gzip", nil, 400, "invalid"},
		{"half of one", n.id, zipped(t, batch)[:30], "gzip", nil, 400, "invalid"},
		{"not JSON", n.id, zipped(t, []byte("spool_id: s")), "gzip", nil, 400, "invalid"},
		{"another compression", n.id, zipped(t, batch), "br", nil, 415, "invalid"},
		{"while the store fails", n.id, zipped(t, batch), "gzip", errors.New("disk full at /srv/panel"), 503, "unavailable"},
	} {
		p.taken.mu.Lock()
		p.taken.err = c.broken
		before := len(p.taken.taken)
		p.taken.mu.Unlock()
		status, body := n.send(t, p, c.node, c.body, c.encoding)
		if status != c.status || !strings.Contains(body, c.has) || strings.Contains(body, "/srv") {
			t.Errorf("%s: %d %s", c.name, status, body)
		}
		p.taken.mu.Lock()
		if took := len(p.taken.taken) > before; took != (c.status == 200) {
			t.Errorf("%s: taken %t", c.name, took)
		}
		for _, by := range p.taken.nodes {
			if by != n.id {
				t.Errorf("%s: taken as node %s", c.name, by)
			}
		}
		p.taken.mu.Unlock()
	}
}

// send posts a raw body as the node's metrics with this certificate.
func (m member) send(t *testing.T, p *panel, node string, body []byte, encoding string) (status int, answer string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+p.Addr()+"/v1/nodes/"+node+"/metrics", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if encoding != "" {
		req.Header.Set("Content-Encoding", encoding)
	}
	res, err := p.client(&m.cert).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(raw)
}

// What the daemon's own link sends is what the listener takes.
func TestTheLinksSamplesArrive(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	w := p.joinWings(t, "one", syncing())
	if err := w.Record([]wire.Sample{{ServerID: "server000000001", PlacementEpoch: 1, WindowUnixS: 60}}, 90); err != nil {
		t.Fatal(err)
	}
	w.Start(t.Context(), w.handler)
	eventually(t, "the batch is taken", func() bool { p.taken.mu.Lock(); defer p.taken.mu.Unlock(); return len(p.taken.taken) > 0 })
	p.taken.mu.Lock()
	defer p.taken.mu.Unlock()
	if b := p.taken.taken[0]; len(b.Samples) != 1 || b.Samples[0].Seq != 1 || b.DeliveredUnixS != 90 || b.SpoolID == "" {
		t.Errorf("%+v", b)
	}
}
