package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/client"

	"github.com/mambahost/mamba/wings/wire"
)

// flight is one pull or build of an image that any number of callers wait for. It ends when it is
// done or the last caller has left.
type flight struct {
	cancel   context.CancelFunc
	callers  map[chan progressReport]struct{} // guarded by Docker.mu; one per caller
	done     chan struct{}                    // closed when id and err are valid
	id       string
	err      error
	progress progressReport // newest, for who joins late; guarded by Docker.mu
}

// progressReport is what EnsureImage's progress is called with.
type progressReport struct {
	percent int // −1: unknown
	message string
}

// EnsureImage implements Engine. progress is called on the caller's own goroutine and may be nil.
func (d *Docker) EnsureImage(ctx context.Context, _ string, image wire.Image, progress func(int, string)) (string, error) {
	name := image.Ref
	fetch := d.pull
	if image.Builtin != "" {
		var err error
		if name, err = d.builtinName(image.Builtin); err != nil {
			return "", fmt.Errorf("find builtin image %s: %w", image.Builtin, err)
		}
		fetch = d.makeBuiltin
	}
	// The name becomes a part of the API's paths, so what is not a reference must not get there.
	if _, err := reference.ParseAnyReference(name); err != nil {
		return "", fmt.Errorf("image %q: %w: %w", name, ErrImageUnavailable, err)
	}
	id, err := d.imageID(ctx, name)
	if errdefs.IsInvalidArgument(err) { // a reference to us, none to the engine
		return "", fmt.Errorf("look for image %s: %w: %w", name, ErrImageUnavailable, err)
	}
	if err == nil || !errdefs.IsNotFound(err) {
		return id, prefixed("look for image "+name, err)
	}
	f, updates, err := d.join(name, fetch)
	if err != nil {
		return "", err
	}
	defer d.leave(name, f, updates)
	for {
		select {
		case <-f.done:
			return f.id, f.err
		case <-ctx.Done():
			return "", fmt.Errorf("get image %s: %w", name, ctx.Err())
		case p := <-updates:
			if progress != nil {
				progress(p.percent, p.message)
			}
		}
	}
}

func (d *Docker) imageID(ctx context.Context, name string) (string, error) {
	res, err := d.cli.ImageInspect(ctx, name)
	if err != nil {
		return "", err
	}
	return res.ID, nil
}

// fetcher gets the image of name onto the node and returns its id.
type fetcher func(ctx context.Context, name string, report func(percent int, message string)) (string, error)

// join enters the flight of name, or begins it.
func (d *Docker) join(name string, fetch fetcher) (*flight, chan progressReport, error) {
	updates := make(chan progressReport, 1) // only the latest matters
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, nil, errClosed
	}
	f := d.flights[name]
	if f == nil {
		ctx, cancel := context.WithTimeoutCause(d.life, d.cfg.PullTimeout, errPullTimeout)
		f = &flight{cancel: cancel, callers: map[chan progressReport]struct{}{}, done: make(chan struct{})}
		f.progress = progressReport{percent: -1}
		d.flights[name] = f
		d.work.Go(func() {
			defer cancel()
			f.id, f.err = fetch(ctx, name, func(percent int, message string) {
				d.report(f, progressReport{percent, message})
			})
			d.mu.Lock()
			d.forget(name, f)
			d.mu.Unlock()
			close(f.done)
		})
	} else if f.progress.message != "" {
		updates <- f.progress
	}
	f.callers[updates] = struct{}{}
	return f, updates, nil
}

// leave takes a caller out of the flight and ends it when nobody waits any more.
func (d *Docker) leave(name string, f *flight, updates chan progressReport) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(f.callers, updates)
	if len(f.callers) == 0 {
		f.cancel()
		d.forget(name, f) // who comes now must not join one that is ending
	}
}

// forget is called with d.mu held.
func (d *Docker) forget(name string, f *flight) {
	if d.flights[name] == f {
		delete(d.flights, name)
	}
}

func (d *Docker) report(f *flight, p progressReport) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f.progress = p
	for updates := range f.callers {
		select {
		case <-updates: // the older report, not yet taken
		default:
		}
		updates <- p // cannot block: this is the only sender, under d.mu
	}
}

var errPullTimeout = errors.New("engine: the pull took too long")

// pull asks the engine to pull name. Whatever the registry, the network to it or the image's name
// are at fault for is ErrImageUnavailable; that the engine went away is not.
func (d *Docker) pull(ctx context.Context, name string, report func(int, string)) (string, error) {
	unavailable := func(err error) error {
		return fmt.Errorf("pull image %s: %w: %w", name, ErrImageUnavailable, err)
	}
	res, err := d.cli.ImagePull(ctx, name, client.ImagePullOptions{})
	if err != nil {
		if errors.Is(context.Cause(ctx), errPullTimeout) {
			return "", unavailable(errPullTimeout)
		}
		if ctx.Err() == nil && answered(err) {
			return "", unavailable(err)
		}
		return "", fmt.Errorf("pull image %s: %w", name, err)
	}
	defer res.Close()
	tracker := newPullTracker(report)
	for msg, err := range res.JSONMessages(ctx) {
		if errors.Is(context.Cause(ctx), errPullTimeout) {
			return "", unavailable(errPullTimeout)
		}
		if err != nil { // the engine's answer broke off
			return "", fmt.Errorf("pull image %s: %w", name, errors.Join(ctx.Err(), err))
		}
		if msg.Error != nil {
			return "", unavailable(msg.Error)
		}
		tracker.see(msg)
	}
	if err := ctx.Err(); err != nil {
		return "", fmt.Errorf("pull image %s: %w", name, err)
	}
	id, err := d.imageID(ctx, name)
	return id, mapped("look for image "+name+" after its pull", err)
}

// answered reports whether err is the engine's answer rather than a failure to get one.
func answered(err error) bool {
	return errdefs.IsNotFound(err) || errdefs.IsInvalidArgument(err) || errdefs.IsInternal(err) ||
		errdefs.IsPermissionDenied(err) || errdefs.IsUnauthorized(err) || errdefs.IsConflict(err) ||
		errdefs.IsUnavailable(err) || errdefs.IsResourceExhausted(err) || errdefs.IsNotImplemented(err)
}
