package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
)

// viewer is a browser with the list of servers open. It does what pb_public/src/stores/live.ts does: it
// applies messages that are newer than what it has, and fetches anew after each connect and each resync.
type viewer struct {
	s *street

	mu       sync.Mutex
	picture  map[string]row // by server; guarded by mu
	fresh    bool           // connected, and has fetched since; guarded by mu
	connects int            // guarded by mu
	fetches  int            // guarded by mu
	applied  int            // messages that were newer; guarded by mu
}

// row is what a list shows of a server.
type row struct {
	Status string
	Rev    int64
}

// watch connects to any instance until ctx ends, again and again.
func (v *viewer) watch(ctx context.Context) {
	for ctx.Err() == nil {
		_ = v.session(ctx) // it ends with its instance; the next one finds out what was missed
		v.mu.Lock()
		v.fresh = false
		v.mu.Unlock()
		pause(ctx, tryAgain)
	}
}

// session is one connection. What it is subscribed through may be another instance than the one that holds it.
func (v *viewer) session(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, v.s.any().url+"/api/realtime", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	stream := bufio.NewReader(resp.Body)
	var hello struct{ ClientID string }
	if err := next(stream, &hello); err != nil {
		return err
	}
	a, err := v.s.as(v.s.any()).try("POST", "/api/realtime", map[string]any{"clientId": hello.ClientID, "subscriptions": []string{"mamba.tenant." + v.s.user.tenant}})
	if err != nil || a.status != http.StatusNoContent {
		return fmt.Errorf("subscribe: %d %s %w", a.status, a.raw, err)
	}
	if err := v.fetch(); err != nil {
		return err
	}
	v.mu.Lock()
	v.connects++
	v.fresh = true
	v.mu.Unlock()
	for {
		var m struct {
			Type string
			ID   string
			Rev  int64
			Data struct{ Status string }
		}
		if err := next(stream, &m); err != nil {
			return err
		}
		switch m.Type {
		case "server":
			v.apply(m.ID, row{m.Data.Status, m.Rev}, true)
		case "resync":
			if err := v.fetch(); err != nil {
				return err
			}
		}
	}
}

// next reads the data of the next event of a stream.
func next(stream *bufio.Reader, into any) error {
	for {
		line, err := stream.ReadBytes('\n')
		if err != nil {
			return err
		}
		if data, ok := bytes.CutPrefix(line, []byte("data:")); ok {
			return json.Unmarshal(data, into)
		}
	}
}

func (v *viewer) apply(id string, r row, live bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.picture[id].Rev >= r.Rev {
		return
	}
	v.picture[id] = r
	if live {
		v.applied++
	}
}

func (v *viewer) fetch() error {
	list, err := v.s.list(v.s.any())
	if err != nil {
		return err
	}
	for id, r := range list {
		v.apply(id, r, false)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.fetches++
	return nil
}

// list is what an instance shows of the organisation's servers.
func (s *street) list(p *panel) (map[string]row, error) {
	var list struct{ Items []server }
	a, err := s.as(p).try("GET", "/api/v1/servers?per_page=200", nil)
	if err == nil && a.status != http.StatusOK {
		err = fmt.Errorf("GET servers: %d %s", a.status, a.raw)
	}
	if err == nil {
		err = json.Unmarshal(a.raw, &list)
	}
	if err != nil {
		return nil, err
	}
	out := map[string]row{}
	for _, s := range list.Items {
		out[s.ID] = row{s.Status, s.Rev}
	}
	return out, nil
}

// sees returns nil when the viewer is connected and has the same picture as a list.
func (v *viewer) sees(list map[string]row) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.fresh {
		return fmt.Errorf("a viewer is not connected")
	}
	if maps.Equal(v.picture, list) {
		return nil
	}
	var differ []string
	for id, r := range list {
		if v.picture[id] != r {
			differ = append(differ, fmt.Sprintf("%s is %+v and is shown as %+v", id, r, v.picture[id]))
		}
	}
	return fmt.Errorf("a viewer shows %d servers of %d: %s", len(v.picture), len(list), strings.Join(differ, "; "))
}

func (v *viewer) counts() (connects, fetches, applied int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.connects, v.fetches, v.applied
}
