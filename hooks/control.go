package hooks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/jobs"
)

// The control socket lets commands on the panel's machine ask the panel that runs to do their work: a
// second process that writes a SQLite file would make the panel's own transactions fail. It is a file
// that only the panel's user may open; there is no other check.

// Bounds of the control socket.
const (
	controlBody  = 4 << 10
	controlEvery = 200 * time.Millisecond // between looks at a job
)

// controlFolder is private to the panel's user and beside the data folder, so that no backup meets a socket.
func controlFolder(app core.App) string {
	return filepath.Clean(app.DataDir()) + ".control"
}

// controlPath names the socket by way of its open folder: the path of a socket has 107 characters at
// most. The folder must stay open while the path is used.
func controlPath(app core.App, make bool) (path string, folder *os.File, err error) {
	dir := controlFolder(app)
	if make {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return "", nil, fmt.Errorf("make the folder of the control socket: %w", err)
		}
	}
	if folder, err = os.Open(dir); err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/panel.sock", folder.Fd()), folder, nil
}

// dialControl connects to the panel that runs on this data folder. fs.ErrNotExist when none does.
func dialControl(ctx context.Context, app core.App) (net.Conn, error) {
	path, folder, err := controlPath(app, false)
	if err != nil {
		return nil, fs.ErrNotExist
	}
	defer folder.Close()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fs.ErrNotExist // no file, or one that a killed panel left
	}
	return conn, nil
}

// startControl listens until ctx ends.
func (p *Panel) startControl(ctx context.Context) error {
	if conn, err := dialControl(ctx, p.app); err == nil {
		conn.Close()
		p.log.Warn("another panel runs on this data folder; commands talk to that one", "folder", p.app.DataDir())
		return nil
	}
	path, folder, err := controlPath(p.app, true)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		folder.Close()
		return fmt.Errorf("remove the control socket of a panel that is gone: %w", err)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		folder.Close()
		return fmt.Errorf("listen for commands of this machine: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/keys/rotate", p.controlRotate) // both take a JSON body, and there is no browser here
	mux.HandleFunc("/ca", p.controlAuthority)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	p.work.Go(func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			p.log.Error("the control socket ended", "error", err)
		}
	})
	p.work.Go(func() {
		<-ctx.Done()
		_ = server.Close() // what it was asked goes on as a job
		_ = os.Remove(path)
		folder.Close()
	})
	return nil
}

// progressLine is one line of an answer of the control socket.
type progressLine struct {
	Step    string          `json:"step,omitempty"`
	Percent int             `json:"percent,omitempty"`
	Done    bool            `json:"done,omitempty"`
	Error   string          `json:"error,omitempty"`
	Result  json.RawMessage `json:"result,omitempty"`
}

// controlAuthority works on the certificate authority.
func (p *Panel) controlAuthority(w http.ResponseWriter, r *http.Request) {
	var in authorityRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, controlBody)).Decode(&in); err != nil {
		http.Error(w, "not the JSON that is expected here", http.StatusBadRequest)
		return
	}
	line := progressLine{Done: true}
	out, err := in.work(p.Fleet)
	if err == nil {
		line.Result, err = json.Marshal(out)
	}
	if err != nil {
		line.Error = err.Error()
	}
	_ = json.NewEncoder(w).Encode(line) // the command may be gone
}

// controlRotate starts the job, or joins the one that runs, and tells how it goes until it ends.
func (p *Panel) controlRotate(w http.ResponseWriter, r *http.Request) {
	var in rotateRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, controlBody)).Decode(&in); err != nil {
		http.Error(w, "not the JSON that is expected here", http.StatusBadRequest)
		return
	}
	id, err := p.Jobs.Enqueue(p.app, jobs.Job{Kind: rotateKind, UniqueKey: fmt.Sprint(rotateKind, ":", in.Master), GroupKey: rotateKind, Payload: in})
	if err != nil && !errors.Is(err, jobs.ErrDuplicate) {
		_ = json.NewEncoder(w).Encode(progressLine{Done: true, Error: err.Error()})
		return
	}
	out, tick := json.NewEncoder(w), time.NewTicker(controlEvery)
	defer tick.Stop()
	for {
		line, err := p.lineOf(id)
		if err != nil {
			line = progressLine{Done: true, Error: err.Error()}
		}
		if out.Encode(line) != nil || line.Done {
			return
		}
		_ = http.NewResponseController(w).Flush()
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
	}
}

func (p *Panel) lineOf(job string) (progressLine, error) {
	j, err := collections.FindJob(p.app, job)
	if err != nil {
		return progressLine{}, fmt.Errorf("read job %s: %w", job, err)
	}
	var line progressLine
	_ = j.Progress(&line) // none yet
	switch j.State() {
	case jobs.Done:
		line.Done = true
		_ = j.Result(&line.Result)
	case jobs.Dead, jobs.Cancelled, jobs.Superseded:
		line.Done, line.Error = true, fmt.Sprintf("job %s: %s: %s", job, j.State(), j.LastError())
	default:
		line.Error = j.LastError() // of an attempt that is made again
	}
	return line, nil
}

// askPanel posts to the panel that runs on this data folder and calls each for every line of its answer. ran is
// false when none runs.
func askPanel(ctx context.Context, app core.App, path string, in any, each func(progressLine)) (ran bool, err error) {
	conn, err := dialControl(ctx, app)
	if err != nil {
		return false, nil
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}}
	body, err := json.Marshal(in)
	if err != nil {
		return true, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://panel"+path, bytes.NewReader(body))
	if err != nil {
		return true, err
	}
	res, err := client.Do(req)
	if err != nil {
		return true, fmt.Errorf("ask the panel that runs: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return true, fmt.Errorf("the panel that runs answered %s; is it of another release?", res.Status)
	}
	for lines := json.NewDecoder(res.Body); ; {
		var line progressLine
		if err := lines.Decode(&line); err != nil {
			return true, fmt.Errorf("the panel went away; what it was asked goes on when it is back: %w", err)
		}
		if each(line); line.Done && line.Error != "" {
			return true, errors.New(line.Error)
		}
		if line.Done {
			return true, nil
		}
	}
}
