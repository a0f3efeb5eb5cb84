package ops

import (
	"context"
	"net/http"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
)

// Bounds of what still counts as well.
const (
	statusTimeout = 2 * time.Second // of all that is asked for one answer
	queueLate     = time.Minute     // a due job that waits longer for a worker
)

// State of a part of the installation.
type State string

// States. A part that is down takes the whole with it; one that is degraded does not.
const (
	StateOK       State = "ok"
	StateDegraded State = "degraded"
	StateDown     State = "down"
)

// Status is what everybody may know of how the installation is. It holds no name and no address.
type Status struct {
	Status   State          `json:"status"`
	Database DatabaseStatus `json:"database"`
	Queue    QueueStatus    `json:"queue"`
	Nodes    NodesStatus    `json:"nodes"`
	At       time.Time      `json:"at"`
}

// DatabaseStatus says which database this instance is on and how fast it answers.
type DatabaseStatus struct {
	Status State  `json:"status"`
	Kind   string `json:"kind"` // SQLite or PostgreSQL
	MS     int64  `json:"ms"`   // of one small query
}

// QueueStatus says whether background work gets done.
type QueueStatus struct {
	Status   State `json:"status"`
	Ready    int   `json:"ready"`     // due or to come
	OldestMS int64 `json:"oldest_ms"` // how long the oldest due job has been waiting
}

// NodesStatus counts the machines that run games.
type NodesStatus struct {
	Status  State `json:"status"`
	Online  int   `json:"online"`
	Offline int   `json:"offline"` // silent, not in maintenance, and has joined once
}

// status answers GET status: 200 while this instance can serve customers, else 503, so that a load
// balancer may go by it.
func (o *Ops) status(e *core.RequestEvent) error {
	ctx, cancel := context.WithTimeout(e.Request.Context(), statusTimeout)
	defer cancel()
	s := o.look(ctx, e.App)
	code := http.StatusOK
	if s.Status == StateDown {
		code = http.StatusServiceUnavailable
	}
	e.Response.Header().Set("Cache-Control", "no-store")
	return e.JSON(code, s)
}

// look asks each part; a part that cannot be asked is down.
func (o *Ops) look(ctx context.Context, app core.App) Status {
	s := Status{Status: StateOK, At: time.Now().UTC(), Database: DatabaseStatus{Status: StateOK, Kind: o.database}}
	began := time.Now()
	var one int
	if err := app.DB().NewQuery("SELECT 1").WithContext(ctx).Row(&one); err != nil {
		return Status{Status: StateDown, At: s.At, Database: DatabaseStatus{Status: StateDown, Kind: o.database},
			Queue: QueueStatus{Status: StateDown}, Nodes: NodesStatus{Status: StateDown}}
	}
	s.Database.MS = time.Since(began).Milliseconds()
	s.Queue = o.queueStatus(app)
	s.Nodes = nodesStatus(ctx, app)
	if s.Queue.Status != StateOK || s.Nodes.Status != StateOK {
		s.Status = StateDegraded
	}
	return s
}

func (o *Ops) queueStatus(app core.App) QueueStatus {
	h, err := o.jobs.Health(app)
	if err != nil {
		return QueueStatus{Status: StateDown}
	}
	q := QueueStatus{Status: StateOK, Ready: h.States["ready"], OldestMS: h.OldestReady.Milliseconds()}
	if h.OldestReady > queueLate {
		q.Status = StateDegraded
	}
	return q
}

func nodesStatus(ctx context.Context, app core.App) NodesStatus {
	var rows []struct {
		Status string `db:"status"`
		Mode   string `db:"mode"`
		N      int    `db:"n"`
	}
	err := app.DB().Select("status", "mode", "COUNT(*) AS n").From(collections.Nodes).
		Where(dbx.NewExp("[[enrolled_at]] != ''")).GroupBy("status", "mode").WithContext(ctx).All(&rows)
	if err != nil {
		return NodesStatus{Status: StateDown}
	}
	n := NodesStatus{Status: StateOK}
	for _, r := range rows {
		switch {
		case r.Status != "OFFLINE":
			n.Online += r.N
		case r.Mode != "MAINTENANCE":
			n.Offline += r.N
		}
	}
	if n.Offline > 0 {
		n.Status = StateDegraded
	}
	return n
}
