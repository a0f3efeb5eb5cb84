package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"golang.org/x/sync/errgroup"
)

// inspectParallel bounds the inspections that one List has under way.
const inspectParallel = 8

// A name is reserved before its container can be looked up. Who meets the name in between waits
// createRetry and looks again, createTries times (10 s: a create on a busy disk takes less than 2).
const (
	createTries = 100
	createRetry = 100 * time.Millisecond
)

// Create implements Engine.
func (d *Docker) Create(ctx context.Context, _ string, spec ContainerSpec) (string, error) {
	what := "create container " + spec.Name
	for range createTries {
		id, err := d.adopt(ctx, spec)
		if errors.Is(err, ErrNotFound) {
			id, err = d.create(ctx, spec)
		}
		if !errdefs.IsConflict(err) {
			return id, prefixed(what, err)
		}
		timer := time.NewTimer(createRetry) // being made meanwhile, perhaps by a call of ours whose reply was lost
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return "", fmt.Errorf("%s: %w", what, ctx.Err())
		}
	}
	return "", fmt.Errorf("%s: its name is reserved but there is no container", what)
}

// create makes the container. The error is errdefs' conflict when the name is taken.
func (d *Docker) create(ctx context.Context, spec ContainerSpec) (string, error) {
	image, err := d.cli.ImageInspect(ctx, spec.ImageID)
	if errdefs.IsNotFound(err) {
		return "", fmt.Errorf("%w: %w", ErrImageUnavailable, err)
	}
	if err != nil {
		return "", fmt.Errorf("look at image %s: %w", spec.ImageID, err)
	}
	var volumes map[string]struct{}
	if image.Config != nil {
		volumes = image.Config.Volumes
	}
	opts, err := createOptions(spec, d.cfg.NodeLabel, volumes)
	if err != nil {
		return "", err
	}
	res, err := d.cli.ContainerCreate(ctx, opts)
	if errdefs.IsNotFound(err) { // the image went between the two calls
		return "", fmt.Errorf("%w: %w", ErrImageUnavailable, err)
	}
	if err != nil {
		return "", err
	}
	for _, warning := range res.Warnings {
		d.warnOnce(warning)
	}
	return res.ID, nil
}

// adopt returns the container of spec's name if it is the one that spec asks for. ErrNotFound when
// there is none, ErrConflict when it is another.
func (d *Docker) adopt(ctx context.Context, spec ContainerSpec) (string, error) {
	res, err := d.cli.ContainerInspect(ctx, spec.Name, client.ContainerInspectOptions{})
	if err != nil {
		return "", mapped("look it up", err)
	}
	have := res.Container.Config.Labels
	if have[LabelSpec] != spec.Hash() || have[LabelNode] != d.cfg.NodeLabel {
		return "", fmt.Errorf("%w: container %.12s has spec %q of node %q",
			ErrConflict, res.Container.ID, have[LabelSpec], have[LabelNode])
	}
	return res.Container.ID, nil
}

// Start implements Engine. A tenant's network that is gone, e.g. by an operator's `docker network
// prune` while the server was stopped, is made again.
func (d *Docker) Start(ctx context.Context, _ string, id string) error {
	what := fmt.Sprintf("start container %.12s", id)
	if err := d.guard(ctx); err != nil {
		return prefixed(what, err)
	}
	_, err := d.cli.ContainerStart(ctx, id, client.ContainerStartOptions{})
	if errdefs.IsNotFound(err) {
		healed, herr := d.healNetwork(ctx, id)
		if herr != nil {
			return prefixed(what, herr)
		}
		if healed {
			_, err = d.cli.ContainerStart(ctx, id, client.ContainerStartOptions{})
		}
	}
	switch {
	case err == nil:
		return nil
	case isPortTaken(err):
		return fmt.Errorf("%s: %w: %w", what, ErrPortTaken, err)
	default:
		return mapped(what, err)
	}
}

// Signal implements Engine.
func (d *Docker) Signal(ctx context.Context, _ string, id, signal string) error {
	what := fmt.Sprintf("send %s to container %.12s", signal, id)
	_, err := d.cli.ContainerKill(ctx, id, client.ContainerKillOptions{Signal: signal})
	if errdefs.IsConflict(err) {
		return fmt.Errorf("%s: %w: %w", what, ErrNotRunning, err)
	}
	return mapped(what, err)
}

// Remove implements Engine. It returns when the container is gone, also when another call is
// already removing it.
func (d *Docker) Remove(ctx context.Context, _ string, id string) error {
	what := fmt.Sprintf("remove container %.12s", id)
	_, err := d.cli.ContainerRemove(ctx, id, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	if errdefs.IsConflict(err) { // a removal is in progress
		res := d.cli.ContainerWait(ctx, id, client.ContainerWaitOptions{Condition: container.WaitConditionRemoved})
		select {
		case <-res.Result:
			return nil
		case err = <-res.Error:
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if errdefs.IsNotFound(err) {
		return nil
	}
	return mapped(what, err)
}

// Inspect implements Engine.
func (d *Docker) Inspect(ctx context.Context, _ string, idOrName string) (Container, error) {
	res, err := d.cli.ContainerInspect(ctx, idOrName, client.ContainerInspectOptions{})
	if err != nil {
		return Container{}, mapped("inspect container "+idOrName, err)
	}
	return described(res.Container)
}

// List implements Engine. A container that goes while the list is made is left out.
func (d *Docker) List(ctx context.Context, op string) ([]Container, error) {
	filters := make(client.Filters).Add("label", LabelServer, LabelNode+"="+d.cfg.NodeLabel)
	res, err := d.cli.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: filters})
	if err != nil {
		return nil, mapped("list containers", err)
	}
	found := make([]Container, len(res.Items))
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(inspectParallel)
	for i, item := range res.Items {
		group.Go(func() error {
			c, err := d.Inspect(gctx, op, item.ID)
			if errors.Is(err, ErrNotFound) {
				return nil
			}
			found[i] = c
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(found, func(c Container) bool { return c.ID == "" }), nil
}

// described turns the API's answer into ours.
func described(in container.InspectResponse) (Container, error) {
	c := Container{ID: in.ID, Name: strings.TrimPrefix(in.Name, "/")}
	if in.Config == nil || in.State == nil {
		return Container{}, fmt.Errorf("inspect container %s: the engine's answer has no state", in.ID)
	}
	have := in.Config.Labels
	c.ServerID, c.TenantID, c.SpecHash, c.Role = have[LabelServer], have[LabelTenant], have[LabelSpec], Role(have[LabelRole])
	if raw, ok := have[LabelEpoch]; ok {
		epoch, err := strconv.ParseInt(raw, 10, 64)
		if err != nil {
			return Container{}, fmt.Errorf("inspect container %s: label %s: %w", c.Name, LabelEpoch, err)
		}
		c.Epoch = epoch
	}
	c.Running = in.State.Running
	c.StartedAt = engineTime(in.State.StartedAt)
	if !c.Running && (!c.StartedAt.IsZero() || in.State.Error != "") {
		c.Exit = Exit{
			Code: in.State.ExitCode, OOMKilled: in.State.OOMKilled,
			At: engineTime(in.State.FinishedAt), Reason: in.State.Error,
		}
		if c.Exit.At.Before(c.StartedAt) {
			// dockerd stamps the start when it hears of it, the end is the shim's own time: a run of
			// a few ms was seen to end 1 ms before it began.
			c.Exit.At = c.StartedAt
		}
	}
	return c, nil
}

// engineTime parses an API time. What never happened is year 1, which is Go's zero time too.
func engineTime(raw string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, raw)
	if err != nil {
		return time.Time{}
	}
	return t
}

// The kernel tells dockerd of an out-of-memory kill apart from the exit that it causes, and the
// first may come second. oomGrace bounds how long Wait looks again after an exit by SIGKILL.
const (
	oomGrace    = 250 * time.Millisecond
	oomInterval = 50 * time.Millisecond
	codeSIGKILL = 137 // 128 + 9
)

// Wait implements Engine.
func (d *Docker) Wait(ctx context.Context, _ string, id string) (Exit, error) {
	what := fmt.Sprintf("wait for container %.12s", id)
	wctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the client's reader when we return early
	res := d.cli.ContainerWait(wctx, id, client.ContainerWaitOptions{Condition: container.WaitConditionNotRunning})
	var code int
	select {
	case r := <-res.Result:
		code = int(r.StatusCode)
	case err := <-res.Error:
		return Exit{}, mapped(what, errors.Join(ctx.Err(), err))
	case <-ctx.Done():
		return Exit{}, mapped(what, ctx.Err())
	case <-d.life.Done():
		return Exit{}, mapped(what, errClosed)
	}
	exit, err := d.exitOf(ctx, id, code)
	for waited := time.Duration(0); err == nil && exit.Code == codeSIGKILL && !exit.OOMKilled && waited < oomGrace; waited += oomInterval {
		timer := time.NewTimer(oomInterval)
		select {
		case <-timer.C:
			exit, err = d.exitOf(ctx, id, code)
		case <-ctx.Done():
			timer.Stop()
			err = ctx.Err()
		}
	}
	return exit, mapped(what, err)
}

// confirmTimeout bounds how long an engine may take to say on a new connection how a run ended. One
// that ends behind a socket of systemd's accepts nothing more but lets callers queue.
const confirmTimeout = 5 * time.Second

// exitOf reads how the run ended that ended with code. If the container is gone or runs again, the
// code is all that is known. It fails when the engine is going away: without live-restore it ends its
// games before it ends itself, and that is not the games' doing.
func (d *Docker) exitOf(ctx context.Context, id string, code int) (Exit, error) {
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	res, err := d.fresh.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if errdefs.IsNotFound(err) {
		return Exit{Code: code, At: time.Now()}, nil
	}
	if err != nil {
		return Exit{}, err
	}
	c, err := described(res.Container)
	if err != nil {
		return Exit{}, err
	}
	if c.Running {
		return Exit{Code: code, At: c.StartedAt}, nil
	}
	return c.Exit, nil
}

// prefixed wraps err, which has its sentinel already, with what we did.
func prefixed(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
