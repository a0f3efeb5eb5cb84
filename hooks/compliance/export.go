package compliance

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/router"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/hooks/events"
	"github.com/mambahost/mamba/hooks/jobs"
	"github.com/mambahost/mamba/hooks/tenancy"
)

// States of an export.
const (
	exportRunning = "RUNNING"
	exportReady   = "READY"
	exportFailed  = "FAILED"
)

// Bounds of exports.
const (
	exportJob       = "ExportTenant"
	exportLife      = 7 * 24 * time.Hour // of an archive
	maxExportsADay  = 5                  // of a tenant
	partBytes       = 1 << 20            // of an archive in one row
	maxArchive      = 4 << 30            // bytes
	expireAtOnce    = 50                 // archives in one hour
	exportsShown    = 50
	purposeDownload = "download"
	downloadHeader  = "X-Download-Token" // not a header that anything logs, and no URL
	downloadTTL     = 60 * time.Second
	askAgain        = 500 * time.Millisecond // a download asks whether it still may
	pieceBytes      = 64 << 10               // written at once
)

func (c *Compliance) handleExport() {
	c.Jobs.Handle(exportJob, jobs.Options{MaxAttempts: 4, BackoffMin: 5 * time.Second, BackoffMax: 5 * time.Minute, Timeout: time.Hour, AtOnce: 2}, c.export, c.exportGivenUp)
	c.Jobs.Cron("compliance.expire", "20 * * * *", jobs.Skip, c.Expire)
}

// Routes registers the routes of exports, and of the end of an account, on the group of /api/v1.
func (c *Compliance) Routes(g *router.RouterGroup[*core.RequestEvent]) {
	g.DELETE("/account", c.deleteAccount)
	g.POST("/tenants/{id}/export", c.ask)
	g.GET("/tenants/{id}/exports", c.list)
	g.POST("/tenants/{id}/exports/{export}/token", c.token)
	g.GET("/tenants/{id}/exports/{export}/download", c.download)
}

// view is an export as its organisation sees it.
func view(x *collections.Export) map[string]any {
	v := map[string]any{"id": x.Id, "status": x.Status(), "bytes": x.Bytes(), "created": x.Created().UTC().Format(time.RFC3339),
		"finished_at": nil, "expires_at": x.ExpiresAt().UTC().Format(time.RFC3339), "rev": x.Rev()}
	if !x.FinishedAt().IsZero() {
		v["finished_at"] = x.FinishedAt().UTC().Format(time.RFC3339)
	}
	return v
}

// asked returns who asks and the tenant of the path, if he may take all of it along.
func (c *Compliance) asked(e *core.RequestEvent) (access.Actor, *collections.Tenant, error) {
	a, err := access.From(e)
	if err != nil {
		return a, nil, err
	}
	row, err := c.Tenancy.Find(e.App, a, e.Request.PathValue("id"))
	if err != nil {
		return a, nil, err
	}
	return a, row, c.may(e.App, a, row.Id)
}

func (c *Compliance) may(app core.App, a access.Actor, tenant string) error {
	return c.Tenancy.Can(app, a, "tenant.export", tenancy.Resource{Tenant: tenant})
}

func noExport() *access.Error {
	return access.NotFound("export_not_found", "There is no such archive, or it has expired. Please ask for a new one.")
}

// ask begins an export.
func (c *Compliance) ask(e *core.RequestEvent) error {
	a, row, err := c.asked(e)
	if err != nil {
		return err
	}
	body, err := access.Body(e)
	if err != nil {
		return err
	}
	return c.Access.Idempotent(e, a, row.Id, body, []collections.Lock{tenancy.Lock(row.Id), audit.Lock(row.Id)}, func(tx core.App) (int, any, error) {
		if err := c.may(tx, a, row.Id); err != nil {
			return 0, nil, err
		}
		if err := c.room(tx, row.Id, time.Now()); err != nil {
			return 0, nil, err
		}
		x, err := collections.NewExport(tx)
		if err != nil {
			return 0, nil, err
		}
		x.SetTenant(row.Id)
		x.SetUser(a.ID)
		x.SetStatus(exportRunning)
		x.SetExpiresAt(time.Now().Add(exportLife))
		x.SetRev(1)
		if err := permit.Save(tx, x); err != nil {
			return 0, nil, fmt.Errorf("store an export of tenant %s: %w", row.Id, err)
		}
		if err := c.tell(tx, a, x, "export.create", "tenant.export_asked"); err != nil {
			return 0, nil, err
		}
		_, err = c.Jobs.Enqueue(tx, jobs.Job{Kind: exportJob, Tenant: row.Id, Subject: x.Id, UniqueKey: exportJob + ":" + x.Id, GroupKey: exportJob + ":" + row.Id})
		return http.StatusAccepted, view(x), err
	})
}

// room refuses an export while one runs, and more of them in a day than make sense.
func (c *Compliance) room(tx core.App, tenant string, now time.Time) error {
	running, err := tx.CountRecords(collections.Exports, dbx.HashExp{"tenant": tenant, "status": exportRunning})
	if err != nil {
		return fmt.Errorf("count the exports of tenant %s: %w", tenant, err)
	}
	if running > 0 {
		return access.Conflict("export_running", "An archive is being made already. You are told when it is ready.")
	}
	recent, err := collections.Every[collections.Export](tx, collections.Exports, "created DESC", maxExportsADay,
		dbx.HashExp{"tenant": tenant}, dbx.NewExp("[[created]] > {:day}", dbx.Params{"day": collections.Stamp(now.Add(-24 * time.Hour))}))
	if err != nil {
		return fmt.Errorf("list the exports of tenant %s: %w", tenant, err)
	}
	if len(recent) >= maxExportsADay {
		wait := recent[len(recent)-1].Created().Add(24 * time.Hour).Sub(now)
		return access.TooMany("export_limit", fmt.Sprintf("%d archives were made within a day, which is as many as may be. Please use one of those.", maxExportsADay), wait)
	}
	return nil
}

// tell writes the audit row and the event of something about an export, and has browsers look.
func (c *Compliance) tell(tx core.App, a access.Actor, x *collections.Export, action, kind string) error {
	err := c.Audit.Write(tx, a.Audit(), audit.Entry{Tenant: x.Tenant(), Action: action, ResourceType: collections.Exports, Resource: x.Id, Metadata: map[string]any{"bytes": x.Bytes()}})
	if err != nil {
		return err
	}
	err = c.Events.Emit(tx, events.Event{Kind: kind, Tenant: x.Tenant(), SubjectType: "users", Subject: x.User(), Actor: a.ID, ActorType: a.Type, ActorName: a.Name,
		Payload: map[string]any{"export": x.Id}})
	if err != nil {
		return err
	}
	c.show(tx, x)
	return nil
}

func (c *Compliance) show(tx core.App, x *collections.Export) {
	c.Events.Broadcast(tx, x.Tenant(), events.Message{Type: "export", ID: x.Id, Rev: x.Rev()})
}

func (c *Compliance) list(e *core.RequestEvent) error {
	_, row, err := c.asked(e)
	if err != nil {
		return err
	}
	rows, err := collections.Every[collections.Export](e.App, collections.Exports, "created DESC, id", exportsShown,
		dbx.HashExp{"tenant": row.Id}, dbx.NewExp("[[expires_at]] > {:now}", dbx.Params{"now": collections.Stamp(time.Now())}))
	if err != nil {
		return fmt.Errorf("list the exports of tenant %s: %w", row.Id, err)
	}
	items := []map[string]any{}
	for _, x := range rows {
		items = append(items, view(x))
	}
	return e.JSON(http.StatusOK, map[string]any{"items": items})
}

// ready finds an archive of a tenant that can be downloaded; 404.
func ready(app core.App, tenant, id string) (*collections.Export, error) {
	x, err := collections.FindExport(app, id)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("find the export %s: %w", id, err)
	}
	if err != nil || x.Tenant() != tenant || x.Status() != exportReady || !time.Now().Before(x.ExpiresAt()) {
		return nil, noExport()
	}
	return x, nil
}

// token is for one download within a minute.
func (c *Compliance) token(e *core.RequestEvent) error {
	a, row, err := c.asked(e)
	if err != nil {
		return err
	}
	x, err := ready(e.App, row.Id, e.Request.PathValue("export"))
	if err != nil {
		return err
	}
	token, expires, err := c.Access.Mint(a, purposeDownload, x.Id, row.Id, downloadTTL, true)
	if err != nil {
		return err
	}
	return e.JSON(http.StatusOK, map[string]any{"token": token, "expires_at": expires})
}

// download sends an archive to whoever has a token for it and still may.
func (c *Compliance) download(e *core.RequestEvent) error {
	token := e.Request.Header.Get(downloadHeader)
	if token == "" {
		return access.Unauthenticated("unauthenticated", "This download needs a token in the header "+downloadHeader+".")
	}
	a, claims, err := c.Access.Redeem(e, token, purposeDownload, e.Request.PathValue("export"))
	if err != nil {
		return err
	}
	row, err := c.Tenancy.Find(e.App, a, e.Request.PathValue("id"))
	if err != nil {
		return err
	}
	if row.Id != claims.Tenant {
		return noExport()
	}
	if err := c.may(e.App, a, row.Id); err != nil {
		return err
	}
	x, err := ready(e.App, row.Id, claims.Resource)
	if err != nil {
		return err
	}
	err = collections.Tx(e.App, []collections.Lock{audit.Lock(row.Id)}, func(tx core.App) error {
		return c.tell(tx, a, x, "export.download", "tenant.export_downloaded")
	})
	if err != nil {
		return err
	}
	h := e.Response.Header()
	h.Set("Content-Type", "application/zip")
	h.Set("Content-Length", fmt.Sprint(x.Bytes()))
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Disposition", fmt.Sprintf(`attachment; filename="%s-%s.zip"`, row.Slug(), x.Created().UTC().Format(time.DateOnly)))
	e.Response.WriteHeader(http.StatusOK)
	return c.send(e, x, func() error {
		if err := a.Still(e.App); err != nil {
			return err
		}
		return c.may(e.App, a, row.Id)
	})
}

// stopwatch is how long a download may wait for its reader.
type stopwatch struct {
	rc   *http.ResponseController
	each time.Duration
	mu   sync.Mutex
	over bool // guarded by mu
}

// next gives the next piece its time; errEnded after end.
func (s *stopwatch) next() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return errEnded
	}
	if err := s.rc.SetWriteDeadline(time.Now().Add(s.each)); !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

// end has a write that waits return, and no other begin.
func (s *stopwatch) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	_ = s.rc.SetWriteDeadline(time.Unix(1, 0))
}

// send writes the parts of an archive, and asks meanwhile whether its reader still may: his right may end while a slow
// reader waits. One who takes nothing is not waited for. What fails now cuts the file off, which its reader sees by its length.
func (c *Compliance) send(e *core.RequestEvent, x *collections.Export, may func() error) error {
	watch := &stopwatch{rc: http.NewResponseController(e.Response), each: c.Stall}
	sent, asked := make(chan struct{}), make(chan struct{})
	var refused error
	go func() { // ends with this function, which waits for it
		defer close(asked)
		again := time.NewTicker(askAgain)
		defer again.Stop()
		for {
			select {
			case <-sent:
				return
			case <-again.C:
			}
			if refused = may(); refused != nil {
				watch.end()
				return
			}
		}
	}()
	err := c.sendParts(e, x, watch)
	close(sent)
	<-asked
	return errors.Join(refused, err)
}

// sendParts writes until the archive or the right to it ends.
func (c *Compliance) sendParts(e *core.RequestEvent, x *collections.Export, watch *stopwatch) error {
	for i := range x.Parts() {
		part, err := collections.One[collections.ExportPart](e.App, collections.ExportParts, dbx.HashExp{"export": x.Id, "number": i, "tenant": x.Tenant()})
		if err != nil {
			return fmt.Errorf("read part %d of export %s: %w", i, x.Id, err)
		}
		raw, err := base64.StdEncoding.DecodeString(part.Data())
		if err != nil {
			return fmt.Errorf("decode part %d of export %s: %w", i, x.Id, err)
		}
		for piece := range slices.Chunk(raw, pieceBytes) {
			if err := watch.next(); err != nil {
				return err
			}
			if _, err := e.Response.Write(piece); err != nil {
				return err
			}
		}
	}
	return nil
}

var errEnded = errors.New("the right to the archive ended while it was sent")

// export makes an archive. An attempt begins anew: half of a zip file is of no use.
func (c *Compliance) export(ctx context.Context, r *jobs.Run) error {
	x, err := collections.FindExport(c.App, r.Job().Subject())
	if errors.Is(err, sql.ErrNoRows) || err == nil && x.Status() != exportRunning {
		return nil
	}
	if err != nil {
		return err
	}
	if err := r.Tx(nil, func(tx core.App) error { return dropParts(tx, x.Id) }); err != nil {
		return err
	}
	w := &partWriter{r: r, export: x.Id, tenant: x.Tenant(), sum: sha256.New()}
	err = c.archive(ctx, w, x.Tenant(), func(done, all int) { r.Progress("rows", 95*done/all, "Writing the archive") })
	if err == nil {
		err = w.flush()
	}
	if err != nil {
		return err
	}
	return r.Tx([]collections.Lock{tenancy.Lock(x.Tenant())}, func(tx core.App) error {
		now, err := collections.FindExport(tx, x.Id)
		if err != nil {
			return err
		}
		now.SetStatus(exportReady)
		now.SetBytes(w.bytes)
		now.SetParts(w.number)
		now.SetDigest(hex.EncodeToString(w.sum.Sum(nil)))
		now.SetFinishedAt(time.Now())
		now.SetExpiresAt(time.Now().Add(exportLife))
		now.SetRev(now.Rev() + 1)
		if err := permit.Save(tx, now); err != nil {
			return fmt.Errorf("finish export %s: %w", x.Id, err)
		}
		c.show(tx, now)
		if _, err := tx.FindRecordById("users", x.User()); err != nil {
			return nil // an operator looks at the list
		}
		return c.Events.Emit(tx, events.Event{Kind: "tenant.export_ready", Tenant: x.Tenant(), SubjectType: "users", Subject: x.User(), Payload: map[string]any{"export": x.Id}})
	})
}

// exportGivenUp is the undo of an export.
func (c *Compliance) exportGivenUp(tx core.App, r *jobs.Run, _ error) error {
	x, err := collections.FindExport(tx, r.Job().Subject())
	if errors.Is(err, sql.ErrNoRows) || err == nil && x.Status() != exportRunning {
		return nil
	}
	if err == nil {
		err = dropParts(tx, x.Id)
	}
	if err != nil {
		return err
	}
	x.SetStatus(exportFailed)
	x.SetFinishedAt(time.Now())
	x.SetRev(x.Rev() + 1)
	if err := permit.Save(tx, x); err != nil {
		return fmt.Errorf("give up export %s: %w", x.Id, err)
	}
	c.show(tx, x)
	return nil
}

func dropParts(tx core.App, export string) error {
	if _, err := tx.NonconcurrentDB().Delete(collections.ExportParts, dbx.HashExp{"export": export}).Execute(); err != nil {
		return fmt.Errorf("remove the parts of export %s: %w", export, err)
	}
	return nil
}

// Expire removes archives whose time is over.
func (c *Compliance) Expire(tx core.App, now time.Time) error {
	old, err := collections.Every[collections.Export](tx, collections.Exports, "expires_at", expireAtOnce,
		dbx.Not(dbx.HashExp{"status": exportRunning}), dbx.NewExp("[[expires_at]] <= {:now}", dbx.Params{"now": collections.Stamp(now)}))
	if err != nil {
		return fmt.Errorf("list expired exports: %w", err)
	}
	for _, x := range old {
		if err := dropParts(tx, x.Id); err != nil {
			return err
		}
		if err := permit.Delete(tx, x); err != nil {
			return fmt.Errorf("remove export %s: %w", x.Id, err)
		}
	}
	return nil
}

// partWriter puts an archive into rows as it is made. A job that lost its lease writes nothing.
type partWriter struct {
	r              *jobs.Run
	export, tenant string
	number, bytes  int64
	sum            hash.Hash
	rest           []byte
}

var errTooLarge = errors.New("the archive is larger than what is kept in the database")

func (w *partWriter) Write(p []byte) (int, error) {
	w.rest = append(w.rest, p...)
	for len(w.rest) >= partBytes {
		if err := w.put(w.rest[:partBytes]); err != nil {
			return 0, err
		}
		w.rest = append(w.rest[:0], w.rest[partBytes:]...)
	}
	return len(p), nil
}

// flush puts what is left.
func (w *partWriter) flush() error {
	if len(w.rest) == 0 {
		return nil
	}
	rest := w.rest
	w.rest = nil
	return w.put(rest)
}

func (w *partWriter) put(raw []byte) error {
	if w.bytes+int64(len(raw)) > maxArchive {
		return jobs.Permanent(errTooLarge)
	}
	err := w.r.Tx(nil, func(tx core.App) error {
		row, err := collections.NewExportPart(tx)
		if err != nil {
			return err
		}
		row.SetTenant(w.tenant)
		row.SetExport(w.export)
		row.SetNumber(w.number)
		row.SetData(base64.StdEncoding.EncodeToString(raw))
		return permit.Save(tx, row)
	})
	if err != nil {
		return fmt.Errorf("store part %d of export %s: %w", w.number, w.export, err)
	}
	w.sum.Write(raw)
	w.number++
	w.bytes += int64(len(raw))
	return nil
}
